"""One `up`, from the first request to the handshake that proves it, or back to where it began.

Owns the order of the steps at the initiator and their undoing. An `up` costs two round trips, not
three: the production handshake follows the request so closely that it arrives just after the far
end has installed this host, and is begun afresh should it have come too early.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from anubis.approvals import APPROVAL_SECONDS, ASK_AGAIN_SECONDS
from anubis.daemon.api import Report
from anubis.daemon.goodbye import Reason
from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.daemon.resolver import resolve
from anubis.daemon.road import Contact
from anubis.durations import format_duration
from anubis.errors import AnubisError, LocalFailure, NoAnswer
from anubis.events import Result
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.gatekeeper import Connection, Role
from anubis.protocol.wire import Reply, Verb
from anubis.protocol.wire import Result as Code
from anubis.refusal import refusal
from anubis.wireguard.types import Endpoint, Peer

__all__ = ["Attempt", "endpoints_of"]

HEAD_START = 0.012  # seconds that the far end is given to install us before we shake hands
GRACE = 0.03  # seconds after the reply in which the early handshake may still succeed
RESHAKE_INTERVAL = 1.0  # seconds without a handshake, after which one is begun afresh
HANDSHAKE_FRESH = 180.0  # REJECT_AFTER_TIME of the WireGuard paper
_POLL_FIRST = 0.002  # seconds
_POLL_LAST = 0.05  # seconds


async def endpoints_of(peer: AuthorizedPeer, deadline: float) -> tuple[Endpoint, ...]:
    """Return where a far end is asked to shake hands, best first. Raises LocalFailure."""
    if peer.endpoint is None:
        raise LocalFailure(
            f"{peer.name} has no Endpoint, so only it can begin",
            f"give it an Endpoint in {peer.location.path}",
        )
    return await resolve(peer.endpoint, deadline)


@dataclass(slots=True)
class Attempt:
    """One `up` under way. `deadline` is in the loop's time; `rivals` give up their networks."""

    parts: Parts
    peer: AuthorizedPeer
    lease: int
    deadline: float
    report: Report
    pinned: bool = False
    rivals: Sequence[AuthorizedPeer] = ()
    seconds: float = field(init=False)  # of waiting, from the beginning to the deadline
    old: Connection | None = field(init=False)  # what was up before
    contact: Contact = field(init=False)
    endpoint: Endpoint | None = None
    agreed: asyncio.Event = field(default_factory=asyncio.Event)  # the far end has installed us
    refused: bool = False
    shook_early: bool = False
    committed: bool = False  # this side is installed, and has what was its rivals'

    def __post_init__(self) -> None:
        self.seconds = self.deadline - asyncio.get_running_loop().time()
        self.old = self.parts.gatekeeper.connection(self.peer.name)
        self.contact = Contact(lambda endpoint: self.report("control", endpoint))

    async def run(self) -> Result:
        """Bring the connection up. Raises AnubisError, and then all is undone."""
        peer = self.peer
        async with self._all_or_nothing():
            reply = await self._agree()
            unchanged = self.old is not None and reply.result == Code.UNCHANGED
            if self.rivals:
                # The old way serves until the new one stands.
                await self._shake(unchanged=unchanged)
                await self._install()
            else:
                await self._install()
                await self._shake(unchanged=unchanged)
            await self.parts.production.settle(peer)
            await self.parts.begin(peer, Role.INITIATOR, reply.lease, self.rivals)
        self._note_wish()
        event(logging.INFO, "up", connection=peer.name, role="initiator", lease=reply.lease)
        return Result(
            peer.name,
            "up",
            "unchanged" if unchanged else "done",
            reply.lease,
            str(self.endpoint) if self.endpoint else None,
        )

    def _note_wish(self) -> None:
        """Pin it, or take an earlier pin back: the last `up` counts."""
        wishes = self.parts.gatekeeper.wishes
        if self.parts.gatekeeper.connection(self.peer.name) is None:
            return  # somebody ended it in the same moment
        if self.pinned:
            wishes.want(self.peer.name, self.lease)
        else:
            wishes.drop(self.peer.name)
        self.parts.try_to_save()

    async def _agree(self) -> Reply:
        """Ask the far end, while this side is prepared and the handshake follows the request."""
        try:
            async with asyncio.TaskGroup() as group:
                if self.old is None:
                    self.parts.note(self.peer, self.lease)
                    endpoints = await endpoints_of(self.peer, self.deadline)
                    early = group.create_task(self._shake_early(endpoints))
                reply = await self._ask()
                if reply.result == Code.PENDING:
                    if self.old is None:
                        await self._retract(early)
                    reply = await self._await_approval()
                    if self.old is None and reply.granted:
                        group.create_task(self._shake_early(endpoints))
                if not reply.granted:
                    self.refused = reply.result != Code.PENDING  # who may approve is not to wait
                    raise refusal(self.peer.name, reply)
                self.agreed.set()
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        self.report("agreed", f"lease {format_duration(reply.lease)}")
        return reply

    async def _ask(self) -> Reply:
        return await self.parts.control.ask(
            self.peer, Verb.UP, deadline=self.deadline, lease=self.lease, contact=self.contact
        )

    async def _retract(self, early: asyncio.Task[None]) -> None:
        """Take this side back: the far end would not hear a handshake for minutes perhaps."""
        early.cancel()
        await asyncio.wait({early})
        await self.parts.production.remove(self.peer)

    async def _await_approval(self) -> Reply:
        """Ask again and again, until somebody has approved it or time is up; return the last word.

        Each asking has as long as the first. Between them the control plane is silent.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + APPROVAL_SECONDS
        event(logging.INFO, "waits_for_approval", connection=self.peer.name)
        while True:
            self.report("pending", f"{until - loop.time():.0f}s left")
            await self.parts.silence.fall(self.peer)
            await asyncio.sleep(ASK_AGAIN_SECONDS)
            self.parts.gatekeeper.check_current(self.peer)
            self.deadline = loop.time() + self.seconds
            reply = await self._ask()
            if reply.result != Code.PENDING or loop.time() + ASK_AGAIN_SECONDS >= until:
                return reply

    async def _shake_early(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Prepare our side; shake hands a moment after the request went out, or on the reply."""
        self.endpoint = endpoints[0]
        await self.parts.production.prepare(self.peer, self.endpoint, self.rivals)
        await self.contact.ready.wait()
        self.endpoint = self._nearest(endpoints)
        with suppress(TimeoutError):
            async with asyncio.timeout(HEAD_START):
                await self.agreed.wait()
        self.shook_early = not self.agreed.is_set()
        await self.parts.production.shake(self.peer, self.endpoint)

    def _nearest(self, endpoints: tuple[Endpoint, ...]) -> Endpoint:
        """Return, of several addresses, the one over which the control plane works."""
        near = self.contact.endpoint.address if self.contact.endpoint else None
        return next((e for e in endpoints if e.address == near), endpoints[0])

    async def _endpoint_now(self) -> Endpoint | None:
        """Return where the far end is; its name may lead elsewhere than when it came up."""
        if self.peer.endpoint is not None:
            return self._nearest(await resolve(self.peer.endpoint, self.deadline))
        peer = await self.parts.production.peer(self.peer)
        return peer.endpoint if peer else None

    async def _install(self) -> None:
        self.parts.gatekeeper.check_current(self.peer)
        routes = await self.parts.production.commit(self.peer, self.endpoint, self.rivals)
        self.committed = True
        self.report("peer", self.parts.production.name)
        self.report("routes", f"{routes} route{'s' if routes != 1 else ''}")

    async def _shake(self, *, unchanged: bool) -> None:
        """Wait for a production handshake; begin it afresh as often as need be.

        A peer that is made anew has no handshake yet, so any that it has then was made now. If the
        far end carried out only a second request, an early handshake was with one that had been
        killed and has lost it.
        """
        loop = asyncio.get_running_loop()
        anew_at = loop.time() + (GRACE if self.shook_early else RESHAKE_INTERVAL)
        if self.contact.asked_anew:
            anew_at = 0.0
        if self.old is not None:
            if unchanged and await self._is_live():
                return
            self.endpoint = await self._endpoint_now()
            anew_at = 0.0
        pause = _POLL_FIRST
        while True:
            now = loop.time()
            if now >= self.deadline:
                raise self._no_handshake()
            self.parts.gatekeeper.check_current(self.peer)
            if now >= anew_at:
                await self.parts.production.shake(self.peer, self.endpoint, anew=True)
                anew_at = now + RESHAKE_INTERVAL
                pause = _POLL_FIRST
            await asyncio.sleep(min(pause, self.deadline - now))
            pause = min(pause * 1.2, _POLL_LAST)
            peer = await self.parts.production.peer(self.peer)
            if peer is not None and peer.last_handshake:
                self._report_handshake(peer)
                return

    async def _is_live(self) -> bool:
        """Return whether a connection that was up before has a session that still lives."""
        peer = await self.parts.production.peer(self.peer)
        if peer is None:
            return False
        age = self.parts.clock.unix() - peer.last_handshake
        if not 0 <= age < HANDSHAKE_FRESH:  # a clock that was set back knows no age
            return False
        self._report_handshake(peer)
        return True

    def _report_handshake(self, peer: Peer) -> None:
        self.endpoint = peer.endpoint or self.endpoint
        self.report("handshake", str(self.endpoint or ""))

    def _no_handshake(self) -> NoAnswer:
        name, endpoint = self.peer.name, self.endpoint
        return NoAnswer(
            f"{name} agreed, but no handshake on production was seen with {endpoint or 'it'}",
            f"is UDP port {endpoint.port if endpoint else 'of its ListenPort'} of {name} open"
            " to you?",
        )

    @asynccontextmanager
    async def _all_or_nothing(self) -> AsyncIterator[None]:
        """Undo an attempt that fails or is given up; a connection that was up before stays."""
        try:
            yield
        except BaseException as error:
            reason = error.message if isinstance(error, AnubisError) else type(error).__name__
            event(logging.WARNING, "up_failed", connection=self.peer.name, reason=reason)
            if self.old is None:
                never_there = isinstance(error, NoAnswer) and not self.contact.ready.is_set()
                tell = self.contact.asked and not self.refused and not never_there
                await asyncio.shield(asyncio.create_task(self._undo(tell=tell)))
            raise

    async def _undo(self, *, tell: bool) -> None:
        """Give back what was the rivals', tell the far end, remove this side."""
        peer = self.peer
        if self.committed:
            for rival in self.rivals:
                if self.parts.gatekeeper.connection(rival.name) is not None:
                    await self.parts.production.commit(rival, None, (peer,))
                self.parts.settled(rival)
        if tell:
            await self.parts.goodbyes.say(peer, Reason.UNDONE)
        await self.parts.end(peer, Reason.UNDONE)
        # With the session goes a request that nobody answered: WireGuard would keep it for a later
        # handshake, and it would still be carried out.
        await self.parts.silence.fall(peer)
        self.parts.settled(peer)
