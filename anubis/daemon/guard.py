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
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from math import inf

from anubis.daemon.control_plane import ControlPlane
from anubis.daemon.log import event
from anubis.daemon.patience import LAST_PAUSE, Patience
from anubis.daemon.production import Production
from anubis.daemon.shares import Shares
from anubis.errors import AnubisError
from anubis.network.changes import Mended
from anubis.network.watch import Change, Watch

__all__ = ["Guard"]

_LOOK_INTERVAL = 0.05  # seconds from one look to the next, in the long run
_LOOKS_AT_ONCE = 4  # without an interval: what one stranger does takes him several steps
FIRST_RETRY = 0.05  # seconds until what could not be put right is tried again; doubles
_FIRST_POLL, _LAST_POLL = 1.0, 60.0  # seconds between looks at WireGuard, which tells nothing
_REST = 20  # such a look takes at most one part in so many of the time
_MAX_NAMED = 12  # things in one line of the log

_NOTHING = Change(0)


class Guard:
    """Watches over both interfaces and all shares of the network; `run` opens it."""

    def __init__(
        self, shares: Shares, control: ControlPlane, production: Production, table: int
    ) -> None:
        self.mends: Counter[str] = Counter()  # things that were put right, by how they were found
        self._shares = shares
        self._control = control
        self._production = production
        self._table = table
        self._patience = Patience()
        self._listeners: list[Callable[[], None]] = []
        self._failing: dict[str, str] = {}  # what could not be put right, and why
        self._pause = FIRST_RETRY  # seconds, before what failed is tried again
        self._due = inf  # in the loop's time: when to look at everything without a notice
        self._poll = inf  # the same, at what WireGuard has on its interfaces
        self._watch: Watch | None = None

    def on_connectivity(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the host's addresses or default routes have changed."""
        self._listeners.append(listener)

    def look_again(self) -> None:
        """Look at everything soon: something of ours could not be taken away."""
        if self._watch is not None and self._due == inf:
            self._due = asyncio.get_running_loop().time()
            self._watch.nudge()

    def wake(self) -> None:
        """Look whether a connection is up now: while one is, WireGuard is looked at regularly."""
        if self._watch is not None and (self._poll == inf) == self._production.is_up:
            self._watch.nudge()

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
        interfaces = (self._control.name, self._production.name)
        with Watch(interfaces, self._table, own_ports=(port,)) as self._watch:
            heard = Change.ANYTHING  # nobody was listening until now
            spent = 0.0  # the time up to which looks have used up their share
            while True:
                began = loop.time()
                await _finished(self._look(heard, began))
                spent = max(spent, began - _LOOKS_AT_ONCE * _LOOK_INTERVAL) + _LOOK_INTERVAL
                await asyncio.sleep(spent - loop.time())
                heard = await self._next(self._watch)

    async def _next(self, watch: Watch) -> Change:
        """Wait for something to look at; Change(0): it is time to look at WireGuard."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._production.is_up:
                self._poll = inf
            elif self._poll == inf:
                self._poll = loop.time() + _FIRST_POLL
            due = min(self._due, self._poll)
            try:
                async with asyncio.timeout_at(None if due == inf else due):
                    heard = await watch.next()
            except TimeoutError:
                return Change.ANYTHING if self._due <= loop.time() else Change(0)
            if Change.CONNECTIVITY in heard:
                for listener in self._listeners:
                    listener()
            if heard & ~Change.CONNECTIVITY:
                return heard

    async def _look(self, heard: Change, began: float) -> None:
        """Look at what the notices were about, and at what is overdue."""
        if self._due <= began or self._failing:
            heard = Change.ANYTHING
        if heard == Change.ANYTHING:
            self._due = inf  # else what is held back elsewhere still waits for its moment
        held_back: list[str] = []

        def allow(thing: str) -> bool:
            if self._patience.allows(thing, began):
                return True
            held_back.append(thing)
            return False

        deep = heard in (Change(0), Change.ANYTHING)
        mended: list[Mended] = []
        if deep or heard & (Change.LINK | Change.ADDRESS):
            mended += await _mended(self._control.name, self._control.mend(allow, deep=deep))
            mended += await _mended(self._production.name, self._production.mend(allow))
            mended += await _mended(self._control.name, self._follow_mark())
            took = asyncio.get_running_loop().time() - began
            if self._production.is_up:
                self._poll = began + took + min(_LAST_POLL, max(_FIRST_POLL, _REST * took))
        if mended:
            heard |= Change.ROUTE  # they go with their interface
        if heard:
            mended += await _mended("what is ours", self._shares.restore(heard, allow))
        self._report(mended, began)
        self._plan(held_back, began)

    async def _follow_mark(self) -> tuple[Mended, ...]:
        if self._production.is_up:
            await self._control.set_mark(self._production.mark)
        return ()

    def _report(self, mended: Sequence[Mended], began: float) -> None:
        """Say what was put right, how fast, and what was not and why; each only once."""
        loop = asyncio.get_running_loop()
        done = [one for one in mended if one.failure is None]
        self.mends.update(one.how for one in done)
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
            self._pause = FIRST_RETRY
        self._due = min([self._due, *dues])


async def _mended(what: str, mending: Awaitable[Iterable[Mended]]) -> list[Mended]:
    """Return what was mended, or that nothing of it could be."""
    try:
        return list(await mending)
    except AnubisError as error:
        return [Mended(what, "unknown", error.message)]


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
