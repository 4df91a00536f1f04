"""Production: the peers on the interface that carries the traffic, their routes and rules.

Owns what belongs to connections on `wg0`, and which peers there are Anubis's. Refuses to know why a
connection comes or goes, and whose the interface is, which is `carrier`. Each
change is whole: if a part of it fails, what was done is undone. Peers, routes and rules of others
are never touched.

A connection is opened in two steps. `prepare` adds the peer without AllowedIPs: it can shake hands,
but nothing is routed to it and nothing is taken from another peer. `commit` gives it its AllowedIPs
and the routes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from anubis.daemon.carrier import Carrier
from anubis.daemon.claims import check_claim, check_granted, restored
from anubis.daemon.faults import production_faults
from anubis.daemon.interface import Allow
from anubis.daemon.log import event
from anubis.daemon.road import SESSION_SECONDS
from anubis.daemon.shares import Shares
from anubis.errors import AnubisError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.files.config import Production as ProductionConfig
from anubis.network.changes import Mended, Step
from anubis.network.plan import production_state
from anubis.network.state import NetworkState
from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import Device, DeviceChange, Endpoint, Peer, PeerChange

__all__ = ["Production", "Prospect"]

_RECOMMIT_PAUSES = (0.0, 0.05, 0.2)  # seconds before each try to take a connection up
TRIGGER_KEEPALIVE = 25  # seconds; switching it on makes WireGuard shake hands at once

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Prospect:
    """What taking up a connection would change; `device` is the interface without it."""

    device: Device
    makes_interface: bool
    addresses: tuple[IPv4Interface | IPv6Interface, ...]  # of an interface that is made
    fwmark: int | None  # that the interface would be lent; None if it has one
    mtu: int | None  # bytes; None if it stays as it is
    steps: tuple[Step, ...]
    in_the_way: tuple[LocalFailure, ...]


class Production:
    """The connections of this host, on its production interface."""

    def __init__(
        self,
        config: ProductionConfig,
        carrier: Carrier,
        shares: Shares,
        save: Callable[[], None],
    ) -> None:
        self.peers: dict[str, PublicKey] = {}  # ours on the interface, by connection
        self._carrier = carrier
        self._config = config
        self._shares = shares
        self._save = save
        self._committed: dict[str, AuthorizedPeer] = {}
        self._endpoints: dict[PublicKey, Endpoint] = {}  # of our peers, as last seen
        self._is_untidy = False
        self._left: dict[str, PublicKey] = {}  # of `peers`, those that could not be removed yet
        self._parted: dict[str, Peer] = {}  # as last seen, of those that may have a session still
        self._lock = asyncio.Lock()

    @property
    def name(self) -> str:
        """The interface's name."""
        return self._carrier.name

    @property
    def mark(self) -> int:
        """The mark of bearer packets."""
        return self._carrier.mark

    @property
    def is_up(self) -> bool:
        """Whether there is a connection to look after."""
        return bool(self._committed)

    async def start(self) -> None:
        """Make the interface where there is none, and find its mark. Raises LocalFailure."""
        self._carrier.find_mark(await self._carrier.ensure())

    async def reconcile(
        self, peers: dict[str, PublicKey], up: Iterable[AuthorizedPeer]
    ) -> list[AuthorizedPeer]:
        """After a crash: take up the connections that are still up, remove other leftovers.

        `peers` is what the state file says was ours. Return the connections that cannot be taken
        up any more, because a stranger has their networks, say; nothing of them is left.
        """
        self.peers = dict(peers)
        kept = {peer.name: peer for peer in up}
        self._left = {name: key for name, key in peers.items() if name not in kept}
        lost = [peer for peer in kept.values() if not await self._recommit(peer)]
        try:
            await self._tidy()
        except LocalFailure as error:  # `mend` goes on
            event(logging.ERROR, "not_taken_away", reason=error.message)
        return lost

    async def _recommit(self, peer: AuthorizedPeer) -> bool:
        """Take up a connection; until all tries have failed it goes on as it is."""
        for pause in _RECOMMIT_PAUSES:
            await asyncio.sleep(pause)
            try:
                await self.commit(peer, None)
            except LocalFailure as error:
                reason = error.message
            else:
                return True
        event(logging.ERROR, "not_taken_up", connection=peer.name, reason=reason)
        self._left[peer.name] = peer.public_key
        return False

    async def stop(self) -> None:
        """Remove everything that is ours, and the interface if Anubis made it."""
        async with self._lock:
            self._committed.clear()
            self._left = dict(self.peers)
            try:
                await self._tidy()
            finally:
                await self._carrier.remove()

    async def device(self) -> Device:
        """Read the interface. Raises LocalFailure."""
        return await self._carrier.device()

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
            change = _as_change(entry, endpoint)
            await self._change(change)

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
            await self._change(change)

    async def settle(self, entry: AuthorizedPeer) -> None:
        """After the handshake: the keepalive that the administrator wants."""
        async with self._lock:
            if entry.name in self.peers:
                change = PeerChange(
                    entry.public_key,
                    update_only=True,
                    persistent_keepalive=entry.persistent_keepalive,
                )
                await self._change(change)

    async def reunite(self, entry: AuthorizedPeer, now: float) -> None:
        """Shake hands with a peer whose WireGuard goes by a session that was forgotten here.

        Nobody told it that its connection ended, so it would send into that session for 15 s.
        Older ones it renews by itself; to begin here too would only be in its way. `now` is in
        seconds since 1970.
        """
        parted = self._parted.pop(entry.name, None)
        if parted is not None and now - parted.last_handshake < SESSION_SECONDS:
            await self.shake(entry, parted.endpoint)
            await self.settle(entry)

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
                await self._change(*changes)

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
                change = _as_change(entry, endpoint, entry.allowed_ips)
                await self._change(change)
                await self._verify(entry)
                await self._carrier.fit_mtu()
                routes = await self._apply()
            except BaseException:
                self._committed = before
                await asyncio.shield(self._put_back(device, entry))
                raise
            return routes

    async def foresee(
        self,
        entry: AuthorizedPeer,
        endpoint: Endpoint | None,
        rivals: Iterable[AuthorizedPeer] = (),
    ) -> Prospect:
        """Return what `prepare` and `commit` would do now, doing nothing. Raises LocalFailure."""
        async with self._lock:
            device, is_own = await self._carrier.foresee()
            left = set(self._left.values())
            kept = tuple(peer for peer in device.peers if peer.public_key not in left)
            device = replace(device, peers=kept)
            in_the_way = []
            try:
                check_claim(entry, device, self.peers, {rival.public_key for rival in rivals})
            except LocalFailure as error:
                in_the_way.append(error)
            mark = self._carrier.mark_of(device)
            with_it = (*kept, Peer(entry.public_key, endpoint))
            committed = {**self._committed, entry.name: entry}
            state = self._state(committed.values(), mark)
            return Prospect(
                device=device,
                makes_interface=not self._carrier.present,
                addresses=self._carrier.addresses,
                fwmark=None if device.fwmark else mark,
                mtu=await self._carrier.foresee_mtu(replace(device, peers=with_it))
                if is_own
                else None,
                steps=tuple(self._shares.foresee("production", state)),
                in_the_way=tuple(in_the_way),
            )

    async def remove(self, entry: AuthorizedPeer, *, untold: bool = False) -> None:
        """Remove the peer, then its routes: not a packet leaves by another way meanwhile.

        An `untold` one may come back while it still has its session, and is then reunited. Raises
        LocalFailure if something is left, when all was tried; `mend` goes on.
        """
        async with self._lock:
            if untold and entry.name in self._committed:
                with suppress(LocalFailure):
                    await self._remember(entry)
            self._committed.pop(entry.name, None)
            self._endpoints.pop(entry.public_key, None)
            if entry.name in self.peers:
                self._left[entry.name] = entry.public_key
            await self._tidy()

    async def mend(self, allow: Allow) -> tuple[Mended, ...]:
        """Put right what strangers did to the interface and to our peers on it.

        When there is an interface with our key again, our peers come back to it. Raises
        LocalFailure. Not to be cancelled.
        """
        async with self._lock:
            mended = await self._carrier.mend_link(allow, in_use=self.is_up)
            if self.is_up:
                mended += await self._mend_connections(mended, allow)
            if self._is_untidy:
                await self._tidy()
                mended += (Mended(f"what ended connections had on {self.name}", "remained"),)
            return mended

    # Steps; the lock is held

    async def _mend_connections(
        self, before: tuple[Mended, ...], allow: Allow
    ) -> tuple[Mended, ...]:
        """Put right what WireGuard has; `before` is what was done to the link."""
        device = await self._carrier.device()
        mark = self._carrier.mark
        mended = await self._carrier.mend_settings(device, allow)
        if self._carrier.mark != mark:
            await self._apply()
        mended += await self._mend_peers(device, allow)
        if Mended(f"interface {self.name}", "vanished") in before:
            await self._carrier.fit_mtu()
        return mended

    async def _mend_peers(self, device: Device, allow: Allow) -> tuple[Mended, ...]:
        """Put right what WireGuard has of our peers, and note where they are."""
        faults = production_faults(device, self._committed, self._endpoints, allow)
        if faults.mended:
            await self._carrier.configure(faults.change())
        for change in faults.peers:
            if change.persistent_keepalive is not None:
                await self._greet(change)
        ours = {entry.public_key for entry in self._committed.values()}
        self._endpoints |= {
            peer.public_key: peer.endpoint
            for peer in device.peers
            if peer.endpoint is not None and peer.public_key in ours
        }
        return tuple(faults.mended)

    async def _greet(self, change: PeerChange) -> None:
        """Make WireGuard shake hands with a peer that came back, so that both ends go on at once.

        Until then a recorded handshake of the peer's could be replayed: WireGuard has forgotten
        the newest one that it saw.
        """
        for keepalive in (TRIGGER_KEEPALIVE, change.persistent_keepalive):
            again = PeerChange(change.public_key, update_only=True, persistent_keepalive=keepalive)
            await self._change(again)

    async def _remember(self, entry: AuthorizedPeer) -> None:
        peer = await self.peer(entry)
        if peer is not None and peer.endpoint is not None:
            newer = peer.last_handshake - SESSION_SECONDS
            self._parted = {n: p for n, p in self._parted.items() if p.last_handshake > newer}
            self._parted[entry.name] = peer

    async def _change(self, *changes: PeerChange) -> None:
        await self._carrier.configure(DeviceChange(peers=changes))

    async def _admit(self, entry: AuthorizedPeer, rivals: Iterable[AuthorizedPeer] = ()) -> Device:
        """Check that the peer may come, and note, before it does, that it is ours."""
        if self._left:
            await self._remove_left()  # it may be this very peer, with a session of before
        device = await self._carrier.ensure()
        check_claim(entry, device, self.peers, {rival.public_key for rival in rivals})
        await self._carrier.borrow_mark(device)
        if entry.name not in self.peers:
            self.peers[entry.name] = entry.public_key
            try:
                self._save()
            except LocalFailure:
                del self.peers[entry.name]
                raise
        return device

    async def _verify(self, entry: AuthorizedPeer) -> None:
        """See that WireGuard did as it was told, and note where the peer is."""
        device = await self.device()
        peer = device.peer(entry.public_key)
        if peer is not None and peer.endpoint is not None:
            self._endpoints[entry.public_key] = peer.endpoint
        check_granted(entry, device)

    async def _apply(self) -> int:
        """Bring about the routes and rules of all committed connections; return the routes."""
        state = self._state(self._committed.values(), self.mark)
        await self._shares.put("production", state)
        return len(state.routes)

    def _state(self, committed: Iterable[AuthorizedPeer], mark: int) -> NetworkState:
        """Return the routes and rules of these connections, with this mark of bearer packets."""
        allowed: set[IPNetwork] = set()
        for entry in committed:
            allowed |= entry.allowed_ips
        return production_state(self.name, self._config.table, mark, allowed, self._config.throw)

    async def _tidy(self) -> None:
        """Take away what no connection needs any more, in its order.

        Raises the first LocalFailure when all was tried.
        """
        self._is_untidy = True
        failures = []
        for step in (self._remove_left, self._reduce, self._give_back):
            try:
                await step()
            except LocalFailure as error:
                failures.append(error)
        if failures:
            raise failures[0]
        self._is_untidy = False

    async def _remove_left(self) -> None:
        changes = tuple(PeerChange(key, remove=True) for key in self._left.values())
        if changes and self._carrier.present:  # one that is gone has no peers either
            await self._change(*changes)
        for name in self._left:
            self.peers.pop(name, None)
        self._left.clear()

    async def _reduce(self) -> None:
        state = self._state(self._committed.values(), self.mark)
        await self._shares.reduce("production", state)

    async def _give_back(self) -> None:
        if not self.is_up:
            await self._carrier.give_back()

    async def _put_back(self, device: Device, entry: AuthorizedPeer) -> None:
        """Undo a commit: AllowedIPs to whom they belonged, routes as they were."""
        try:
            await self._change(*restored(entry, device))
            await self._apply()
        except AnubisError as error:
            event(logging.ERROR, "rollback_failed", connection=entry.name, reason=error.message)


def _as_change(
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
