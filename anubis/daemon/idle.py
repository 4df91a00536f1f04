"""Ending connections that nobody uses, where the administrator says for how long that may be.

Owns when it is looked, and of which connections: those that this host granted. Their initiators
never end them for idleness, so that two ends do not undo each other's work. Refuses to know what
counts as use (`anubis.idleness`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from anubis.daemon.goodbye import Reason
from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.errors import AnubisError
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.idleness import LOOK_SECONDS, Idleness

__all__ = ["Idle"]

_LOOKS = 4  # in a timeout, at least


class Idle:
    """Looks while there is something to look at. `end` takes a connection down at both ends."""

    def __init__(self, parts: Parts, end: Callable[[AuthorizedPeer, str], Awaitable[None]]) -> None:
        self._parts = parts
        self._gatekeeper = parts.gatekeeper
        self._end = end
        self._idleness = Idleness()
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Note that a connection came or went."""
        self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        look_at = loop.time()
        while True:
            timeouts = self._timeouts()
            if timeouts and loop.time() >= look_at:
                look_at = loop.time() + min(LOOK_SECONDS, min(timeouts.values()) / _LOOKS)
                await self._look(timeouts)
                continue
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(look_at if timeouts else None):
                    await self._changed.wait()

    def _timeouts(self) -> dict[str, int]:
        """Return, of the connections that may not be idle for ever, for how many seconds."""
        found = {each.name: self._gatekeeper.idle_timeout(each) for each in self._gatekeeper}
        return {name: seconds for name, seconds in found.items() if seconds}

    async def _look(self, timeouts: dict[str, int]) -> None:
        try:
            device = await self._parts.production.device()
        except AnubisError as error:
            event(logging.WARNING, "idleness_unknown", reason=error.message)
            return
        entries = {entry.name: entry for entry in self._gatekeeper.up_peers()}
        seen = {n: device.peer(entry.public_key) for n, entry in entries.items() if n in timeouts}
        peers = {name: peer for name, peer in seen.items() if peer is not None}
        now = asyncio.get_running_loop().time()
        self._idleness.look(peers, now, self._parts.clock.unix())
        idle = [n for n in peers if self._idleness.idle_seconds(n, now) >= timeouts[n]]
        await asyncio.gather(*(self._end(entries[name], Reason.IDLE) for name in idle))
