"""Staying connected when either end moves: this host to another network, the far end elsewhere.

Owns what is done when this host's connectivity changed, and the suspicion that a far end is no
longer where it was. Refuses to know how it is found: a renewal asks it, and that looks its name up.

WireGuard follows whoever sends from a new address, so the one who moved has to send. Nobody tells
an initiator that its far end has moved, but what it sends is then not answered: a WireGuard that
receives data sends something within 10 s. A suspicion costs one renewal, so it may be wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from math import inf

from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.errors import AnubisError
from anubis.gatekeeper import Connection, Role
from anubis.wireguard.types import Peer

__all__ = ["Roaming", "is_deaf"]

LOOK_SECONDS = 20.0  # between two looks at what was sent and received, while something is up
LIVE_SECONDS = 120.0  # REKEY_AFTER_TIME: with a younger session, no handshake is begun
MERGE_SECONDS = 0.5  # between two changes of connectivity that are acted on
_KEEPALIVE = 32  # bytes; WireGuard answers them with nothing


def is_deaf(before: Peer, now: Peer, seconds: float) -> bool:
    """Return whether a peer got something in these seconds that it should have answered."""
    interval = now.persistent_keepalive
    keepalives = int(seconds / interval) + 1 if interval else 0
    sent, received = now.tx_bytes - before.tx_bytes, now.rx_bytes - before.rx_bytes
    return received == 0 and sent > keepalives * _KEEPALIVE


class Roaming:
    """Follows this host and its far ends. `wake_leases` has what is due looked at again."""

    def __init__(self, parts: Parts, wake_leases: Callable[[], None]) -> None:
        self._parts = parts
        self._gatekeeper = parts.gatekeeper
        self._wake_leases = wake_leases
        self._changed = asyncio.Event()
        self._has_moved = False
        self._seen: dict[str, Peer] = {}  # by connection, at the last look
        self._look_at = inf  # in the loop's time

    def moved(self) -> None:
        """Note that this host's addresses or default routes have changed."""
        self._has_moved = True
        self._changed.set()

    def wake(self) -> None:
        """Note that a connection came or went."""
        self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._sleep()
            try:
                if self._has_moved:
                    self._has_moved = False
                    await self._follow_host()
                    await asyncio.sleep(MERGE_SECONDS)
                elif loop.time() >= self._look_at:
                    self._look_at = inf
                    await self._look()
            except AnubisError as error:
                event(logging.WARNING, "not_followed", reason=error.message)

    async def _sleep(self) -> None:
        """Sleep until the next look or until something has changed."""
        loop = asyncio.get_running_loop()
        if not any(self._ours()):
            self._look_at = inf
            self._seen.clear()
        elif self._look_at == inf:
            self._look_at = loop.time() + LOOK_SECONDS
        if not self._has_moved:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(None if self._look_at == inf else self._look_at):
                    await self._changed.wait()
        self._changed.clear()

    def _ours(self) -> list[Connection]:
        return [each for each in self._gatekeeper if each.role is Role.INITIATOR]

    async def _follow_host(self) -> None:
        """Send something by every connection, and renew those that are ours."""
        event(logging.INFO, "network_changed", connections=len(list(self._gatekeeper)))
        now = self._parts.clock.boot()
        self._gatekeeper.wishes.hurry(now)
        for connection in self._ours():
            self._gatekeeper.hasten(connection.name, now)
        self._wake_leases()
        device = await self._parts.production.device()
        entries = []
        for connection in self._gatekeeper:
            entry = self._gatekeeper.peer(connection.name)
            peer = device.peer(entry.public_key)
            # Of two handshakes that cross, each may destroy the other: the initiator begins.
            if peer is not None and (connection.role is Role.INITIATOR or self._is_live(peer)):
                entries.append(entry)
        await self._parts.production.nudge(entries)

    def _is_live(self, peer: Peer) -> bool:
        return self._parts.clock.unix() - peer.last_handshake < LIVE_SECONDS

    async def _look(self) -> None:
        """Have those asked that do not answer what is sent to them."""
        device = await self._parts.production.device()
        before, self._seen = self._seen, {}
        for connection in self._ours():
            peer = device.peer(self._gatekeeper.peer(connection.name).public_key)
            if peer is None:
                continue
            self._seen[connection.name] = peer
            known = before.get(connection.name)
            if known is not None and is_deaf(known, peer, LOOK_SECONDS):
                event(logging.DEBUG, "not_heard", connection=connection.name)
                self._gatekeeper.hasten(connection.name, self._parts.clock.boot())
                self._wake_leases()
