"""A real message bus, and on it a service that speaks as logind does: tests suspend a host with it.

Owns the bus's process and the service. Refuses to know who listens to it.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

__all__ = ["BUS_CONFIG", "Logind", "Suspender", "announcement", "logind", "suspender"]

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={path}</listen>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/>
  </policy>
</busconfig>
"""
SECONDS = 10.0

T = TypeVar("T")


@dataclass
class Logind:
    """Gives locks out, or an error instead of them, and tells of a suspend."""

    bus: MessageBus
    error: str | None = None
    locks: list[int] = field(default_factory=list)  # our ends of the pipes
    asked: list[Message] = field(default_factory=list)

    def on_message(self, message: Message) -> Message | None:
        """Answer a call of Inhibit with one end of a pipe."""
        if message.message_type != MessageType.METHOD_CALL or message.member != "Inhibit":
            return None
        self.asked.append(message)
        if self.error:
            return Message.new_error(message, self.error, "no")
        ours, theirs = os.pipe()
        self.locks.append(ours)
        reply = Message.new_method_return(message, "h", [0], [theirs])
        asyncio.get_running_loop().call_later(0.1, os.close, theirs)
        return reply

    def has_given(self, locks: int) -> bool:
        """Tell whether so many locks have been given out."""
        return len(self.locks) == locks

    def is_released(self) -> bool:
        """Tell whether nobody holds the newest lock any more."""
        poll = select.poll()
        poll.register(self.locks[-1], select.POLLHUP)
        return bool(poll.poll(0))

    async def announce(self, *, suspending: bool) -> None:
        """Send PrepareForSleep."""
        await self.bus.send(announcement(suspending=suspending))


def announcement(*, suspending: bool) -> Message:
    """Return the signal PrepareForSleep."""
    return Message.new_signal(
        "/org/freedesktop/login1",
        "org.freedesktop.login1.Manager",
        "PrepareForSleep",
        "b",
        [suspending],
    )


@asynccontextmanager
async def logind(address: str, *, error: str | None = None) -> AsyncIterator[Logind]:
    """Have a logind on the bus."""
    bus = await MessageBus(bus_address=address, negotiate_unix_fd=True).connect()
    service = Logind(bus, error)
    bus.add_message_handler(service.on_message)
    await bus.request_name("org.freedesktop.login1")
    try:
        yield service
    finally:
        bus.disconnect()
        for lock in service.locks:
            os.close(lock)


class Suspender:
    """A logind in a thread of its own, for tests that are not asyncio's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self._loop = loop
        self._context = logind(address)
        self._service: Logind | None = None

    def enter(self) -> None:
        """Come onto the bus."""
        self._service = self._do(self._context.__aenter__())

    def leave(self) -> None:
        """Leave the bus."""
        self._do(self._context.__aexit__(None, None, None))

    @property
    def service(self) -> Logind:
        """The service, to be looked at."""
        assert self._service is not None
        return self._service

    def announce(self, *, suspending: bool) -> None:
        """Send PrepareForSleep."""
        self._do(self.service.announce(suspending=suspending))

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(SECONDS)


@contextmanager
def suspender(address: str) -> Iterator[Suspender]:
    """Have a logind on the bus, whatever this thread does."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    found = Suspender(loop, address)
    try:
        found.enter()
        try:
            yield found
        finally:
            found.leave()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()
