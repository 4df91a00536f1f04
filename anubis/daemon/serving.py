"""Carrying out what another host asks of this one, however it asked: in turn, paced, by policy.

Owns the order of a peer's requests, how many are under way, and the work. Refuses to decide, which
the gatekeeper does, and to know how a request came and how it is answered: sealed (`responding`),
or from a browser (`one_shot`). Every refusal is logged with its reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from anubis.daemon.budget import CHANGES, CHANGES_OF_ALL, REQUESTS, REQUESTS_OF_ALL, Budget
from anubis.daemon.goodbye import Reason
from anubis.daemon.log import Throttle, event
from anubis.daemon.parts import Parts
from anubis.errors import AnubisError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.gatekeeper import Admit, Close, Keep, Open, Refuse, Role, Wait
from anubis.protocol.wire import Result, Verb
from anubis.wireguard.types import Peer

__all__ = ["Outcome", "Seen", "Serving"]

MAX_UNDER_WAY = 256  # requests being carried out, or waiting for it, at one time
MAX_OF_ONE_PEER = 16  # of these, so that one peer cannot take all
_CHANGING = frozenset({Verb.UP, Verb.DOWN, Verb.GONE})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request: a result of the protocol, and why if it is a refusal."""

    result: Result
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A connection that is up. Times are in seconds."""

    up_for: int
    lease: int
    handshake_age: int | None
    peer: Peer | None


class Serving:
    """Serves the requests of other hosts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._gatekeeper = parts.gatekeeper
        self._production = parts.production
        self._clock = parts.clock
        self._under_way: Counter[str] = Counter()  # by peer
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._budget = Budget(REQUESTS, REQUESTS_OF_ALL)
        self._changes = Budget(CHANGES, CHANGES_OF_ALL)
        self._throttle = Throttle()
        self.answers: Counter[tuple[str, str]] = Counter()  # by verb and result
        self._admissions: set[asyncio.Task[None]] = set()
        self.is_stopping = False  # nothing is brought up any more

    def count(self, verb: str, result: str) -> None:
        """Note what a request was answered; both are words of the protocol."""
        self.answers[verb, result] += 1

    def take(self, name: str) -> bool:
        """Take another request of a peer, which is then under way until its `release`, if it may.

        It may not beyond its budget.
        """
        may = (
            self._under_way.total() < MAX_UNDER_WAY
            and self._under_way[name] < MAX_OF_ONE_PEER
            and self._budget.allows(name, self._clock.boot())
        )
        if may:
            self._under_way[name] += 1
        return may

    def release(self, name: str) -> None:
        """Note the end of a request that was taken."""
        self._under_way[name] -= 1
        self._under_way += Counter()  # drops the peers with none

    def is_last(self, name: str) -> bool:
        """Tell whether a peer has one request under way, and no more."""
        return self._under_way[name] == 1

    @asynccontextmanager
    async def turn(self, name: str, verb: Verb) -> AsyncIterator[None]:
        """Wait for a peer's turn.

        A peer's requests are carried out in their order: a `down` that overtakes the work of an
        `up` would find nothing to remove. One that changes its connection again and again waits,
        rather than the others. It is not told to come again: a script is only slowed.
        """
        lock = self._turns.setdefault(name, asyncio.Lock())
        async with lock:
            if verb in _CHANGING:
                while not self._changes.allows(name, self._clock.boot()):  # noqa: ASYNC110
                    await asyncio.sleep(1 / CHANGES.per_second)
            yield

    async def carry_out(
        self,
        name: str,
        verb: Verb,
        lease: int | None = None,
        reason: str = "",
        subject: str | None = None,
    ) -> Outcome:
        """Do what the gatekeeper decides, in the peer's turn. Raises AnubisError.

        `subject` is whom an `approve` is about.
        """
        now, at = self._clock.boot(), self._clock.unix()
        decision = self._gatekeeper.judge(name, verb, lease, now, at, subject=subject)
        match decision:
            case Wait(is_new):
                if is_new:  # it asks again and again
                    event(logging.INFO, "waits_for_approval", connection=name)
                return Outcome(Result.PENDING, "waiting for approval")
            case Refuse(result, why):
                self.log(
                    logging.WARNING,
                    "refused",
                    name,
                    verb=verb.name.lower(),
                    result=result.name.lower(),
                    reason=self._explain(decision, name),
                )
                return Outcome(result, why)
            case Open(peer, granted):
                await self._open(peer, granted)
            case Close(peer):
                await self._close(peer, verb, reason)
            case Keep(peer, result, why):
                if verb is Verb.UP:
                    await self._production.commit(peer, None)
                self._parts.try_to_save()
                return Outcome(result, why)
            case Admit(peer):
                self.admit(peer, by=name)
        return Outcome(Result.DONE)

    def admit(self, peer: AuthorizedPeer, *, by: str) -> None:
        """Let a peer in that was approved: a daemon asks again by itself, anybody else does not."""
        event(logging.INFO, "approved", connection=peer.name, by=by)
        if peer.name in self._gatekeeper.bare:
            task = asyncio.create_task(self._admit(peer.name))
            self._admissions.add(task)
            task.add_done_callback(self._admissions.discard)

    async def _admit(self, name: str) -> None:
        try:
            async with self.turn(name, Verb.UP):
                if not self.is_stopping:
                    await self.carry_out(name, Verb.UP)
        except AnubisError as error:
            self.log(logging.ERROR, "failed", name, verb="up", reason=error.message)

    async def stop(self, seconds: float) -> None:
        """Bring nothing up any more, and let those in who are on the way, but not for long."""
        self.is_stopping = True
        if self._admissions:
            await asyncio.wait(set(self._admissions), timeout=seconds)

    async def _open(self, peer: AuthorizedPeer, lease: int) -> None:
        try:
            await self._production.commit(peer, None)
            await self._parts.begin(peer, Role.RESPONDER, lease)
            if peer.name in self._gatekeeper.bare:
                await self._production.reunite(peer, self._clock.unix())
        except BaseException:
            await asyncio.shield(asyncio.create_task(self._parts.end(peer, Reason.UNDONE)))
            raise
        event(logging.INFO, "up", connection=peer.name, role="responder", lease=lease)

    async def _close(self, peer: AuthorizedPeer, verb: Verb, reason: str) -> None:
        await self._parts.end(peer, reason or verb.name.lower())
        event(
            logging.INFO,
            "down",
            connection=peer.name,
            asked=verb.name.lower(),
            reason=reason or None,
        )

    def _explain(self, decision: Refuse, name: str) -> str:
        """Tell the administrator what the peer must not learn: whose networks are in the way."""
        if decision.result is Result.CONFLICT:
            holder = self._gatekeeper.holder(self._gatekeeper.peer(name))
            if holder is not None:
                return f"its AllowedIPs are held by {holder.name}"
        return decision.reason

    async def look(self, name: str) -> Seen | None:
        """Return a peer's connection as it is now; None while it is down."""
        connection = self._gatekeeper.connection(name)
        if connection is None:
            return None
        try:
            peer = await self._production.peer(self._gatekeeper.peer(name))
        except LocalFailure as error:  # what was done is done; the answer can do without
            self.log(logging.WARNING, "not_read", name, reason=error.message)
            peer = None
        now = self._clock.unix()
        shook = peer.last_handshake if peer else 0
        return Seen(
            up_for=max(0, int(now - connection.since)),
            lease=max(0, round(connection.expires - self._clock.boot())),
            handshake_age=max(0, int(now - shook)) if shook else None,
            peer=peer,
        )

    def log(self, level: int, name: str, peer: str | None, **fields: object) -> None:
        """Log, but no more than a line a second of a kind: a flood must not fill the journal."""
        kept = self._throttle.passes(f"{name} {peer} {fields.get('reason')}", self._clock.boot())
        if kept is not None:
            event(level, name, peer=peer, **fields, not_shown=kept or None)
