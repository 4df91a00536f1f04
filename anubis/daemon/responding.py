"""What other hosts ask of this one by the protocol: each request opened, carried out, answered.

Owns the shell around the sans-IO `Responder`, and that a request counts once only. Refuses to
decide, and to know how it is carried out, which is `serving`. Every drop is logged with its reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv6Address

from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.daemon.serving import Outcome, Serving
from anubis.daemon.watermarks import Watermarks
from anubis.errors import AnubisError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.network.plan import SERVICE_PORT
from anubis.protocol.responder import Accepted, Answered, Dropped, Responder
from anubis.protocol.tai64n import NANOSECONDS
from anubis.protocol.wire import Reply, Result, State, Verb

__all__ = ["Responding"]

_FAILED = "it failed here and was rolled back; see the log"
STOP_SECONDS = 0.5


class Responding:
    """Serves the requests that come through the control plane as datagrams."""

    def __init__(
        self, responder: Responder, watermarks: Watermarks, serving: Serving, parts: Parts
    ) -> None:
        self._responder = responder
        self._watermarks = watermarks
        self._serving = serving
        self._parts = parts
        self._gatekeeper = parts.gatekeeper
        self._clock = parts.clock
        self._started = parts.clock.boot()
        self._tasks: set[asyncio.Task[None]] = set()
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
                level = logging.DEBUG if reason == "in_progress" else logging.WARNING
                self._serving.log(level, "dropped", peer, reason=reason, source=source)
            case Answered(datagram=answer, peer=peer, result=result, repeat=repeat):
                level = logging.DEBUG if repeat else logging.WARNING
                name = "repeated" if repeat else "refused"
                reason = Result(result).name.lower()
                # Who is refused by the protocol itself has no verb that could be believed.
                self._serving.count("unknown", "repeated" if repeat else reason)
                self._serving.log(level, name, peer, reason=reason, source=source)
                self._send(answer, source, port)
            case Accepted() as accepted if (why := self._not_now(accepted)) is not None:
                reply = self._reply(accepted, Outcome(Result.BUSY, why))
                self._count(accepted, reply)
                self._send(self._responder.answer(accepted, reply), source, port)
                self._serving.log(
                    logging.WARNING, "refused", accepted.peer, reason="busy", source=source
                )
            case Accepted() as accepted:
                task = asyncio.create_task(self._serve(accepted, source, port))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(lambda _: self._serving.release(accepted.peer))

    def _count(self, accepted: Accepted, reply: Reply) -> None:
        verb, result = Verb(accepted.request.verb), Result(reply.result)
        self._serving.count(verb.name.lower(), result.name.lower())

    def _note_speaker(self, peer: AuthorizedPeer, port: int) -> None:
        """Note whether a daemon has spoken, which is known by its port, or a one-shot."""
        if port == SERVICE_PORT:
            self._gatekeeper.bare.discard(peer.name)
            self._silence.heard(peer)
        else:
            self._parts.note_bare(peer)

    def _not_now(self, accepted: Accepted) -> str | None:
        """Return why a request cannot be taken; what comes too late could not be told the end."""
        if self._serving.is_stopping and accepted.request.verb == Verb.UP:
            return "the daemon is stopping"
        if not self._serving.take(accepted.peer):
            return "too many requests; ask again in a moment"
        return None

    def take_up(self, heard: Iterable[str]) -> None:
        """Have the peers forgotten that an earlier run did not live to forget."""
        for name in heard:
            if self._gatekeeper.peers.by_name(name) is not None:
                self._silence.heard(self._gatekeeper.peer(name))

    async def stop(self) -> None:
        """Bring nothing up any more, and let requests under way finish, but not for long."""
        self._silence.stop()
        admitted = asyncio.create_task(self._serving.stop(STOP_SECONDS))
        await asyncio.wait({admitted, *self._tasks}, timeout=STOP_SECONDS)

    async def _serve(self, accepted: Accepted, source: IPv6Address, port: int) -> None:
        """Carry a request out and answer it."""
        name, verb = accepted.peer, Verb(accepted.request.verb)
        try:
            async with self._serving.turn(name, verb):
                reply = await self._once(accepted)
        except AnubisError as error:
            word = verb.name.lower()
            self._serving.log(logging.ERROR, "failed", name, verb=word, reason=error.message)
            reply = self._reply(accepted, Outcome(Result.FAILED, _FAILED))
        except Exception:
            # A bug. The peer is told all the same: it would ask again until its deadline.
            logging.getLogger(__name__).exception("failed peer=%s", name)
            reply = self._reply(accepted, Outcome(Result.FAILED, _FAILED))
        self._count(accepted, reply)
        await self._deliver(accepted, self._responder.answer(accepted, reply), source, port)

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
                if self._serving.is_last(peer.name):  # the next will ask this itself
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
            if accepted.request.verb in (Verb.UP, Verb.RENEW, Verb.APPROVE):
                raise
        syncing = asyncio.create_task(self._watermarks.sync())
        request = accepted.request
        try:
            outcome = await self._serving.carry_out(
                accepted.peer,
                Verb(request.verb),
                request.lease,
                request.reason,
                request.subject,
            )
            return await self._report(accepted, outcome)
        finally:
            await syncing

    async def _report(self, accepted: Accepted, outcome: Outcome) -> Reply:
        """Return the reply, with the state of the connection as it is now."""
        reply = self._reply(accepted, outcome)
        if reply.granted and accepted.request.verb in (Verb.STATUS, Verb.APPROVE):
            waiting = self._gatekeeper.waiting(self._clock.boot(), accepted.peer)
            reply = replace(reply, waiting=waiting)
        seen = await self._serving.look(accepted.peer)
        if seen is None:
            return reply
        peer = seen.peer
        return replace(
            reply,
            state=State.UP,
            lease=seen.lease,
            up_for=seen.up_for,
            handshake_age=seen.handshake_age,
            transfer=(peer.rx_bytes, peer.tx_bytes) if peer else None,
            endpoint=(peer.endpoint.address, peer.endpoint.port)
            if peer and peer.endpoint
            else None,
            installed=tuple(sorted(self._gatekeeper.peer(accepted.peer).allowed_ips, key=str)),
        )

    def _reply(self, accepted: Accepted, outcome: Outcome) -> Reply:
        now_ns = self._clock.unix_ns()
        return Reply(accepted.request.request_id, now_ns, outcome.result, reason=outcome.reason)

    def _send(self, datagram: bytes, source: IPv6Address, port: int) -> None:
        self._parts.control.send(datagram, source, port)
