"""A peer while it is being read, from whichever side.

Both the userspace protocol and netlink report a peer piece by piece; this owns the pieces, and
refuses to know in what form they came.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import Endpoint, IPNetwork, Peer

__all__ = ["PeerDraft"]


@dataclass(slots=True)
class PeerDraft:
    """The mutable counterpart of `Peer`."""

    public_key: PublicKey
    endpoint: Endpoint | None = None
    allowed_ips: set[IPNetwork] = field(default_factory=set)
    persistent_keepalive: int = 0  # seconds
    handshake_seconds: int = 0  # since the epoch
    handshake_nanoseconds: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0

    def peer(self) -> Peer:
        """Return the finished value."""
        return Peer(
            public_key=self.public_key,
            endpoint=self.endpoint,
            allowed_ips=frozenset(self.allowed_ips),
            persistent_keepalive=self.persistent_keepalive,
            last_handshake=self.handshake_seconds + self.handshake_nanoseconds / 1e9,
            rx_bytes=self.rx_bytes,
            tx_bytes=self.tx_bytes,
        )
