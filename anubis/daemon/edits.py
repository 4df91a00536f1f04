"""Hearing that somebody has edited the authorized peers, from the kernel's inotify.

Owns the watches: on every directory in which a change could change what is read (`whereabouts`),
laid anew before each reading, so that nothing which comes after it is missed. When the files are
worth reading says `calm`. Refuses to know what they say and what comes of a change.

A file system without notices, as one over the network, has none of this; nor has a host whose
watches are all taken. That is said once, and tried again later where later may be better.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from inotify_simple import Event, INotify, flags

from anubis.daemon.calm import Calm
from anubis.daemon.log import event
from anubis.files.whereabouts import Interest, whereabouts

__all__ = ["Edits"]

RETRY_SECONDS = 60.0  # when the host has no watches left
BREATH = 0.05  # seconds between two looks, whatever else goes on in the same directories
_TRIES = 5  # to lay watches along a way that is changed meanwhile

_WAY = (
    flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.ATTRIB
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
    | flags.DONT_FOLLOW
)
_COMING = flags.CREATE | flags.MOVED_TO
_CONTENTS = flags.MODIFY | flags.CLOSE_WRITE
_OF_ITSELF = (
    flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.IGNORED
)  # of a directory; it has no name then
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}  # the way has just changed
_HINTS = {
    errno.ENOSPC: "no watches are left: sysctl fs.inotify.max_user_watches",
    errno.EMFILE: "no watches are left: sysctl fs.inotify.max_user_instances",
    errno.EACCES: "let the service list this directory, or reload by hand",
}


class Edits:
    """Listens for changes of `path` and `path.d/*.conf`, from its making on.

    `clock` gives seconds, from any beginning. Making it and listening fail never.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._calm = Calm()
        self._inotify: INotify | None = None
        self._watches: dict[int, Interest] = {}
        self._failures: set[tuple[Path, int | None]] = set()  # as they were told
        self._astray = False  # the way leads elsewhere than the watches
        self._lay_again = float("inf")  # when to try what failed
        self._lay()

    async def run(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever the files may say something else; serve until cancelled."""
        while True:
            await self._wait(min(self._calm.due(), self._lay_again) - self._clock())
            self._hear()
            now = self._clock()
            if self._astray or now >= self._lay_again:
                self._lay()
            if now >= self._calm.due():
                # First the watches: what is changed while it is read is another change.
                self._calm.read()
                self._lay()
                on_change()
            await asyncio.sleep(BREATH)

    def close(self) -> None:
        """Listen no more."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._watches.clear()

    async def _wait(self, seconds: float) -> None:
        """Wait until there is something to hear, at most so long."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        inotify = self._inotify
        if inotify is not None:
            loop.add_reader(inotify.fileno(), ready.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if seconds == float("inf") else max(0.0, seconds)):
                    await ready.wait()
        finally:
            if inotify is not None:
                loop.remove_reader(inotify.fileno())

    def _hear(self) -> None:
        if self._inotify is not None:
            now = self._clock()
            for notice in self._inotify.read(timeout=0):
                self._take(notice, now)

    def _take(self, notice: Event, now: float) -> None:
        if notice.mask & flags.Q_OVERFLOW:
            self._calm.changed(now)  # nobody knows what was lost
            return
        interest = self._watches.get(notice.wd)
        if interest is None:
            return  # of a watch that was taken away
        place = notice.wd, notice.name
        if not notice.name:
            if notice.mask & _OF_ITSELF:
                self._calm.changed(now)
            if notice.mask & flags.IGNORED:
                del self._watches[notice.wd]
                self._astray = True
        elif not interest.concerns(notice.name):
            return
        elif notice.mask & flags.MODIFY:
            self._calm.being_written(place, now)
        else:
            self._calm.written(place, now)
            self._astray |= bool(notice.mask & _COMING)

    def _lay(self) -> None:
        """Lay watches along the way as it is now; if it does not hold still, note a change."""
        failed_before = self._lay_again < float("inf")
        self._astray, self._lay_again = False, float("inf")
        for _ in range(_TRIES):
            places = whereabouts(self._path)
            self._watch(places)
            if whereabouts(self._path) == places:
                break
        else:
            self._calm.changed(self._clock())
        if failed_before and self._lay_again == float("inf"):
            self._calm.changed(self._clock())  # what was missed meanwhile

    def _watch(self, places: dict[Path, Interest]) -> None:
        """Watch these directories and no others."""
        watches: dict[int, Interest] = {}
        failures: dict[Path, OSError] = {}
        try:
            self._inotify = self._inotify or INotify(nonblocking=True)
            for directory, interest in places.items():
                mask = _WAY | (_CONTENTS if interest.contents else 0)
                try:
                    watches[self._inotify.add_watch(directory, mask)] = interest
                except OSError as error:
                    failures[directory] = error
            for stale in self._watches.keys() - watches.keys():
                with suppress(OSError):  # it has gone with its directory
                    self._inotify.rm_watch(stale)
        except OSError as error:
            failures[self._path.parent] = error
        self._watches = watches
        self._tell({place: e for place, e in failures.items() if e.errno not in _GONE})

    def _tell(self, failures: dict[Path, OSError]) -> None:
        """Say once that changes in a directory are not noticed; plan to try again."""
        told, self._failures = self._failures, set()
        for directory, error in failures.items():
            if error.errno != errno.EACCES:  # of that we hear when the directory is changed
                self._lay_again = self._clock() + RETRY_SECONDS
            self._failures.add((directory, error.errno))
            if (directory, error.errno) not in told:
                hint = _HINTS.get(error.errno or 0, "reload by hand")
                reason = f"{error.strerror}; {hint}"
                event(logging.WARNING, "not_watched", directory=directory, reason=reason)
