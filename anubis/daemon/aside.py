"""Calls that block for as long as they like, each in a thread of its own beside the daemon.

asyncio's own threads are few, and waited for when the daemon ends: a user database or a name server
that hangs would hold the end up. Owns the threads; whoever begins one bounds them by `running`.
Refuses to know what is called, and how long that is waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

__all__ = ["Aside"]

_T = TypeVar("_T")


class Aside(Generic[_T]):
    """Calls of one kind, by the name that their threads have."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads: set[threading.Thread] = set()

    @property
    def running(self) -> int:
        """How many calls have not ended, also of those that nobody waits for any more."""
        return len(self._threads)

    def begin(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        """Call it; the future has what it returns or raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def run() -> None:
            found: _T | Exception
            try:
                found = work()
            except Exception as error:  # noqa: BLE001 (it belongs to whoever waits for the future)
                found = error
            finally:
                self._threads.discard(threading.current_thread())
            with suppress(RuntimeError):  # the daemon has ended meanwhile
                loop.call_soon_threadsafe(_deliver, future, found)

        thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._threads.add(thread)
        thread.start()
        return future


def _deliver(future: asyncio.Future[_T], found: _T | Exception) -> None:
    if future.done():
        return  # whoever waited has left
    if isinstance(found, Exception):
        future.set_exception(found)
        future.exception()  # whoever asked may have left; that is no reason to complain
    else:
        future.set_result(found)
