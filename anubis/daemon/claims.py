"""Whose AllowedIPs are whose: WireGuard gives them silently to whoever claimed them last. Pure.

Owns the check before a peer gets its networks, and the way back. Refuses to touch a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from anubis.errors import LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import Device, PeerChange

__all__ = ["check_claim", "check_granted", "restored"]


def check_claim(
    entry: AuthorizedPeer, device: Device, ours: Mapping[str, PublicKey], rivals: Set[PublicKey]
) -> None:
    """Raise LocalFailure if a peer is not ours, or would take networks from one not a rival.

    `ours` are the peers that Anubis put there, by connection.
    """
    if entry.name not in ours and device.peer(entry.public_key) is not None:
        raise LocalFailure(
            f"{entry.name} is a peer of {device.name} already, configured by other means",
            f"wg set {device.name} peer {entry.public_key} remove",
        )
    for other in device.peers:
        shared = other.allowed_ips & entry.allowed_ips
        if shared and other.public_key != entry.public_key and other.public_key not in rivals:
            names = {key: name for name, key in ours.items()}
            holder = names.get(other.public_key, str(other.public_key))
            raise LocalFailure(
                f"{', '.join(sorted(map(str, shared)))} on {device.name} belongs to the peer"
                f" {holder}",
                "two peers of an interface cannot have the same AllowedIPs",
            )


def check_granted(entry: AuthorizedPeer, device: Device) -> None:
    """Raise LocalFailure if WireGuard did not give a peer what it was told to."""
    peer = device.peer(entry.public_key)
    missing = entry.allowed_ips - (peer.allowed_ips if peer else frozenset())
    if missing:
        raise LocalFailure(
            f"{device.name} did not take {', '.join(sorted(map(str, missing)))}",
            "does another program change its peers at the same time?",
        )


def restored(entry: AuthorizedPeer, device: Device) -> tuple[PeerChange, ...]:
    """Return what gives everybody the AllowedIPs that they had when `device` was read."""
    old = device.peer(entry.public_key)
    kept = old.allowed_ips if old else frozenset()
    losers = [
        peer
        for peer in device.peers
        if peer.allowed_ips & entry.allowed_ips and peer.public_key != entry.public_key
    ]
    return (
        PeerChange(entry.public_key, update_only=True, allowed_ips=kept),
        *(
            PeerChange(peer.public_key, update_only=True, allowed_ips=peer.allowed_ips)
            for peer in losers
        ),
    )
