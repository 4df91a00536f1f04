"""What people ask of this host: bring a connection up, take it down, switch, tell.

Owns which operations may run side by side, and what they tell. How one `up` is done, and undone, is
`attempt`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from anubis.daemon.api import Report
from anubis.daemon.attempt import Attempt
from anubis.daemon.calls import Terms
from anubis.daemon.goodbye import Reason
from anubis.daemon.hooks import HOOK_SECONDS
from anubis.daemon.inquiry import Inquiry
from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.daemon.planning import plan_up
from anubis.daemon.road import Contact
from anubis.diagnosis import Diagnosis
from anubis.errors import AnubisError, LocalFailure, NoAnswer, Refused
from anubis.events import Approval, ConnectionStatus, Reloaded, Result
from anubis.files.authorized_peers import AuthorizedPeer, overlaps
from anubis.forecast import Difference, Plan
from anubis.gatekeeper import Role
from anubis.protocol.wire import Result as Code
from anubis.protocol.wire import Verb
from anubis.refusal import refusal
from anubis.wireguard.types import Peer
from anubis.wishes import Wish

__all__ = ["DaemonOperations"]

SETTLE_SECONDS, SETTLE_AT_LEAST = 2.0, 60.0  # between attempts to settle what a crash left
REVIVE_SECONDS = 10.0  # for what is pinned and was lost to come up again


class DaemonOperations:
    """The operations behind the API (`anubis.daemon.api.Operations`)."""

    def __init__(
        self,
        parts: Parts,
        reload: Callable[[], Coroutine[None, None, Reloaded]],
        foresee: Callable[[], Coroutine[None, None, Difference]],
        inquiry: Inquiry,
        approve: Callable[[str | None, str | None, float], Coroutine[None, None, Approval]],
    ) -> None:
        self._parts = parts
        self._inquiry = inquiry
        self.reload = reload
        self.foresee = foresee
        self.approve = approve
        self._gatekeeper = parts.gatekeeper
        self._control = parts.control
        self._production = parts.production
        self._clock = parts.clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._revivals: dict[str, asyncio.Task[None]] = {}
        self._untold: asyncio.Queue[AuthorizedPeer] = asyncio.Queue()

    async def status(self, name: str | None) -> list[ConnectionStatus]:
        """Describe one connection, or all. Raises UnknownConnection."""
        entries = [self._gatekeeper.peer(name)] if name else list(self._gatekeeper.peers)
        try:
            seen = {peer.public_key: peer for peer in (await self._production.device()).peers}
        except LocalFailure:
            seen = {}  # the interface is gone; what we know ourselves is still worth telling
        return [self._describe(entry, seen.get(entry.public_key)) for entry in entries]

    async def up(self, name: str, terms: Terms, report: Report) -> Result:
        """Bring a connection up; return when a production handshake was seen."""
        peer = self._gatekeeper.peer(name)
        async with self._locked(peer):
            self._gatekeeper.check_free(peer)
            return await self._attempt(peer, terms, report).run()

    async def plan(self, name: str) -> Plan:
        """Tell what `up` would do. Raises UnknownConnection."""
        return await plan_up(self._parts, self._gatekeeper.peer(name))

    async def why(self, name: str) -> Diagnosis:
        """Tell what is broken on the chain to a far end. Raises UnknownConnection, LocalFailure."""
        peer = self._gatekeeper.peer(name)
        async with self._locked(peer):
            return await self._inquiry.why(peer)

    async def revive(self, wish: Wish) -> None:
        """Bring up again what is wanted and was lost, unless a `down` comes. Raises AnubisError."""
        if wish.name in self._revivals:
            return  # it is still undoing what failed, and will say when to try again
        revival = asyncio.create_task(self._revive(wish.name))
        self._revivals[wish.name] = revival
        try:
            await revival
        finally:
            del self._revivals[wish.name]

    async def _revive(self, name: str) -> None:
        peer = self._gatekeeper.peer(name)
        async with self._locked(peer):
            if (wish := self._gatekeeper.wishes.get(name)) is not None:
                self._gatekeeper.check_free(peer)
                terms = Terms(wish.lease, REVIVE_SECONDS, wish.pinned)
                await self._attempt(peer, terms, _unheard).run()

    def _give_up(self, peer: AuthorizedPeer) -> bool:
        """Insist on a connection no more; return whether anybody had."""
        was_wanted = peer.name in self._gatekeeper.wishes
        self._gatekeeper.wishes.drop(peer.name)
        revival = self._revivals.get(peer.name)
        if revival is not None and not revival.cancelling():
            revival.cancel()
        self._parts.try_to_save()
        return was_wanted

    async def down(self, name: str, timeout_seconds: float, report: Report) -> Result:
        """Take a connection down, there and here."""
        peer = self._gatekeeper.peer(name)
        was_wanted = self._give_up(peer)
        async with self._locked(peer):
            if self._gatekeeper.connection(peer.name) is None:
                return Result(peer.name, "down", "done" if was_wanted else "unchanged")
            deadline = asyncio.get_running_loop().time() + timeout_seconds
            async with self._all_the_way([peer]):
                return await self._down(peer, deadline, report)

    async def switch(self, name: str, terms: Terms, report: Report) -> Result:
        """Bring a connection up, and then down those whose routes it takes over."""
        peer = self._gatekeeper.peer(name)
        async with self._locked_with_rivals(peer):
            attempt = self._attempt(peer, terms, report)
            attempt.rivals = self._gatekeeper.rivals(peer)
            result = await attempt.run()
            for other in self._gatekeeper.peers:
                if other.name != peer.name and overlaps(peer, other):
                    self._give_up(other)
            warnings = list(result.warnings)
            async with self._all_the_way(attempt.rivals):
                for rival in attempt.rivals:
                    ended = await self._down(rival, attempt.deadline, _for(rival, report))
                    warnings += ended.warnings
            replaced = tuple(rival.name for rival in attempt.rivals)
            return replace(result, warnings=tuple(warnings), replaced=replaced)

    async def settle(self) -> None:
        """Take down, at the far ends, what is down here and not there; until cancelled.

        That is what an earlier run had begun and not ended, and whom this host could not tell. A
        far end that cannot be reached is asked again until its lease has ended.
        """
        for name in self._gatekeeper.unfinished:
            self._untold.put_nowait(self._gatekeeper.peer(name))
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._settle(await self._untold.get()))

    async def _settle(self, peer: AuthorizedPeer) -> None:
        pause = SETTLE_SECONDS
        while not await self._is_settled(peer):
            await asyncio.sleep(pause)
            pause = min(2 * pause, SETTLE_AT_LEAST)

    async def _is_settled(self, peer: AuthorizedPeer) -> bool:
        """Ask once; return whether there is nothing more to ask."""
        async with self._locked(peer):
            until = self._gatekeeper.unfinished.get(peer.name)
            if until is None:
                return True  # somebody has brought it up, or down, meanwhile
            deadline = self._parts.goodbyes.deadline()
            try:
                if peer.name not in self._gatekeeper.bare:
                    await self._control.ask(
                        peer, Verb.GONE, deadline=deadline, reason=Reason.UNDONE
                    )
                event(logging.INFO, "undone", connection=peer.name)
            except AnubisError as error:
                if self._clock.boot() < until:
                    event(logging.WARNING, "not_undone", connection=peer.name, reason=error.message)
                    return False
            await self._parts.silence.fall(peer)
            self._parts.settled(peer)
            return True

    @asynccontextmanager
    async def _locked_with_rivals(self, peer: AuthorizedPeer) -> AsyncIterator[None]:
        """Hold a connection and all that share its routes and are up, or on the way, by then."""
        while True:
            held = self._contenders(peer)
            async with self._locked(peer, *held.values()):
                if self._contenders(peer).keys() <= held.keys():
                    yield
                    return

    def _contenders(self, peer: AuthorizedPeer) -> dict[str, AuthorizedPeer]:
        names = [name for name, lock in self._locks.items() if lock.locked() and name != peer.name]
        busy = filter(None, map(self._gatekeeper.peers.by_name, names))
        under_way = (other for other in busy if overlaps(peer, other))
        return {other.name: other for other in (*self._gatekeeper.rivals(peer), *under_way)}

    @asynccontextmanager
    async def _locked(self, *peers: AuthorizedPeer) -> AsyncIterator[None]:
        """One operation at a time on each connection; the order of names rules out a deadlock."""
        async with AsyncExitStack() as stack:
            for name in sorted({peer.name for peer in peers}):
                lock = self._locks.setdefault(name, asyncio.Lock())
                await stack.enter_async_context(lock)
            yield

    def _attempt(self, peer: AuthorizedPeer, terms: Terms, report: Report) -> Attempt:
        return Attempt(
            parts=self._parts,
            peer=peer,
            lease=self._gatekeeper.wanted_lease(peer, terms.lease_seconds),
            deadline=asyncio.get_running_loop().time() + terms.timeout_seconds,
            report=report,
            pinned=terms.pinned,
        )

    async def _down(self, peer: AuthorizedPeer, deadline: float, report: Report) -> Result:
        """Run PreDown and tell the far end, then remove this side, whatever came of these."""
        self._parts.note_end(peer)
        warnings: list[str] = []
        hook = await self._parts.leave(peer, Reason.DOWN, HOOK_SECONDS)
        told = True
        try:
            if peer.name not in self._gatekeeper.bare:
                await self._tell_down(peer, deadline, report)
        except Refused as error:
            warnings.append(error.message)
        except NoAnswer as error:
            warnings.append(f"{peer.name} could not be told and finds out by itself: {error}")
        except LocalFailure as error:
            told = False
            warnings.append(f"{peer.name} is told as soon as that is possible: {error}")
        outcome = "local_only" if warnings else "done"
        if hook is not None:
            warnings.append(f"PreDown of {peer.name}: {hook}")
        left = await self._parts.end(peer, Reason.DOWN)
        if left is not None:
            warnings.append(
                f"not all that {peer.name} had here could be taken away: {left};"
                " anubis goes on trying, and its log tells when it is done"
            )
        if told:
            await self._parts.silence.fall(peer)
            self._parts.settled(peer)
        else:
            self._untold.put_nowait(peer)
        report("removed")
        warning = "; ".join(warnings) or None
        event(logging.INFO, "down", connection=peer.name, reason="asked for here", warning=warning)
        return Result(peer.name, "down", outcome, warnings=tuple(warnings))

    async def _tell_down(self, peer: AuthorizedPeer, deadline: float, report: Report) -> None:
        """Have the far end take it down. Raises NoAnswer, LocalFailure and Refused."""
        contact = Contact(lambda endpoint: report("control", endpoint))
        verb = self._word_for_down(peer)
        reply = await self._control.ask(
            peer, verb, deadline=deadline, reason=Reason.DOWN, contact=contact
        )
        if not reply.granted and reply.result != Code.NO_CONNECTION:
            raise refusal(peer.name, reply)
        report("agreed")

    def _word_for_down(self, peer: AuthorizedPeer) -> Verb:
        """Ask the one who granted us a connection; who asked for it is told, and cannot refuse."""
        connection = self._gatekeeper.connection(peer.name)
        is_ours = connection is None or connection.role is Role.INITIATOR
        return Verb.DOWN if is_ours else Verb.GONE

    @asynccontextmanager
    async def _all_the_way(self, peers: Sequence[AuthorizedPeer]) -> AsyncIterator[None]:
        """Take these down also when the caller leaves: the far ends may be down already."""
        try:
            yield
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.create_task(self._down_quickly(peers)))
            raise

    async def _down_quickly(self, peers: Sequence[AuthorizedPeer]) -> None:
        deadline = self._parts.goodbyes.deadline()
        for peer in peers:
            if self._gatekeeper.connection(peer.name) is not None:
                await self._down(peer, deadline, _unheard)

    def _describe(self, entry: AuthorizedPeer, peer: Peer | None) -> ConnectionStatus:
        connection = self._gatekeeper.connection(entry.name)
        wishes, now = self._gatekeeper.wishes, self._clock.boot()
        pinned, retry = wishes.is_pinned(entry.name), wishes.retry_seconds(entry.name, now)
        if retry is not None:
            retry = round(retry, 1)
        if connection is None:
            ended = self._gatekeeper.ended.get(entry.name)
            return ConnectionStatus(
                entry.name, "down", pinned=pinned, retry_seconds=retry, ended=ended
            )
        age = None
        if peer is not None and peer.last_handshake:
            age = max(0.0, self._clock.unix() - peer.last_handshake)
        since = datetime.fromtimestamp(int(connection.since), UTC).isoformat()
        return ConnectionStatus(
            name=entry.name,
            state="up",
            role=connection.role.value,
            since=since.replace("+00:00", "Z"),
            lease_seconds_left=max(0, round(connection.expires - now)),
            endpoint=str(peer.endpoint) if peer and peer.endpoint else None,
            last_handshake_seconds=None if age is None else round(age, 1),
            rx_bytes=peer.rx_bytes if peer else 0,
            tx_bytes=peer.tx_bytes if peer else 0,
            pinned=pinned,
            retry_seconds=retry,
        )


def _unheard(step: str, detail: str = "", connection: str | None = None) -> None:
    """Report to nobody."""


def _for(peer: AuthorizedPeer, report: Report) -> Report:
    """Return a report whose steps belong to another connection."""

    def about(step: str, detail: str = "", connection: str | None = None) -> None:
        report(step, detail, connection or peer.name)

    return about
