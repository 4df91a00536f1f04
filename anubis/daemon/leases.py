"""What time asks of this host: renewing what it initiated, ending what nobody renewed.

What is pinned does not end; what is wanted and lost is asked for again. One task sleeps until the
gatekeeper has something due.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from anubis.daemon.goodbye import Reason
from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.daemon.resolver import resolve
from anubis.daemon.road import Contact
from anubis.errors import AnubisError
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.gatekeeper import Connection, Due, retry_seconds
from anubis.protocol.wire import Result, Verb
from anubis.wishes import Wish

__all__ = ["Leases"]

RENEW_SECONDS = 10.0  # for one renewal to be answered
MAX_SLEEP = 60.0  # seconds; the sleeper's clock stands still in suspend, leases do not


class Leases:
    """Renews and expires. `revive` brings up what is wanted; it raises AnubisError."""

    def __init__(self, parts: Parts, revive: Callable[[Wish], Awaitable[None]]) -> None:
        self._parts = parts
        self._revive = revive
        self._gatekeeper = parts.gatekeeper
        self._control = parts.control
        self._clock = parts.clock
        self._changed = asyncio.Event()
        self._renewing: set[str] = set()

    def wake(self) -> None:
        """Look again: a connection came, went or was renewed."""
        self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                now = self._clock.boot()
                for due, connection in self._gatekeeper.due(now):
                    peer = self._gatekeeper.peers.by_name(connection.name)
                    if peer is None:
                        continue  # removed while another ended
                    if due is Due.RENEW:
                        self._gatekeeper.postpone(connection.name, now)
                        if connection.name not in self._renewing:
                            group.create_task(self._renew(connection, peer))
                    else:
                        await self._end(peer, Reason.EXPIRED)
                        group.create_task(self._part(peer, Reason.EXPIRED))
                for wish in self._gatekeeper.wishes.take_due(now):
                    group.create_task(self._ask_again(wish))
                await self._sleep()

    async def _sleep(self) -> None:
        """Sleep until something is due or has changed."""
        self._changed.clear()
        pause = min(MAX_SLEEP, self._gatekeeper.next_due() - self._clock.boot())
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, pause)):
                await self._changed.wait()

    async def _ask_again(self, wish: Wish) -> None:
        """Bring up what is wanted and was lost; if that fails, try again later."""
        try:
            await self._revive(wish)
        except AnubisError as error:
            event(logging.INFO, "still_lost", connection=wish.name, reason=error.message)
            self._lose(wish.name)

    def _lose(self, name: str) -> None:
        self._gatekeeper.wishes.lose(name, self._clock.boot(), self._parts.jitter())
        self.wake()

    async def farewell(self) -> None:
        """Before the daemon stops: tell every far end, all at once and not for long."""
        peers = self._gatekeeper.up_peers()
        await asyncio.gather(*(self._parts.leave(peer, Reason.SHUTDOWN) for peer in peers))
        await self._parts.goodbyes.say_all(peers, Reason.SHUTDOWN)

    async def _renew(self, connection: Connection, peer: AuthorizedPeer) -> None:
        self._renewing.add(connection.name)
        try:
            await self._renew_once(connection, peer)
        finally:
            self._renewing.discard(connection.name)

    async def _renew_once(self, connection: Connection, peer: AuthorizedPeer) -> None:
        seconds = min(RENEW_SECONDS, retry_seconds(connection.lease))
        deadline = asyncio.get_running_loop().time() + seconds
        lease, contact = self._gatekeeper.wanted_lease(peer, connection.lease), Contact()
        try:
            reply = await self._control.ask(
                peer, Verb.RENEW, deadline=deadline, lease=lease, contact=contact
            )
        except AnubisError as error:
            event(logging.WARNING, "renew_failed", connection=peer.name, reason=error.message)
            if self._clock.boot() >= connection.expires:
                self._lose(peer.name)
            return
        if self._gatekeeper.connection(peer.name) is None:
            return
        if reply.granted:
            now, jitter = self._clock.boot(), self._parts.jitter()
            self._gatekeeper.extend(peer.name, reply.lease, now, jitter)
            self._parts.try_to_save()
            event(logging.DEBUG, "renewed", connection=peer.name, lease=reply.lease)
            await self._follow(peer, contact)
        elif reply.result == Result.NO_CONNECTION and self._stays(peer, reply.reason):
            # This side stays: what is meant for the tunnel shall not leave by another way.
            event(logging.WARNING, "lost", connection=peer.name, reason="gone at the far end")
            self._lose(peer.name)
        elif reply.result == Result.NO_CONNECTION:
            known = reply.reason in set(Reason)
            await self._end(peer, reply.reason if known else "forgotten by the far end")
            await self._parts.silence.fall(peer)
        else:
            event(logging.WARNING, "renew_refused", connection=peer.name, reason=reply.reason)

    def _stays(self, peer: AuthorizedPeer, reason: str) -> bool:
        """Return whether what the far end has no longer is to be asked for again."""
        return peer.name in self._gatekeeper.wishes and reason != Reason.IDLE

    async def _follow(self, peer: AuthorizedPeer, contact: Contact) -> None:
        """If the far end was found elsewhere than production is, have production go there."""
        found = contact.endpoint
        try:
            seen = await self._parts.production.peer(peer)
            at = seen.endpoint if seen else None
            if peer.endpoint is None or not found or not at or found.address == at.address:
                return
            for endpoint in await resolve(peer.endpoint):
                if endpoint.address == found.address:
                    await self._parts.production.nudge([peer], endpoint)
                    event(logging.INFO, "far_end_moved", connection=peer.name, endpoint=endpoint)
        except AnubisError as error:
            event(logging.WARNING, "not_followed", connection=peer.name, reason=error.message)

    async def finish(self, peer: AuthorizedPeer, reason: str) -> None:
        """Take a connection down before its lease ends, and tell the far end why."""
        await self._end(peer, reason)
        await self._part(peer, reason)

    async def _end(self, peer: AuthorizedPeer, reason: str) -> None:
        await self._parts.end(peer, reason)
        event(logging.INFO, "down", connection=peer.name, reason=reason)

    async def _part(self, peer: AuthorizedPeer, reason: str) -> None:
        """Say goodbye, and then nothing more."""
        await self._parts.goodbyes.say(peer, reason)
        await self._parts.silence.fall(peer)
