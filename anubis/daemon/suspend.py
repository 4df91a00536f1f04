"""What becomes of connections when the host suspends, and when it has resumed.

Owns what the far ends are told before, and what shall come back after. Refuses to know how a
suspend is heard of, which is `sleep`, and how a connection is brought up again (`leases`).

What this host asked for stays in place here, lost: its routes hold, so that nothing that is meant
for the tunnel leaves by another way before the far end is asked again. What others asked for goes,
if its initiator has acknowledged that it knows; else it stays until its lease ends, and after a
short sleep simply goes on.
"""

from __future__ import annotations

import asyncio
import logging

from anubis.daemon.goodbye import Reason
from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.errors import AnubisError
from anubis.gatekeeper import Connection, Role

__all__ = ["Suspend"]

_WHY = "the host suspends"


class Suspend:
    """Takes the connections of one daemon through a suspend."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._gatekeeper = parts.gatekeeper

    async def before(self) -> None:
        """Tell every far end, all at once; each for as long as a goodbye takes.

        What shall come back is written down first, for a daemon that is killed from here on.
        """
        wishes, now = self._gatekeeper.wishes, self._parts.clock.boot()
        wishes.rest()
        for connection in self._gatekeeper:
            if connection.role is Role.INITIATOR:
                if connection.name not in wishes:
                    wishes.want(connection.name, connection.lease, connection.expires)
                wishes.lose(connection.name, now, 0.0)
        self._parts.try_to_save()
        await asyncio.gather(*(self._leave(connection) for connection in self._gatekeeper))

    async def after(self) -> None:
        """Have everything asked for that is still wanted, at once."""
        self._gatekeeper.wishes.wake(self._parts.clock.boot())
        self._parts.try_to_save()

    async def _leave(self, connection: Connection) -> None:
        """Tell one far end; if it then has nothing up, leave it in silence."""
        peer = self._gatekeeper.peers.by_name(connection.name)
        if peer is None or peer.name in self._gatekeeper.bare:
            return  # removed in the same moment, and told that; or nobody is there to be told
        is_told = await self._parts.goodbyes.say(peer, Reason.SUSPEND)
        try:
            if not is_told:
                await self._parts.control.take_back(peer)
            elif connection.role is Role.INITIATOR:
                event(logging.INFO, "lost", connection=peer.name, reason=_WHY)
                await self._parts.control.keep_alive(peer, on=False)
                await self._parts.control.forget(peer)
            else:
                event(logging.INFO, "down", connection=peer.name, reason=_WHY)
                await self._parts.end(peer, Reason.SUSPEND)
                await self._parts.silence.fall(peer)
        except AnubisError as error:
            event(logging.WARNING, "not_silent", connection=peer.name, reason=error.message)
