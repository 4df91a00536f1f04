"""Production: the interface that carries the traffic, and the peers, routes and rules on it.

Owns what belongs to connections on `wg0`, and which peers there are Anubis's. Refuses to know why a
connection comes or goes. Each change is whole: if a part of it fails, what was done is undone.
Peers, routes and rules of others are never touched.

A connection is opened in two steps. `prepare` adds the peer without AllowedIPs: it can shake hands,
but nothing is routed to it and nothing is taken from another peer. `commit` gives it its AllowedIPs
and the routes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network

from anubis.daemon.faults import own_faults, production_faults
from anubis.daemon.interface import Allow, Interface, Making, Settings
from anubis.daemon.log import event
from anubis.daemon.shares import Shares
from anubis.errors import AnubisError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.files.config import Production as ProductionConfig
from anubis.network.changes import Mended
from anubis.network.plan import production_state
from anubis.network.state import NetworkState
from anubis.wireguard.backend import Backend
from anubis.wireguard.keys import PrivateKey, PublicKey
from anubis.wireguard.types import Device, DeviceChange, Endpoint, Peer, PeerChange

__all__ = ["Production"]

TRIGGER_KEEPALIVE = 25  # seconds; switching it on makes WireGuard shake hands at once

IPNetwork = IPv4Network | IPv6Network


class Production:
    """The production interface of this host."""

    def __init__(
        self,
        config: ProductionConfig,
        private_key: PrivateKey,
        *,
        backend: Backend,
        shares: Shares,
        making: Making,
        save: Callable[[], None],
    ) -> None:
        self.peers: dict[str, PublicKey] = {}  # ours on the interface, by connection
        self.borrowed_mark = False
        self.mtu_before: int | None = None  # bytes; set while a connection is up
        self.mark = config.fwmark
        self._config = config
        self._private_key = private_key
        self._public_key = private_key.public_key()
        self._interface = Interface(config.interface, backend, shares.network, making)
        self._shares = shares
        self._save = save
        self._committed: dict[str, AuthorizedPeer] = {}
        self._endpoints: dict[PublicKey, Endpoint] = {}  # of our peers, as last seen
        self._lock = asyncio.Lock()

    @property
    def name(self) -> str:
        """The interface's name."""
        return self._config.interface

    @property
    def is_up(self) -> bool:
        """Whether there is a connection to look after."""
        return bool(self._committed)

    async def start(self) -> None:
        """Make the interface where there is none, and find its mark. Raises LocalFailure."""
        device = await self._ensure()
        self.mark = device.fwmark or self._config.fwmark

    async def reconcile(
        self, peers: dict[str, PublicKey], up: Iterable[AuthorizedPeer]
    ) -> list[AuthorizedPeer]:
        """After a crash: take up the connections that are still up, remove other leftovers.

        `peers` is what the state file says was ours. Return the connections that cannot be taken
        up any more, because a stranger has their networks, say; nothing of them is left.
        """
        self.peers = dict(peers)
        kept = {peer.name: peer for peer in up}
        for name in [name for name in peers if name not in kept]:
            await self._remove_peer(name)
        lost = [peer for peer in kept.values() if not await self._recommit(peer)]
        if not self._committed:
            await self._return_loans()
        return lost

    async def _recommit(self, peer: AuthorizedPeer) -> bool:
        try:
            await self.commit(peer, None)
        except LocalFailure as error:
            event(logging.ERROR, "not_taken_up", connection=peer.name, reason=error.message)
            await self._remove_peer(peer.name)
            return False
        return True

    async def stop(self) -> None:
        """Remove everything that is ours, and the interface if Anubis made it."""
        async with self._lock:
            for name in list(self.peers):
                with suppress(LocalFailure):
                    await self._remove_peer(name)
            self._committed.clear()
            await self._apply()
            await self._return_loans()
            await self._interface.remove()

    async def device(self) -> Device:
        """Read the interface. Raises LocalFailure."""
        return await self._interface.device()

    async def peer(self, entry: AuthorizedPeer) -> Peer | None:
        """Return the peer of an entry as WireGuard sees it, or None."""
        return (await self.device()).peer(entry.public_key)

    async def prepare(
        self,
        entry: AuthorizedPeer,
        endpoint: Endpoint | None,
        rivals: Iterable[AuthorizedPeer] = (),
    ) -> None:
        """Add the peer, able to shake hands and nothing more. Raises LocalFailure."""
        async with self._lock:
            await self._admit(entry, rivals)
            if entry.name in self._committed:
                return
            change = _change(entry, endpoint)
            await self._interface.configure(DeviceChange(peers=(change,)))

    async def shake(
        self, entry: AuthorizedPeer, endpoint: Endpoint | None, *, anew: bool = False
    ) -> None:
        """Make WireGuard shake hands with the peer now.

        `anew` forgets a handshake under way, which WireGuard would repeat only after 5 s.
        """
        async with self._lock:
            if entry.name not in self.peers:
                return
            committed = entry.name in self._committed
            change = PeerChange(
                entry.public_key,
                replace=anew,
                update_only=not anew,
                preshared_key=entry.preshared_key,
                endpoint=endpoint,
                persistent_keepalive=TRIGGER_KEEPALIVE,
                allowed_ips=entry.allowed_ips if committed and anew else None,
            )
            await self._interface.configure(DeviceChange(peers=(change,)))

    async def settle(self, entry: AuthorizedPeer) -> None:
        """After the handshake: the keepalive that the administrator wants."""
        async with self._lock:
            if entry.name in self.peers:
                change = PeerChange(
                    entry.public_key,
                    update_only=True,
                    persistent_keepalive=entry.persistent_keepalive,
                )
                await self._interface.configure(DeviceChange(peers=(change,)))

    async def nudge(
        self, entries: Iterable[AuthorizedPeer], endpoint: Endpoint | None = None
    ) -> None:
        """Have WireGuard send something to each peer now, from where this host is now.

        To `endpoint` if it is given, else to where the peer was. Naming that again makes WireGuard
        forget which of our addresses it sent from. Only a keepalive that is switched on is sent at
        once. Raises LocalFailure.
        """
        async with self._lock:
            device = await self.device()
            ours = [(entry, device.peer(entry.public_key)) for entry in entries]
            there = [(e, peer) for e, peer in ours if peer is not None and e.name in self.peers]
            for switched_on in (False, True, None):
                changes = [
                    PeerChange(
                        entry.public_key,
                        update_only=True,
                        endpoint=endpoint or peer.endpoint,
                        persistent_keepalive=entry.persistent_keepalive
                        if switched_on is None
                        else TRIGGER_KEEPALIVE * switched_on,
                    )
                    for entry, peer in there
                ]
                await self._interface.configure(DeviceChange(peers=tuple(changes)))

    async def commit(
        self,
        entry: AuthorizedPeer,
        endpoint: Endpoint | None,
        rivals: Iterable[AuthorizedPeer] = (),
    ) -> int:
        """Give the peer its AllowedIPs and the routes; return how many routes there are.

        From `rivals`, connections of ours, networks may be taken. Raises LocalFailure, and then
        AllowedIPs and routes are as they were.
        """
        async with self._lock:
            device = await self._admit(entry, rivals)
            before = dict(self._committed)
            self._committed[entry.name] = entry
            try:
                # First: the far end may send by the new way already, which is dropped until then.
                change = _change(entry, endpoint, entry.allowed_ips)
                await self._interface.configure(DeviceChange(peers=(change,)))
                await self._verify(entry)
                await self._fit_mtu()
                routes = await self._apply()
            except BaseException:
                self._committed = before
                await asyncio.shield(self._put_back(device, entry))
                raise
            return routes

    async def remove(self, entry: AuthorizedPeer) -> None:
        """Remove the peer, then its routes: not a packet leaves by another way meanwhile."""
        async with self._lock:
            await self._remove_peer(entry.name)
            self._committed.pop(entry.name, None)
            self._endpoints.pop(entry.public_key, None)
            await self._apply()
            if not self._committed:
                await self._return_loans()
            self._save()

    async def mend(self, allow: Allow) -> tuple[Mended, ...]:
        """Put right what strangers did to the interface and to our peers on it.

        An interface that Anubis did not make is not made either; when there is one with our key
        again, our peers come back to it. Raises LocalFailure. Not to be cancelled.
        """
        async with self._lock:
            mended: tuple[Mended, ...] = ()
            if self._interface.made:
                mended = await self._interface.mend(self._settings(), allow)
            elif not self._interface.present:
                if not self._committed:
                    return ()
                raise LocalFailure(
                    f"{self.name} is gone, which Anubis did not make",
                    f"make it again, with the key in {self._config.private_key_file}",
                )
            if not self._committed:
                return mended
            return mended + await self._mend_device(mended, allow)

    # Steps; the lock is held

    async def _mend_device(self, before: tuple[Mended, ...], allow: Allow) -> tuple[Mended, ...]:
        """Put right what WireGuard has; `before` is what was done to the link."""
        device = await self._interface.device()
        mended: list[Mended] = []
        if self._interface.made:
            own = own_faults(device, self._settings(device.fwmark), allow)
            if own.mended:
                await self._interface.configure(own.change())
            mended += own.mended
        else:
            self._demand_key(device)
        if device.fwmark != self.mark and allow(f"fwmark of {self.name}"):
            await self._borrow_mark(device)
            mended.append(Mended(f"fwmark of {self.name}", "changed"))
            await self._apply()
        faults = production_faults(device, self._committed, self._endpoints, allow)
        if faults.mended:
            await self._interface.configure(faults.change())
        for change in faults.peers:
            if change.persistent_keepalive is not None:
                await self._greet(change)
        if Mended(f"interface {self.name}", "vanished") in before:
            await self._fit_mtu()
        ours = {entry.public_key for entry in self._committed.values()}
        self._endpoints |= {
            peer.public_key: peer.endpoint
            for peer in device.peers
            if peer.endpoint is not None and peer.public_key in ours
        }
        return (*mended, *faults.mended)

    async def _greet(self, change: PeerChange) -> None:
        """Make WireGuard shake hands with a peer that came back, so that both ends go on at once.

        Until then a recorded handshake of the peer's could be replayed: WireGuard has forgotten
        the newest one that it saw.
        """
        for keepalive in (TRIGGER_KEEPALIVE, change.persistent_keepalive):
            again = PeerChange(change.public_key, update_only=True, persistent_keepalive=keepalive)
            await self._interface.configure(DeviceChange(peers=(again,)))

    def _settings(self, fwmark: int | None = None) -> Settings:
        return Settings(
            self._private_key,
            self._config.listen_port,
            self._config.fwmark if fwmark is None else fwmark,
            self._config.addresses,
        )

    async def _ensure(self) -> Device:
        """Return the interface, made if need be, with our key on it."""
        await self._interface.ensure()
        if self._interface.made:
            device = await self._interface.device()
            if self._interface.half_made or device.public_key != self._public_key:
                await self._interface.set_up(self._settings())
                device = await self._interface.device()
            return device
        device = await self._interface.device()
        self._demand_key(device)
        return device

    def _demand_key(self, device: Device) -> None:
        if device.public_key != self._public_key:
            raise LocalFailure(
                f"{self._config.interface} exists with another key than"
                f" {self._config.private_key_file}",
                "use its private key for PrivateKeyFile, or set another Interface in [Production]",
            )

    async def _admit(self, entry: AuthorizedPeer, rivals: Iterable[AuthorizedPeer] = ()) -> Device:
        """Check that the peer may come, and note, before it does, that it is ours."""
        device = await self._ensure()
        if entry.name not in self.peers and device.peer(entry.public_key) is not None:
            raise LocalFailure(
                f"{entry.name} is a peer of {self._config.interface} already,"
                " configured by other means",
                f"wg set {self._config.interface} peer {entry.public_key} remove",
            )
        self._check_holders(entry, device, {rival.public_key for rival in rivals})
        await self._borrow_mark(device)
        if entry.name not in self.peers:
            self.peers[entry.name] = entry.public_key
            self._save()
        return device

    def _check_holders(self, entry: AuthorizedPeer, device: Device, rivals: set[PublicKey]) -> None:
        """Refuse to take AllowedIPs from a peer that is not a rival."""
        for other in device.peers:
            shared = other.allowed_ips & entry.allowed_ips
            if shared and other.public_key != entry.public_key and other.public_key not in rivals:
                names = {key: name for name, key in self.peers.items()}
                holder = names.get(other.public_key, str(other.public_key))
                raise LocalFailure(
                    f"{', '.join(sorted(map(str, shared)))} on {device.name} belongs to the peer"
                    f" {holder}",
                    "two peers of an interface cannot have the same AllowedIPs",
                )

    async def _verify(self, entry: AuthorizedPeer) -> None:
        """See that WireGuard did as it was told."""
        peer = await self.peer(entry)
        if peer is not None and peer.endpoint is not None:
            self._endpoints[entry.public_key] = peer.endpoint
        missing = entry.allowed_ips - (peer.allowed_ips if peer else frozenset())
        if missing:
            raise LocalFailure(
                f"{self._config.interface} did not take {', '.join(sorted(map(str, missing)))}",
                "does another program change its peers at the same time?",
            )

    async def _borrow_mark(self, device: Device) -> None:
        """Find the mark of our bearer packets; lend a stranger's interface ours if it has none."""
        self.mark = device.fwmark or self._config.fwmark
        if not device.fwmark:
            self.borrowed_mark = not self._interface.made
            self._save()
            await self._interface.configure(DeviceChange(fwmark=self.mark))

    async def _return_loans(self) -> None:
        """With no connection left, give the interface back what it had before the first."""
        if self.borrowed_mark:
            await self._interface.configure(DeviceChange(fwmark=0))
            self.borrowed_mark = False
        if self.mtu_before is not None:
            with suppress(LocalFailure):  # an interface that is gone needs no MTU
                await self._shares.network.set_mtu(self._config.interface, self.mtu_before)
            self.mtu_before = None

    async def _fit_mtu(self) -> None:
        """Set the MTU as wg-quick does, on an interface that Anubis made."""
        if self._interface.made:
            device = await self.device()
            endpoints = [peer.endpoint.address for peer in device.peers if peer.endpoint]
            network = self._shares.network
            mtu = self._config.mtu or await network.bearer_mtu(endpoints, self.mark)
            if self.mtu_before is None:
                self.mtu_before = await network.mtu(self._config.interface)
                self._save()
            await network.set_mtu(self._config.interface, mtu)

    async def _apply(self) -> int:
        """Bring about the routes and rules of all committed connections."""
        allowed: set[IPNetwork] = set()
        for entry in self._committed.values():
            allowed |= entry.allowed_ips
        state = NetworkState()
        if self._committed:
            state = production_state(
                self._config.interface,
                self._config.table,
                self.mark,
                allowed,
                self._config.throw,
            )
        await self._shares.put("production", state)
        return len(state.routes)

    async def _remove_peer(self, name: str) -> None:
        key = self.peers.get(name)
        if key is not None:
            change = PeerChange(key, remove=True)
            try:
                await self._interface.configure(DeviceChange(peers=(change,)))
            except LocalFailure as error:
                # An interface that is gone has no peers either.
                event(logging.WARNING, "peer_not_removed", connection=name, reason=error.message)
            self.peers.pop(name, None)

    async def _put_back(self, device: Device, entry: AuthorizedPeer) -> None:
        """Undo a commit: AllowedIPs to whom they belonged, routes as they were."""
        old = device.peer(entry.public_key)
        kept = old.allowed_ips if old else frozenset()
        losers = [peer for peer in device.peers if peer.allowed_ips & entry.allowed_ips]
        changes = [PeerChange(entry.public_key, update_only=True, allowed_ips=kept)]
        changes += [
            PeerChange(peer.public_key, update_only=True, allowed_ips=peer.allowed_ips)
            for peer in losers
            if peer.public_key != entry.public_key
        ]
        try:
            await self._interface.configure(DeviceChange(peers=tuple(changes)))
            await self._apply()
        except AnubisError as error:
            event(logging.ERROR, "rollback_failed", connection=entry.name, reason=error.message)


def _change(
    entry: AuthorizedPeer,
    endpoint: Endpoint | None,
    allowed_ips: frozenset[IPNetwork] = frozenset(),
) -> PeerChange:
    return PeerChange(
        entry.public_key,
        preshared_key=entry.preshared_key,
        endpoint=endpoint,
        allowed_ips=allowed_ips,
    )
