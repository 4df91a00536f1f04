"""WireGuard interfaces and peers as plain values: what is there, and what should change.

`Device` and `Peer` are observations; `DeviceChange` and `PeerChange` are wishes. In a change,
None leaves a thing as it is. Owns the vocabulary; refuses to know how a kernel is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from anubis.wireguard.keys import PresharedKey, PrivateKey, PublicKey

__all__ = ["Device", "DeviceChange", "Endpoint", "IPAddress", "IPNetwork", "Peer", "PeerChange"]

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer's bearer packets go. Addresses only: names are resolved elsewhere."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        if self.address.version == 6:
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as an interface reports it. Its preshared key is not read out."""

    public_key: PublicKey
    endpoint: Endpoint | None = None
    allowed_ips: frozenset[IPNetwork] = frozenset()
    persistent_keepalive: int = 0  # seconds; 0 is off
    last_handshake: float = 0.0  # seconds since the epoch; 0 means never
    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """An interface as it is. Its private key is not read out; the public one tells whose it is."""

    name: str
    public_key: PublicKey | None
    listen_port: int
    fwmark: int
    peers: tuple[Peer, ...] = ()

    def peer(self, public_key: PublicKey) -> Peer | None:
        """Return the peer with this key, or None."""
        return next((peer for peer in self.peers if peer.public_key == public_key), None)


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What should become of one peer.

    `allowed_ips` None leaves them; a set replaces them (an empty set takes all away).
    `replace` removes the peer first, which also forgets its session and its handshake timers, so
    it cannot be combined with `update_only`. `remove` makes all other fields meaningless.
    A preshared key of 32 zero bytes takes the preshared key away.
    """

    public_key: PublicKey
    remove: bool = False
    replace: bool = False
    update_only: bool = False
    preshared_key: PresharedKey | None = None
    endpoint: Endpoint | None = None
    persistent_keepalive: int | None = None  # seconds; 0 switches it off
    allowed_ips: frozenset[IPNetwork] | None = None

    def __post_init__(self) -> None:
        if self.replace and self.update_only:
            raise ValueError("a peer change is either replace or update_only")


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """What should become of an interface and of the peers that are named; others stay.

    Changes of peers are applied in order. A private key of 32 zero bytes takes the key away.
    WireGuard ignores a peer whose key is the interface's own, and so does every backend.
    """

    private_key: PrivateKey | None = None
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: tuple[PeerChange, ...] = ()
