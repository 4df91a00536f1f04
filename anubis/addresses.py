"""Control addresses, derived from control public keys.

Knowing a key is all the configuration there is: a domain-separated hash of it gives 64 bits that
serve as interface identifier in two prefixes. Owns that derivation (`docs/protocol.md`, "Control
addresses"); refuses to know interfaces.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from anubis.wireguard.keys import PublicKey

__all__ = ["CONTROL_PREFIX", "LINK_LOCAL_PREFIX", "ControlAddresses", "control_addresses"]

CONTROL_PREFIX = IPv6Network("fd61:6e75:6269:7300::/64")  # "anubis" in the ULA of RFC 4193
LINK_LOCAL_PREFIX = IPv6Network("fe80::/64")
_LABEL = b"anubis control address v1"


@dataclass(frozen=True, slots=True)
class ControlAddresses:
    """The two addresses of one host on the control plane, with the same interface identifier."""

    routable: IPv6Address
    link_local: IPv6Address

    def networks(self) -> frozenset[IPv6Network]:
        """Return the two /128 that are the control peer's AllowedIPs."""
        return frozenset({IPv6Network(self.routable), IPv6Network(self.link_local)})


def control_addresses(control_public_key: PublicKey) -> ControlAddresses:
    """Derive a host's control addresses from its control public key (32 bytes).

    The identifier is BLAKE2s-64(key = label, message = public key): a hash with an 8-byte output.
    """
    digest = hashlib.blake2s(bytes(control_public_key), digest_size=8, key=_LABEL).digest()
    return ControlAddresses(
        routable=IPv6Address(CONTROL_PREFIX.network_address.packed[:8] + digest),
        link_local=IPv6Address(LINK_LOCAL_PREFIX.network_address.packed[:8] + digest),
    )
