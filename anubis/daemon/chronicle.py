"""What the daemon remembers of the past: which log events are kept, and the file that has them.

It taps the log (`log.tapped`), so nobody tells a thing twice. Owns the table of what is of
interest, and when that is written. Refuses to know the ring (`anubis.history`) and who reads it
(`audience`).

An `up` is never held up: what happens is written a moment later, by a thread, as lines appended to
one file. These are not synchronised: a daemon that is killed loses PAUSE seconds, and a power cut
what the kernel had not written by itself. At the daemon's end, after its start, and when the file
has grown to twice its use, it is written anew and synchronised. However much happens, the file
takes RATE bytes a second in the long run: then the pauses grow, and the ring drops what is never
written.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from anubis.daemon import lasting
from anubis.daemon.aside import Aside
from anubis.daemon.log import event
from anubis.happening import Happening, details
from anubis.history import History

__all__ = ["COUNTED", "TOLD", "Chronicle"]

PAUSE = 2.0  # seconds from a first thing that is not written to its writing
RETRY = 10.0  # seconds until what could not be written is tried again
RATE = 4096  # bytes a second, in the long run
_MAX_FILE = 8 * 2**20  # bytes that are read; twice the history, and room for what superseded
_MAX_UNWRITTEN = 200  # entries that wait for a pause to end
_SPARE = 65_536  # bytes of superseded lines that are not worth writing the file anew
_CLOSE_SECONDS = 2.0  # for the disk, at the daemon's end

# Of a connection, or of the host; each is told by itself.
TOLD = frozenset(
    {
        *{"approved", "up", "up_failed", "down", "lost", "undone", "unpinned", "far_end_moved"},
        *{"not_taken_away", "not_taken_up", "not_refitted", "rollback_failed", "hook_failed"},
        *{"vanished", "changed", "appeared", "remained", "overtaken", "contested", "not_put_right"},
        *{"reloaded", "needs_restart", "network_changed", "suspending", "resumed"},
        *{"ready", "let-go", "stopped"},
    }
)
# What may come again and again, and is then one entry with a number of times.
COUNTED = frozenset(
    {
        *{"renewed", "renew_failed", "renew_refused", "still_lost", "not_followed"},
        *{"not_told", "not_undone", "not_silent", "not_heard"},
        *{"waits_for_approval", "refused", "failed", "dropped", "not_reloaded", "reload_failed"},
    }
)
_KNOWN = TOLD | COUNTED


class Chronicle:
    """The history of one host, in `path`. `now` gives seconds since 1970."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.history = History(COUNTED)
        self.totals: Counter[str] = Counter()  # of each event, since the daemon started
        self.on_news: Callable[[Happening], None] | None = None
        self._now = now
        self._file = _File(path)
        self._unwritten: dict[object, Happening] = {}  # by what a later state supersedes
        self._anew = False  # not all that is to be written is in there
        self._something = asyncio.Event()
        self._thread: Aside[int] = Aside("chronicle")  # one at a time
        self._writing = asyncio.Lock()
        self._failures = 0  # in a row

    def load(self) -> None:
        """Take up what earlier runs left; a file that cannot be read is reported."""
        try:
            self.history.take_up(self._file.load())
        except OSError as error:
            reason = error.strerror
            event(logging.WARNING, "history_unreadable", path=self._file.path, reason=reason)

    def on_event(self, name: str, fields: Mapping[str, object]) -> None:
        """Take a line of the log, if it is one of interest."""
        if name not in _KNOWN:
            return
        rest = dict(fields)
        peer = rest.pop("peer", None)
        connection = rest.pop("connection", peer)
        kept_back = rest.pop("not_shown", None)  # of a flood the log has a line a second
        count = 1 + (kept_back if isinstance(kept_back, int) else 0)
        self.totals[name] += count
        if name == "dropped" and connection is None:
            return  # of strangers there is no history; they are counted elsewhere
        now, whose = self._now(), None if connection is None else str(connection)
        entry = self.history.note(Happening(name, now, now, whose, details(rest), count))
        self._keep(entry)
        if self.on_news is not None:
            self.on_news(entry)

    def _keep(self, entry: Happening) -> None:
        """Have an entry written soon; of too many the file is written anew, as the ring has it."""
        self._unwritten[entry.connection, entry.event, entry.first_at] = entry
        if len(self._unwritten) > _MAX_UNWRITTEN:
            self._unwritten.clear()
            self._anew = True
        self._something.set()

    async def run(self) -> None:
        """Write what happens, until cancelled."""
        while True:
            await self._something.wait()
            await asyncio.sleep(PAUSE)
            written = await self._write()
            await asyncio.sleep(RETRY if written is None else max(0.0, written / RATE - PAUSE))

    async def close(self) -> None:
        """Write everything anew; a disk that takes longer is not waited for."""
        self._anew = True
        self._failures = max(1, self._failures)  # this is the last try
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._write()
        except TimeoutError:
            self._fail("the disk takes too long")

    async def _write(self) -> int | None:
        """Append what is new, or write the file anew; return the bytes, None if that failed."""
        async with self._writing:
            self._something.clear()
            new, self._unwritten = list(self._unwritten.values()), {}
            anew, self._anew = self._anew, False
            if not anew and self._file.takes(len(new)):
                work = partial(self._file.append, new)
            else:
                work = partial(self._file.replace, list(self.history))
            try:
                written = await self._thread.begin(work)
            except OSError as error:
                self._fail(error.strerror)
                self._anew = True
                self._something.set()
                return None
            self._failures = 0
            return written

    def _fail(self, reason: str | None) -> None:
        """Say once that it cannot be written; the first time is no more than a hitch."""
        self._failures += 1
        if self._failures == 2:
            event(logging.ERROR, "history_not_saved", path=self._file.path, reason=reason)


class _File:
    """One JSON object a line. `whole` says that all that is kept is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.whole = False
        # A writer that is not waited for any more may still be at it.
        self._turn = threading.Lock()
        self._size = 0  # bytes
        self._useful = 0  # bytes, when it was written anew

    def load(self) -> list[Happening]:
        """Return what can be read of it; nothing if there is no file. Raises OSError."""
        try:
            with self.path.open("rb") as file:
                content = file.read(_MAX_FILE)
        except FileNotFoundError:
            return []
        return [found for line in content.splitlines() if (found := _read(line)) is not None]

    def takes(self, more: int) -> bool:
        """Tell whether something may be appended."""
        return self.whole and more > 0 and self._size <= 2 * self._useful + _SPARE

    def append(self, entries: Iterable[Happening]) -> int:
        """Append lines, not yet for a power cut. Raises OSError, and then it is not whole."""
        content = _encode(entries)
        with self._turn:
            self.whole = False
            lasting.append(self.path, content)
            self._size += len(content)
            self.whole = True
        return len(content)

    def replace(self, entries: Iterable[Happening]) -> int:
        """Write the file anew, durably: at any instant it is the old or the new one.

        Raises OSError.
        """
        content = _encode(entries)
        with self._turn:
            self.whole = False
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lasting.put(self.path, content, lasting=True)
            self._size = self._useful = len(content)
            self.whole = True
        return len(content)


def _encode(entries: Iterable[Happening]) -> bytes:
    return b"".join(json.dumps(entry.to_json()).encode() + b"\n" for entry in entries)


def _read(line: bytes) -> Happening | None:
    """Return what a line says; None if it was torn, or another version wrote it."""
    try:
        data = json.loads(line)
        return Happening.from_json(data) if isinstance(data, dict) else None
    except (ValueError, RecursionError):
        return None
