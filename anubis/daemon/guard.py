"""The guard: hears what strangers do to what is ours, looks again, and puts it right.

The daemon's one reader of `Watch`. Owns when to look, how often, and what is said of it. Refuses
to know what there should be, which its parts know, and whether the host has moved, which is for
those who asked to be told of its connectivity.

A notice only says where to look, so a message that was lost, doubled or late does no harm. What
cannot be put right now (a route whose interface is down) is tried again at every later notice, and
after pauses that grow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from math import inf

from anubis.daemon.log import event
from anubis.daemon.patience import FIRST_PAUSE, LAST_PAUSE, Patience
from anubis.daemon.shares import Shares
from anubis.errors import AnubisError
from anubis.network.changes import Mended
from anubis.network.watch import Change, Watch

__all__ = ["Guard"]

_LOOK_INTERVAL = 0.05  # seconds from one look to the next, in the long run
_LOOKS_AT_ONCE = 4  # without an interval: what one stranger does takes him several steps
_MAX_NAMED = 12  # things in one line of the log

_NOTHING = Change(0)


class Guard:
    """Watches over all shares of the network. Opened in the daemon's network namespace by `run`."""

    def __init__(self, shares: Shares, interfaces: Iterable[str], table: int) -> None:
        self._shares = shares
        self._interfaces = tuple(interfaces)
        self._table = table
        self._patience = Patience()
        self._listeners: list[Callable[[], None]] = []
        self._failing: dict[str, str] = {}  # what could not be put right, and why
        self._pause = FIRST_PAUSE  # seconds, before what failed is tried again
        self._due = inf  # in the loop's time: when to look without a notice

    def on_connectivity(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the host's addresses or default routes have changed."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Guard until cancelled; what is being put right then is finished first."""
        while True:
            try:
                await self._guard()
            except AnubisError as error:
                event(logging.ERROR, "watch_failed", reason=error.message, again_in=self._pause)
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, LAST_PAUSE)

    async def _guard(self) -> None:
        loop = asyncio.get_running_loop()
        port = self._shares.network.netlink.port
        with Watch(self._interfaces, self._table, own_ports=(port,)) as watch:
            heard = Change.ANYTHING  # nobody was listening until now
            spent = 0.0  # the time up to which looks have used up their share
            while True:
                began = loop.time()
                await _finished(self._look(heard, began))
                spent = max(spent, began - _LOOKS_AT_ONCE * _LOOK_INTERVAL) + _LOOK_INTERVAL
                await asyncio.sleep(spent - loop.time())
                heard = await self._next(watch)

    async def _next(self, watch: Watch) -> Change:
        """Wait for something to look at."""
        while True:
            try:
                async with asyncio.timeout_at(None if self._due == inf else self._due):
                    heard = await watch.next()
            except TimeoutError:
                return Change.ANYTHING
            if Change.CONNECTIVITY in heard:
                for listener in self._listeners:
                    listener()
            if heard & ~Change.CONNECTIVITY:
                return heard

    async def _look(self, heard: Change, began: float) -> None:
        """Look at what the notices were about, and at what is overdue."""
        if self._due <= began or self._failing:
            heard = Change.ANYTHING
        self._due = inf
        held_back: list[str] = []

        def allow(thing: str) -> bool:
            if self._patience.allows(thing, began):
                return True
            held_back.append(thing)
            return False

        try:
            mended = await self._shares.restore(heard, allow)
        except AnubisError as error:
            mended = (Mended("what is ours", "unknown", error.message),)
        self._report(mended, began)
        self._plan(held_back, began)

    def _report(self, mended: Sequence[Mended], began: float) -> None:
        """Say what was put right, how fast, and what was not and why; each only once."""
        loop = asyncio.get_running_loop()
        done = [one for one in mended if one.failure is None]
        for how in dict.fromkeys(one.how for one in done):
            things = [one.what for one in done if one.how == how]
            took = 1000 * (loop.time() - began)
            event(logging.WARNING, how, what=_listed(things), put_right_ms=took)
        for one in done:
            pause = self._patience.put_back(one.what, loop.time())
            if pause:
                event(logging.WARNING, "contested", what=one.what, next_in=pause)
        failing = {one.what: one.failure for one in mended if one.failure is not None}
        for what, reason in failing.items():
            if self._failing.get(what) != reason:
                event(logging.ERROR, "not_put_right", what=what, reason=reason)
        self._failing = failing

    def _plan(self, held_back: Iterable[str], began: float) -> None:
        """Decide when to look without a notice: never, if all is well."""
        dues = [self._patience.due(thing) for thing in held_back]
        if self._failing:
            dues.append(began + self._pause)
            self._pause = min(2 * self._pause, LAST_PAUSE)
        else:
            self._pause = FIRST_PAUSE
        self._due = min(dues, default=inf)


def _listed(things: Sequence[str]) -> str:
    """Name the first things and count the others."""
    more = len(things) - _MAX_NAMED
    return ", ".join(things[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


async def _finished(work: Coroutine[None, None, None]) -> None:
    """Await work that is not left half done: a cancellation waits for its end."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        raise
