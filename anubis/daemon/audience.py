"""Who listens to what happens: a queue for each listener, and its lines sent as they come.

Owns the bounds: how many may listen, and how far one may fall behind before it is cut off and told.
Refuses to know what happens, and HTTP beyond the stream that it writes into.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Generator
from contextlib import contextmanager, suppress
from typing import Protocol

from anubis.errors import LocalFailure
from anubis.events import ErrorEvent, event_to_json
from anubis.happening import Happening

__all__ = ["HEARTBEAT", "Audience", "Listening", "Stream", "TooManyListeners"]

MAX_LISTENERS = 32  # of everybody but root
MAX_OF_USER = 8
MAX_BEHIND = 256  # happenings that wait for one listener
HEARTBEAT = 15.0  # seconds of silence, after which an empty line says that somebody is there
WRITE_SECONDS = 10.0  # for a listener to take one line
_LAST_WORD_SECONDS = 0.1


class TooManyListeners(LocalFailure):
    """As many listen as may."""


class Stream(Protocol):
    """The part of aiohttp's StreamResponse that is needed here."""

    def write(self, data: bytes) -> Awaitable[None]:
        """Send bytes; wait while too many are on their way."""

    def write_eof(self) -> Awaitable[None]:
        """Say that this was all."""

    def force_close(self) -> None:
        """Have the connection closed behind it."""


class Listening:
    """One listener: what it has still to hear, and why it is to hear no more."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Happening | None] = asyncio.Queue(MAX_BEHIND)
        self._end: ErrorEvent | None = None
        self._writing: asyncio.Timeout | None = None

    def hear(self, happening: Happening) -> None:
        """Take something in; a listener whose queue is full hears nothing more but why."""
        if self._end is not None:
            return
        try:
            self._queue.put_nowait(happening)
        except asyncio.QueueFull:
            self.end(f"you read too slowly: {MAX_BEHIND} events were waiting for you")

    def end(self, message: str) -> None:
        """Have the listener told why it hears no more, in the place of what it has not heard."""
        if self._end is None:
            self._end = ErrorEvent.from_error(LocalFailure(message, "call again"))
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(None)
            if self._writing is not None and not self._writing.expired():
                self._writing.reschedule(0)  # waits no longer

    async def serve(self, stream: Stream) -> None:
        """Send what comes, until the end or until the caller leaves, which cancels this."""
        while self._end is None:
            line = b"\n"
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    happening = await self._queue.get()
                if happening is None:
                    break
                line = _line(happening.to_json())
            try:
                async with asyncio.timeout(WRITE_SECONDS) as self._writing:
                    await stream.write(line)
            except TimeoutError:
                self.end(f"you read too slowly: nothing was read for {WRITE_SECONDS:g} s")
            finally:
                self._writing = None
        await self._say_why(stream)

    async def _say_why(self, stream: Stream) -> None:
        """Send the last line; who does not read now has it in its socket when it reads again."""
        stream.force_close()
        if self._end is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORD_SECONDS):
                    await stream.write(_line(event_to_json(self._end)))
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORD_SECONDS):
                    await stream.write_eof()


class Audience:
    """All listeners of one daemon."""

    def __init__(self) -> None:
        self._listeners: dict[Listening, int] = {}  # and whose they are

    def __len__(self) -> int:
        return len(self._listeners)

    def tell(self, happening: Happening) -> None:
        """Have everybody hear something."""
        for listener in self._listeners:
            listener.hear(happening)

    @contextmanager
    def listener(self, uid: int) -> Generator[Listening, None, None]:
        """Let a user's caller listen. Raises TooManyListeners."""
        users = Counter(self._listeners.values())
        others = users.total() - users[0]
        if users[uid] >= MAX_OF_USER or (uid != 0 and others >= MAX_LISTENERS):
            raise TooManyListeners("too many callers listen to events", "try again in a moment")
        listening = Listening()
        self._listeners[listening] = uid
        try:
            yield listening
        finally:
            del self._listeners[listening]

    def dismiss(self) -> None:
        """Have every listener told that the daemon is stopping."""
        for listener in self._listeners:
            listener.end("the daemon is stopping")


def _line(data: dict[str, object]) -> bytes:
    return json.dumps(data).encode() + b"\n"
