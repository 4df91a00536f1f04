"""What strangers did to WireGuard's own settings, and the changes that put it right. Pure.

Owns the comparison of a device as it is with what Anubis wants of it. Refuses to touch one.
WireGuard has no notices, so this is asked at intervals, and when a link changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from anubis.daemon.interface import Allow, Settings
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.network.changes import Mended
from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import Device, DeviceChange, Endpoint, PeerChange

__all__ = ["Faults", "control_faults", "own_faults", "production_faults"]

_PeerOf = Callable[[AuthorizedPeer], PeerChange]


@dataclass(slots=True)
class Faults:
    """What was found, and what mends it."""

    mended: list[Mended] = field(default_factory=list)
    settings: Settings | None = None  # to be set again, if anything of them was changed
    peers: list[PeerChange] = field(default_factory=list)

    def add(self, what: str, how: str, allow: Allow, change: PeerChange) -> None:
        """Note a peer that is not as it should be, if it may be put right now."""
        if allow(what):
            self.mended.append(Mended(what, how))
            self.peers.append(change)

    def change(self) -> DeviceChange:
        """Return the one change that mends all."""
        peers = tuple(self.peers)
        if self.settings is None:
            return DeviceChange(peers=peers)
        own = self.settings
        return DeviceChange(own.private_key, own.listen_port, own.fwmark, peers=peers)


def own_faults(device: Device, settings: Settings, allow: Allow) -> Faults:
    """Compare key, port and mark of an interface that Anubis made."""
    compared = (
        ("private key", device.public_key, settings.private_key.public_key()),
        ("port", device.listen_port, settings.listen_port),
        ("fwmark", device.fwmark, settings.fwmark),
    )
    wrong = [f"{what} of {device.name}" for what, seen, wanted in compared if seen != wanted]
    mended = [Mended(what, "changed") for what in wrong if allow(what)]
    return Faults(mended, settings if mended else None)


def control_faults(
    device: Device, peers: Iterable[AuthorizedPeer], wanted: _PeerOf, allow: Allow
) -> Faults:
    """Compare the peers of the control plane: exactly these, with exactly their addresses."""
    faults = Faults()
    seen = {peer.public_key: peer for peer in device.peers}
    for peer in peers:
        there = seen.pop(peer.control_public_key, None)
        if there is None or there.allowed_ips != frozenset(peer.control.networks()):
            how = "changed" if there else "vanished"
            faults.add(f"peer {peer.name} of {device.name}", how, allow, wanted(peer))
    for key in seen:
        faults.add(f"peer {key} of {device.name}", "appeared", allow, PeerChange(key, remove=True))
    return faults


def production_faults(
    device: Device,
    committed: Mapping[str, AuthorizedPeer],
    endpoints: Mapping[PublicKey, Endpoint],
    allow: Allow,
) -> Faults:
    """Compare the peers of the connections that are up; those of others are not looked at.

    Networks that another connection's peer has are that one's: a switch may be under way.
    """
    faults = Faults()
    for name, entry in committed.items():
        others = {one.public_key for one in committed.values()} - {entry.public_key}
        handed_over = {
            network
            for peer in device.peers
            if peer.public_key in others
            for network in peer.allowed_ips
        }
        there = device.peer(entry.public_key)
        if there is not None and there.allowed_ips == entry.allowed_ips - handed_over:
            continue
        change = PeerChange(
            entry.public_key,
            preshared_key=entry.preshared_key,
            endpoint=None if there else endpoints.get(entry.public_key),
            persistent_keepalive=None if there else entry.persistent_keepalive,
            allowed_ips=entry.allowed_ips - handed_over,
        )
        what = (
            f"AllowedIPs of {name} on {device.name}" if there else f"peer {name} of {device.name}"
        )
        faults.add(what, "changed" if there else "vanished", allow, change)
    return faults
