"""What time asks of this host: renewing what it initiated, ending what nobody renewed.

One task sleeps until the gatekeeper has something due.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.errors import AnubisError
from anubis.gatekeeper import Connection, Due, Role
from anubis.protocol.wire import Result, Verb

__all__ = ["Leases"]

RENEW_SECONDS = 10.0  # for one renewal to be answered
GOODBYE_SECONDS = 2.0  # for telling the far end that its lease has ended
MAX_SLEEP = 60.0  # seconds; the sleeper's clock stands still in suspend, leases do not


class Leases:
    """Renews and expires."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._gatekeeper = parts.gatekeeper
        self._control = parts.control
        self._clock = parts.clock
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Look again: a connection came, went or was renewed."""
        self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                now = self._clock.boot()
                for due, connection in self._gatekeeper.due(now):
                    if due is Due.RENEW:
                        self._gatekeeper.postpone(connection.name, now)
                        group.create_task(self._renew(connection))
                    else:
                        await self._end(connection, "the lease has ended")
                        group.create_task(self._tell(connection, "the lease has ended"))
                await self._sleep()

    async def _sleep(self) -> None:
        """Sleep until something is due or has changed."""
        self._changed.clear()
        pause = min(MAX_SLEEP, self._gatekeeper.next_due() - self._clock.boot())
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, pause)):
                await self._changed.wait()

    async def farewell(self) -> None:
        """Before the daemon stops: tell every far end, all at once and not for long."""
        asks = [self._tell(connection, "shutdown") for connection in self._gatekeeper]
        await asyncio.gather(*asks)

    async def _renew(self, connection: Connection) -> None:
        peer = self._gatekeeper.peer(connection.name)
        deadline = asyncio.get_running_loop().time() + RENEW_SECONDS
        lease = self._gatekeeper.wanted_lease(peer, connection.lease)
        try:
            reply = await self._control.ask(peer, Verb.RENEW, deadline=deadline, lease=lease)
        except AnubisError as error:
            event(logging.WARNING, "renew_failed", connection=peer.name, reason=error.message)
            return
        if self._gatekeeper.connection(peer.name) is None:
            return
        if reply.granted:
            jitter = self._parts.random(1)[0] / 256
            self._gatekeeper.extend(peer.name, reply.lease, self._clock.boot(), jitter)
            self._parts.save()
            event(logging.DEBUG, "renewed", connection=peer.name, lease=reply.lease)
        elif reply.result == Result.NO_CONNECTION:
            await self._end(connection, "the far end has it no longer")
            await self._parts.fall_silent(peer)
        else:
            event(logging.WARNING, "renew_refused", connection=peer.name, reason=reply.reason)

    async def _end(self, connection: Connection, reason: str) -> None:
        peer = self._gatekeeper.peer(connection.name)
        try:
            await self._parts.end(peer)
        except AnubisError as error:
            event(logging.ERROR, "end_failed", connection=peer.name, reason=error.message)
        event(logging.INFO, "down", connection=peer.name, reason=reason)

    async def _tell(self, connection: Connection, reason: str) -> None:
        """Say goodbye: `down` to whom we asked, `gone` to who asked us."""
        peer = self._gatekeeper.peer(connection.name)
        verb = Verb.DOWN if connection.role is Role.INITIATOR else Verb.GONE
        deadline = asyncio.get_running_loop().time() + GOODBYE_SECONDS
        try:
            try:
                await self._control.ask(peer, verb, deadline=deadline, reason=reason)
            finally:
                await self._parts.fall_silent(peer)
        except AnubisError as error:
            event(logging.WARNING, "not_told", connection=peer.name, reason=error.message)
