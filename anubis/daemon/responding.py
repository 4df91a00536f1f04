"""What other hosts ask of this one: each request judged, carried out, answered.

Owns the shell around the sans-IO `Responder` and the bound on work under way. Refuses to decide:
the gatekeeper does. Every refusal and every drop is logged with its reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from ipaddress import IPv6Address
from weakref import WeakValueDictionary

from anubis.daemon.budget import CHANGES, CHANGES_OF_ALL, REQUESTS, REQUESTS_OF_ALL, Budget
from anubis.daemon.goodbye import Reason
from anubis.daemon.log import Throttle, event
from anubis.daemon.parts import Parts
from anubis.daemon.watermarks import Watermarks
from anubis.errors import AnubisError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.gatekeeper import Close, Keep, Open, Refuse, Role
from anubis.network.plan import SERVICE_PORT
from anubis.protocol.responder import Accepted, Answered, Dropped, Responder
from anubis.protocol.tai64n import NANOSECONDS
from anubis.protocol.wire import Reply, Result, State, Verb

__all__ = ["Responding"]

MAX_UNDER_WAY = 256  # requests being carried out, or waiting for it, at one time
_CHANGING = frozenset({Verb.UP, Verb.DOWN, Verb.GONE})
_FAILED = "it failed here and was rolled back; see the log"
STOP_SECONDS = 0.5
MAX_OF_ONE_PEER = 16  # of these, so that one peer cannot take all


class Responding:
    """Serves the requests that come through the control plane."""

    def __init__(self, responder: Responder, watermarks: Watermarks, parts: Parts) -> None:
        self._responder = responder
        self._watermarks = watermarks
        self._parts = parts
        self._gatekeeper = parts.gatekeeper
        self._production = parts.production
        self._clock = parts.clock
        self._started = parts.clock.boot()
        self._tasks: dict[asyncio.Task[None], str] = {}  # and whose request it is
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._throttle = Throttle()
        self._budget = Budget(REQUESTS, REQUESTS_OF_ALL)
        self._changes = Budget(CHANGES, CHANGES_OF_ALL)
        self._stopping = False
        self._silence = parts.silence

    def on_request(self, datagram: bytes, source: IPv6Address, port: int) -> None:
        """Take in a datagram; anything slow becomes a task."""
        now_ns = self._clock.unix_ns()
        running_ns = int((self._clock.boot() - self._started) * NANOSECONDS)
        outcome = self._responder.receive(datagram, source, now_ns, running_ns)
        if outcome.peer is not None:
            self._note_speaker(self._gatekeeper.peer(outcome.peer), port)
        match outcome:
            case Dropped(reason, peer):
                self._log_drop(reason, peer, source)
            case Answered(datagram=answer, peer=peer, result=result, repeat=repeat):
                level = logging.DEBUG if repeat else logging.WARNING
                name = "repeated" if repeat else "refused"
                self._log(level, name, peer, reason=Result(result).name.lower(), source=source)
                self._send(answer, source, port)
            case Accepted() as accepted if self._stopping and accepted.request.verb == Verb.UP:
                # It would come too late to be told that all is over.
                reply = self._reply(accepted, Result.BUSY, "the daemon is stopping")
                self._send(self._responder.answer(accepted, reply), source, port)
            case Accepted() as accepted if self._is_busy(accepted.peer):
                reply = self._reply(
                    accepted, Result.BUSY, "too many requests; ask again in a moment"
                )
                self._send(self._responder.answer(accepted, reply), source, port)
                self._log(logging.WARNING, "refused", accepted.peer, reason="busy", source=source)
            case Accepted() as accepted:
                task = asyncio.create_task(self._serve(accepted, source, port))
                self._tasks[task] = accepted.peer
                task.add_done_callback(self._tasks.pop)

    def _note_speaker(self, peer: AuthorizedPeer, port: int) -> None:
        """Note whether a daemon has spoken, which is known by its port, or a one-shot."""
        bare = self._gatekeeper.bare
        if port == SERVICE_PORT:
            bare.discard(peer.name)
            self._silence.heard(peer)
        elif peer.name not in bare:
            bare.add(peer.name)
            self._parts.try_to_save()

    def _is_busy(self, peer: str) -> bool:
        return (
            len(self._tasks) >= MAX_UNDER_WAY
            or self._under_way(peer) >= MAX_OF_ONE_PEER
            or not self._budget.allows(peer, self._clock.boot())
        )

    def _under_way(self, peer: str) -> int:
        return sum(name == peer for name in self._tasks.values())

    def take_up(self, heard: Iterable[str]) -> None:
        """Have the peers forgotten that an earlier run did not live to forget."""
        for name in heard:
            if self._gatekeeper.peers.by_name(name) is not None:
                self._silence.heard(self._gatekeeper.peer(name))

    async def stop(self) -> None:
        """Bring nothing up any more, and let requests under way finish, but not for long."""
        self._silence.stop()
        self._stopping = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=STOP_SECONDS)

    async def _serve(self, accepted: Accepted, source: IPv6Address, port: int) -> None:
        """Carry a request out and answer it."""
        # A peer's requests are carried out in their order: a `down` that overtakes the work of an
        # `up` would find nothing to remove.
        turn = self._turns.setdefault(accepted.peer, asyncio.Lock())
        try:
            async with turn:
                await self._pace(accepted)
                reply = await self._once(accepted)
        except AnubisError as error:
            verb = Verb(accepted.request.verb).name.lower()
            self._log(logging.ERROR, "failed", accepted.peer, verb=verb, reason=error.message)
            reply = self._reply(accepted, Result.FAILED, _FAILED)
        except Exception:
            # A bug. The peer is told all the same: it would ask again until its deadline.
            logging.getLogger(__name__).exception("failed peer=%s", accepted.peer)
            reply = self._reply(accepted, Result.FAILED, _FAILED)
        await self._deliver(accepted, self._responder.answer(accepted, reply), source, port)

    async def _pace(self, accepted: Accepted) -> None:
        """Let a peer that changes its connection again and again wait, rather than the others.

        It is not told to come again: a script that goes up and down is only slowed.
        """
        if accepted.request.verb in _CHANGING:
            while not self._changes.allows(accepted.peer, self._clock.boot()):  # noqa: ASYNC110
                await asyncio.sleep(1 / CHANGES.per_second)

    async def _deliver(
        self, accepted: Accepted, datagram: bytes, source: IPv6Address, port: int
    ) -> None:
        """Send a reply; leave no session with a daemon that then has nothing up.

        A daemon makes its end anew as well; should the reply be lost, it begins with a handshake.
        """
        peer = self._gatekeeper.peers.by_name(accepted.peer)
        if peer is None:
            return  # its entry was removed meanwhile: it is a stranger now
        is_last = port == SERVICE_PORT and self._gatekeeper.connection(peer.name) is None
        try:
            sent = await self._parts.control.bytes_sent(peer) if is_last else 0
            self._send(datagram, source, port)
            if is_last:
                await self._parts.control.await_sent(peer, sent)
                if self._under_way(peer.name) == 1:  # this one; the next will ask this itself
                    await self._silence.fall(peer)
        except AnubisError as error:
            event(logging.WARNING, "not_silent", peer=peer.name, reason=error.message)

    async def _once(self, accepted: Accepted) -> Reply:
        """Carry a request out so that it is refused ever after.

        Its time is written down before anything is done, which outlives this daemon, and is on the
        disk before it is answered: a power cut before that undoes what was done, too.
        """
        try:
            await self._watermarks.record()
        except LocalFailure:
            # What removes something must be possible always, and may be done twice.
            if accepted.request.verb in (Verb.UP, Verb.RENEW):
                raise
        syncing = asyncio.create_task(self._watermarks.sync())
        try:
            return await self._carry_out(accepted)
        finally:
            await syncing

    async def _carry_out(self, accepted: Accepted) -> Reply:
        request = accepted.request
        verb = Verb(request.verb)
        decision = self._gatekeeper.judge(accepted.peer, verb, request.lease, self._clock.boot())
        result, reason = Result.DONE, ""
        match decision:
            case Refuse(result, reason):
                self._log(
                    logging.WARNING,
                    "refused",
                    accepted.peer,
                    verb=verb.name.lower(),
                    result=result.name.lower(),
                    reason=self._explain(decision, accepted.peer),
                )
            case Open(peer, lease):
                await self._open(peer, lease)
            case Close(peer):
                await self._close(peer, verb, request.reason)
            case Keep(peer, result):
                if verb is Verb.UP:
                    await self._production.commit(peer, None)
                self._parts.try_to_save()
        return await self._report(accepted, result, reason)

    async def _open(self, peer: AuthorizedPeer, lease: int) -> None:
        try:
            await self._production.commit(peer, None)
            await self._parts.begin(peer, Role.RESPONDER, lease)
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

    async def _report(self, accepted: Accepted, result: Result, reason: str) -> Reply:
        """Return the reply, with the state of the connection as it is now."""
        reply = self._reply(accepted, result, reason)
        connection = self._gatekeeper.connection(accepted.peer)
        if connection is None:
            return reply
        entry = self._gatekeeper.peer(accepted.peer)
        now = self._clock.unix_ns() / 1e9
        try:
            peer = await self._production.peer(entry)
        except LocalFailure as error:  # what was done is done; the reply can do without
            self._log(logging.WARNING, "not_read", accepted.peer, reason=error.message)
            peer = None
        return Reply(
            request_id=reply.request_id,
            unix_ns=reply.unix_ns,
            result=result,
            state=State.UP,
            lease=max(0, round(connection.expires - self._clock.boot())),
            reason=reason,
            up_for=max(0, int(now - connection.since)),
            handshake_age=max(0, int(now - peer.last_handshake))
            if peer and peer.last_handshake
            else None,
            transfer=(peer.rx_bytes, peer.tx_bytes) if peer else None,
            endpoint=(peer.endpoint.address, peer.endpoint.port)
            if peer and peer.endpoint
            else None,
            installed=tuple(sorted(entry.allowed_ips, key=str)),
        )

    def _reply(self, accepted: Accepted, result: Result, reason: str) -> Reply:
        return Reply(accepted.request.request_id, self._clock.unix_ns(), result, reason=reason)

    def _send(self, datagram: bytes, source: IPv6Address, port: int) -> None:
        self._parts.control.send(datagram, source, port)

    def _log_drop(self, reason: str, peer: str | None, source: IPv6Address) -> None:
        level = logging.DEBUG if reason == "in_progress" else logging.WARNING
        self._log(level, "dropped", peer, reason=reason, source=source)

    def _log(self, level: int, name: str, peer: str | None, **fields: object) -> None:
        """Log, but no more than a line a second of a kind: a flood must not fill the journal."""
        kept = self._throttle.passes(f"{name} {peer} {fields.get('reason')}", self._clock.boot())
        if kept is not None:
            event(level, name, peer=peer, **fields, not_shown=kept or None)
