"""What people ask of this host: bring a connection up, take it down, switch, tell.

Owns the order of the steps at the initiator and their undoing. An `up` costs two round trips, not
three: the production handshake follows the request so closely that it arrives just after the far
end has installed this host, and is begun afresh should it have come too early.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from anubis.daemon.api import Report
from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.daemon.resolver import resolve
from anubis.daemon.road import Contact
from anubis.durations import format_duration
from anubis.errors import AnubisError, LocalFailure, NoAnswer, Refused
from anubis.events import ConnectionStatus, Result
from anubis.files.authorized_peers import AuthorizedPeer, overlaps
from anubis.gatekeeper import Connection, Role
from anubis.protocol.wire import Reply, Verb
from anubis.protocol.wire import Result as Code
from anubis.wireguard.types import Endpoint, Peer

__all__ = ["DaemonOperations"]

HEAD_START = 0.012  # seconds that the far end is given to install us before we shake hands
GRACE = 0.03  # seconds after the reply in which the early handshake may still succeed
RESHAKE_INTERVAL = 1.0  # seconds without a handshake, after which one is begun afresh
GOODBYE_SECONDS = 2.0  # for telling the far end after a failure
HANDSHAKE_FRESH = 180.0  # REJECT_AFTER_TIME of the WireGuard paper
_POLL_FIRST = 0.002  # seconds
_POLL_LAST = 0.05  # seconds


@dataclass(slots=True)
class _Attempt:
    """One `up` under way."""

    peer: AuthorizedPeer
    lease: int | None
    deadline: float  # in the loop's time
    report: Report
    old: Connection | None  # what was up before
    contact: Contact
    rivals: Sequence[AuthorizedPeer] = ()
    endpoint: Endpoint | None = None
    agreed: asyncio.Event = field(default_factory=asyncio.Event)  # the far end has installed us
    refused: bool = False
    shook_early: bool = False
    committed: bool = False  # this side is installed, and has what was its rivals'


class DaemonOperations:
    """The operations behind the API (`anubis.daemon.api.Operations`)."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._gatekeeper = parts.gatekeeper
        self._control = parts.control
        self._production = parts.production
        self._clock = parts.clock
        self._locks: dict[str, asyncio.Lock] = {}

    async def status(self, name: str | None) -> list[ConnectionStatus]:
        """Describe one connection, or all. Raises UnknownConnection."""
        entries = [self._gatekeeper.peer(name)] if name else list(self._gatekeeper.peers)
        try:
            seen = {peer.public_key: peer for peer in (await self._production.device()).peers}
        except LocalFailure:
            seen = {}  # the interface is gone; what we know ourselves is still worth telling
        return [self._describe(entry, seen.get(entry.public_key)) for entry in entries]

    async def up(
        self, name: str, *, lease_seconds: int | None, timeout_seconds: float, report: Report
    ) -> Result:
        """Bring a connection up; return when a production handshake was seen."""
        peer = self._gatekeeper.peer(name)
        async with self._locked(peer):
            self._gatekeeper.check_free(peer)
            return await self._up(self._attempt(peer, lease_seconds, timeout_seconds, report))

    async def down(self, name: str, *, timeout_seconds: float, report: Report) -> Result:
        """Take a connection down, there and here."""
        peer = self._gatekeeper.peer(name)
        async with self._locked(peer):
            if self._gatekeeper.connection(peer.name) is None:
                return Result(peer.name, "down", "unchanged")
            deadline = asyncio.get_running_loop().time() + timeout_seconds
            async with self._all_the_way([peer]):
                return await self._down(peer, deadline, report)

    async def switch(
        self, name: str, *, lease_seconds: int | None, timeout_seconds: float, report: Report
    ) -> Result:
        """Bring a connection up, and then down those whose routes it takes over."""
        peer = self._gatekeeper.peer(name)
        async with self._locked_with_rivals(peer):
            attempt = self._attempt(peer, lease_seconds, timeout_seconds, report)
            attempt.rivals = self._gatekeeper.rivals(peer)
            result = await self._up(attempt)
            warnings = list(result.warnings)
            async with self._all_the_way(attempt.rivals):
                for rival in attempt.rivals:
                    ended = await self._down(rival, attempt.deadline, _for(rival, report))
                    warnings += ended.warnings
            replaced = tuple(rival.name for rival in attempt.rivals)
            return replace(result, warnings=tuple(warnings), replaced=replaced)

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
        busy = (self._gatekeeper.peer(name) for name, lock in self._locks.items() if lock.locked())
        under_way = (other for other in busy if other.name != peer.name and overlaps(peer, other))
        return {other.name: other for other in (*self._gatekeeper.rivals(peer), *under_way)}

    @asynccontextmanager
    async def _locked(self, *peers: AuthorizedPeer) -> AsyncIterator[None]:
        """One operation at a time on each connection; the order of names rules out a deadlock."""
        async with AsyncExitStack() as stack:
            for name in sorted({peer.name for peer in peers}):
                lock = self._locks.setdefault(name, asyncio.Lock())
                await stack.enter_async_context(lock)
            yield

    def _attempt(
        self, peer: AuthorizedPeer, lease: int | None, timeout: float, report: Report
    ) -> _Attempt:
        return _Attempt(
            peer=peer,
            lease=self._gatekeeper.wanted_lease(peer, lease),
            deadline=asyncio.get_running_loop().time() + timeout,
            report=report,
            contact=Contact(lambda endpoint: report("control", endpoint)),
            old=self._gatekeeper.connection(peer.name),
        )

    # Up

    async def _up(self, attempt: _Attempt) -> Result:
        peer = attempt.peer
        async with self._all_or_nothing(attempt):
            reply = await self._agree(attempt)
            unchanged = attempt.old is not None and reply.result == Code.UNCHANGED
            if attempt.rivals:
                # The old way serves until the new one stands.
                await self._shake(attempt, unchanged=unchanged)
                await self._install(attempt)
            else:
                await self._install(attempt)
                await self._shake(attempt, unchanged=unchanged)
            await self._production.settle(peer)
            await self._parts.begin(peer, Role.INITIATOR, reply.lease)
        event(logging.INFO, "up", connection=peer.name, role="initiator", lease=reply.lease)
        return Result(
            peer.name,
            "up",
            "unchanged" if unchanged else "done",
            reply.lease,
            str(attempt.endpoint) if attempt.endpoint else None,
        )

    async def _agree(self, attempt: _Attempt) -> Reply:
        """Ask the far end, while this side is prepared and the handshake follows the request."""
        try:
            async with asyncio.TaskGroup() as group:
                if attempt.old is None:
                    endpoints = await self._endpoints(attempt.peer)
                    group.create_task(self._shake_early(attempt, endpoints))
                reply = await self._control.ask(
                    attempt.peer,
                    Verb.UP,
                    deadline=attempt.deadline,
                    lease=attempt.lease,
                    contact=attempt.contact,
                )
                if not reply.granted:
                    attempt.refused = True
                    raise refusal(attempt.peer, reply)
                attempt.agreed.set()
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        attempt.report("agreed", f"lease {format_duration(reply.lease)}")
        return reply

    async def _endpoints(self, peer: AuthorizedPeer) -> tuple[Endpoint, ...]:
        if peer.endpoint is None:
            raise LocalFailure(
                f"{peer.name} has no Endpoint, so only it can begin",
                f"give it an Endpoint in {peer.location.path}",
            )
        return await resolve(peer.endpoint)

    async def _shake_early(self, attempt: _Attempt, endpoints: tuple[Endpoint, ...]) -> None:
        """Prepare our side; shake hands a moment after the request went out, or on the reply."""
        attempt.endpoint = endpoints[0]
        await self._production.prepare(attempt.peer, attempt.endpoint, attempt.rivals)
        await attempt.contact.ready.wait()
        if attempt.contact.endpoint is not None:
            # Of several addresses, the one over which the control plane works.
            near = attempt.contact.endpoint.address
            attempt.endpoint = next((e for e in endpoints if e.address == near), endpoints[0])
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAD_START):
                await attempt.agreed.wait()
        attempt.shook_early = not attempt.agreed.is_set()
        await self._production.shake(attempt.peer, attempt.endpoint)

    async def _install(self, attempt: _Attempt) -> None:
        routes = await self._production.commit(attempt.peer, attempt.endpoint, attempt.rivals)
        attempt.committed = True
        attempt.report("peer", self._production.name)
        attempt.report("routes", f"{routes} route{'s' if routes != 1 else ''}")

    async def _shake(self, attempt: _Attempt, *, unchanged: bool) -> None:
        """Wait for a production handshake; begin it afresh as often as need be.

        A peer that is made anew has no handshake yet, so any that it has then was made now.
        """
        loop = asyncio.get_running_loop()
        anew_at = loop.time() + (GRACE if attempt.shook_early else RESHAKE_INTERVAL)
        if attempt.old is not None:
            if unchanged and await self._is_live(attempt):
                return
            anew_at = 0.0
        pause = _POLL_FIRST
        while True:
            now = loop.time()
            if now >= attempt.deadline:
                raise self._no_handshake(attempt)
            if now >= anew_at:
                await self._production.shake(attempt.peer, attempt.endpoint, anew=True)
                anew_at = now + RESHAKE_INTERVAL
                pause = _POLL_FIRST
            await asyncio.sleep(min(pause, attempt.deadline - now))
            pause = min(pause * 1.2, _POLL_LAST)
            peer = await self._production.peer(attempt.peer)
            if peer is not None and peer.last_handshake:
                self._report_handshake(attempt, peer)
                return

    async def _is_live(self, attempt: _Attempt) -> bool:
        """Return whether a connection that was up before has a session that still lives."""
        peer = await self._production.peer(attempt.peer)
        if peer is None:
            return False
        attempt.endpoint = peer.endpoint
        if self._clock.unix_ns() / 1e9 - peer.last_handshake >= HANDSHAKE_FRESH:
            return False
        self._report_handshake(attempt, peer)
        return True

    def _report_handshake(self, attempt: _Attempt, peer: Peer) -> None:
        attempt.endpoint = peer.endpoint or attempt.endpoint
        attempt.report("handshake", str(attempt.endpoint or ""))

    def _no_handshake(self, attempt: _Attempt) -> NoAnswer:
        name, endpoint = attempt.peer.name, attempt.endpoint
        return NoAnswer(
            f"{name} agreed, but no handshake on production was seen with {endpoint or 'it'}",
            f"is UDP port {endpoint.port if endpoint else 'of its ListenPort'} of {name} open"
            " to you?",
        )

    @asynccontextmanager
    async def _all_or_nothing(self, attempt: _Attempt) -> AsyncIterator[None]:
        """Undo an attempt that fails or is given up; a connection that was up before stays."""
        try:
            yield
        except BaseException as error:
            reason = error.message if isinstance(error, AnubisError) else type(error).__name__
            event(logging.WARNING, "up_failed", connection=attempt.peer.name, reason=reason)
            if attempt.old is None:
                never_there = isinstance(error, NoAnswer) and not attempt.contact.ready.is_set()
                tell = attempt.contact.asked and not attempt.refused and not never_there
                await asyncio.shield(asyncio.create_task(self._undo(attempt, tell=tell)))
            raise

    async def _undo(self, attempt: _Attempt, *, tell: bool) -> None:
        """Give back what was the rivals', tell the far end, remove this side."""
        peer = attempt.peer
        if attempt.committed:
            for rival in attempt.rivals:
                await self._production.commit(rival, None, (peer,))
        if tell:
            deadline = asyncio.get_running_loop().time() + GOODBYE_SECONDS
            try:
                await self._control.ask(peer, Verb.DOWN, deadline=deadline, reason="undone")
            except AnubisError as error:
                event(logging.WARNING, "undo_not_told", connection=peer.name, reason=error.message)
        await self._parts.end(peer)

    # Down

    async def _down(self, peer: AuthorizedPeer, deadline: float, report: Report) -> Result:
        """Tell the far end, then remove this side, whatever the far end said."""
        warnings: list[str] = []
        contact = Contact(lambda endpoint: report("control", endpoint))
        try:
            reply = await self._control.ask(peer, Verb.DOWN, deadline=deadline, contact=contact)
            if reply.granted:
                report("agreed")
            else:
                warnings.append(refusal(peer, reply).message)
        except (NoAnswer, LocalFailure) as error:
            warnings.append(f"{peer.name} could not be told and finds out by itself: {error}")
        await self._parts.end(peer)
        report("removed")
        event(logging.INFO, "down", connection=peer.name, warning="; ".join(warnings) or None)
        outcome = "local_only" if warnings else "done"
        return Result(peer.name, "down", outcome, warnings=tuple(warnings))

    @asynccontextmanager
    async def _all_the_way(self, peers: Sequence[AuthorizedPeer]) -> AsyncIterator[None]:
        """Take these down also when the caller leaves: the far ends may be down already."""
        try:
            yield
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.create_task(self._down_quickly(peers)))
            raise

    async def _down_quickly(self, peers: Sequence[AuthorizedPeer]) -> None:
        deadline = asyncio.get_running_loop().time() + GOODBYE_SECONDS
        for peer in peers:
            if self._gatekeeper.connection(peer.name) is not None:
                await self._down(peer, deadline, _unheard)

    def _describe(self, entry: AuthorizedPeer, peer: Peer | None) -> ConnectionStatus:
        connection = self._gatekeeper.connection(entry.name)
        if connection is None:
            return ConnectionStatus(entry.name, "down")
        age = None
        if peer is not None and peer.last_handshake:
            age = max(0.0, self._clock.unix_ns() / 1e9 - peer.last_handshake)
        since = datetime.fromtimestamp(int(connection.since), UTC).isoformat()
        return ConnectionStatus(
            name=entry.name,
            state="up",
            role=connection.role.value,
            since=since.replace("+00:00", "Z"),
            lease_seconds_left=max(0, round(connection.expires - self._clock.boot())),
            endpoint=str(peer.endpoint) if peer and peer.endpoint else None,
            last_handshake_seconds=None if age is None else round(age, 1),
            rx_bytes=peer.rx_bytes if peer else 0,
            tx_bytes=peer.tx_bytes if peer else 0,
        )


def refusal(peer: AuthorizedPeer, reply: Reply) -> Refused:
    """Return the far end's no, in words."""
    try:
        name = Code(reply.result).name.lower()
    except ValueError:
        name = f"result_{reply.result}"
    reason = f": {reply.reason}" if reply.reason else ""
    return Refused(f"{peer.name} refused ({name}){reason}", _REFUSAL_HINTS.get(name), name)


def _unheard(step: str, detail: str = "", connection: str | None = None) -> None:
    """Report to nobody."""


def _for(peer: AuthorizedPeer, report: Report) -> Report:
    """Return a report whose steps belong to another connection."""

    def about(step: str, detail: str = "", connection: str | None = None) -> None:
        report(step, detail, connection or peer.name)

    return about


_REFUSAL_HINTS = {
    "stale": "its clock and this one disagree, and the challenge was lost on the way: try again",
    "key_mismatch": "its authorized_peers has this host's PublicKey and ControlPublicKey in"
    " different entries",
    "not_permitted": "its administrator decides with May in authorized_peers",
    "suite_refused": "let Suites in anubis.conf name one that it accepts",
    "conflict": "its log names the connection that is in the way",
    "failed": "its log says what went wrong; both ends are as before",
    "busy": "try again in a moment",
}
