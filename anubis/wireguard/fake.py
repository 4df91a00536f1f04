"""WireGuard in memory, for tests of what stands on it.

Owns the same semantics as the real backends, which one contract test verifies. Shipped with the
package, so that its users can test with it too. Refuses to touch the system.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Literal

from anubis.wireguard.errors import BackendError, DeviceExists, DeviceNotFound
from anubis.wireguard.keys import PresharedKey, PublicKey
from anubis.wireguard.names import check_interface_name
from anubis.wireguard.types import Device, DeviceChange, IPNetwork, Peer, PeerChange

__all__ = ["FakeBackend", "Operation"]

Operation = Literal["create", "configure", "device", "delete"]


@dataclass(slots=True)
class _Interface:
    device: Device
    peers: dict[PublicKey, Peer] = field(default_factory=dict)
    preshared_keys: dict[PublicKey, PresharedKey] = field(default_factory=dict)


class FakeBackend:
    """A backend whose interfaces are values; handshakes and traffic happen when a test says so."""

    def __init__(self) -> None:
        self._interfaces: dict[str, _Interface] = {}
        self._failures: dict[Operation, list[BackendError]] = defaultdict(list)

    # Backend

    async def create(self, interface: str) -> None:
        """Make an interface. Raises DeviceExists."""
        check_interface_name(interface)
        self._fail("create")
        if interface in self._interfaces:
            raise DeviceExists(f"{interface}: exists already", interface, errno.EEXIST)
        empty = Device(name=interface, public_key=None, listen_port=0, fwmark=0)
        self._interfaces[interface] = _Interface(empty)

    async def configure(self, interface: str, change: DeviceChange) -> None:
        """Apply a change. Raises DeviceNotFound."""
        check_interface_name(interface)
        self._fail("configure")
        there = self._there(interface)
        if change.replace_peers:
            there.peers.clear()
            there.preshared_keys.clear()
        _configure_device(there, change)
        for peer in change.peers:
            _configure_peer(there, peer)

    async def device(self, interface: str) -> Device:
        """Read an interface. Raises DeviceNotFound."""
        check_interface_name(interface)
        self._fail("device")
        there = self._there(interface)
        return replace(there.device, peers=tuple(there.peers.values()))

    async def delete(self, interface: str) -> None:
        """Remove an interface. Raises DeviceNotFound."""
        check_interface_name(interface)
        self._fail("delete")
        self._there(interface)
        del self._interfaces[interface]

    async def close(self) -> None:
        """Do nothing: interfaces stay."""

    # For tests

    def fail_next(self, operation: Operation, error: BackendError) -> None:
        """Let the next call of an operation raise this, before it does anything."""
        self._failures[operation].append(error)

    def handshake(
        self, interface: str, peer: PublicKey, when: float, rx_bytes: int = 0, tx_bytes: int = 0
    ) -> None:
        """Let a handshake have happened at `when`, in seconds since the epoch, and bytes flow."""
        peers = self._there(interface).peers
        before = peers[peer]
        peers[peer] = replace(
            before,
            last_handshake=when,
            rx_bytes=before.rx_bytes + rx_bytes,
            tx_bytes=before.tx_bytes + tx_bytes,
        )

    def preshared_key(self, interface: str, peer: PublicKey) -> PresharedKey | None:
        """Tell what no real backend tells."""
        return self._there(interface).preshared_keys.get(peer)

    def _fail(self, operation: Operation) -> None:
        if self._failures[operation]:
            raise self._failures[operation].pop(0)

    def _there(self, interface: str) -> _Interface:
        try:
            return self._interfaces[interface]
        except KeyError:
            raise DeviceNotFound(
                f"{interface}: no such interface", interface, errno.ENODEV
            ) from None


def _configure_device(there: _Interface, change: DeviceChange) -> None:
    if change.private_key is not None:
        own = change.private_key.public_key() if any(bytes(change.private_key)) else None
        there.device = replace(there.device, public_key=own)
        if own is not None:
            there.peers.pop(own, None)
    if change.listen_port is not None:
        there.device = replace(there.device, listen_port=change.listen_port)
    if change.fwmark is not None:
        there.device = replace(there.device, fwmark=change.fwmark)


def _configure_peer(there: _Interface, change: PeerChange) -> None:
    key = change.public_key
    if change.remove or change.replace:
        there.peers.pop(key, None)
        there.preshared_keys.pop(key, None)
    if change.remove or key == there.device.public_key:
        return
    if change.update_only and key not in there.peers:
        return
    peer = there.peers.get(key, Peer(key))
    if change.endpoint is not None:
        peer = replace(peer, endpoint=change.endpoint)
    if change.persistent_keepalive is not None:
        peer = replace(peer, persistent_keepalive=change.persistent_keepalive)
    if change.allowed_ips is not None:
        _take_from_others(there, key, change.allowed_ips)
        peer = replace(peer, allowed_ips=change.allowed_ips)
    there.peers[key] = peer
    if change.preshared_key is not None:
        _set_preshared_key(there, key, change.preshared_key)


def _take_from_others(there: _Interface, key: PublicKey, networks: frozenset[IPNetwork]) -> None:
    """AllowedIPs belong to one peer of an interface: the last that asked for them."""
    for other, peer in there.peers.items():
        if other != key and peer.allowed_ips & networks:
            there.peers[other] = replace(peer, allowed_ips=peer.allowed_ips - networks)


def _set_preshared_key(there: _Interface, key: PublicKey, preshared_key: PresharedKey) -> None:
    if any(bytes(preshared_key)):
        there.preshared_keys[key] = preshared_key
    else:
        there.preshared_keys.pop(key, None)
