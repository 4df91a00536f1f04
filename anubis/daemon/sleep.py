"""Suspend and resume, as logind announces them on the system bus.

Owns the connection to the bus and the lock that holds a suspend up until what must be done before
it is done. Refuses to know what that is. Where no logind answers, the daemon does without.

The interface is org.freedesktop.login1(5); for the lock see the page "Inhibitor Locks" of systemd.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

from anubis.daemon.log import event

__all__ = ["Sleep"]

BUSY_SECONDS = 3.0  # for what is done before a suspend; logind waits 5 s
_RETRY_FIRST = 5.0  # seconds without a bus or without logind, until it is tried again
_RETRY_LAST = 600.0
_CALL_SECONDS = 10.0
_MATCH = (
    "type='signal',sender='org.freedesktop.login1',"
    "interface='org.freedesktop.login1.Manager',member='PrepareForSleep'"
)


class Sleep:
    """Awaits `before` when the host is about to suspend, and `after` when it has resumed."""

    def __init__(
        self, before: Callable[[], Awaitable[None]], after: Callable[[], Awaitable[None]]
    ) -> None:
        self._before = before
        self._after = after
        self._retry = _RETRY_FIRST

    async def run(self) -> None:
        """Listen until cancelled; a bus that is not there, or goes away, is tried again."""
        while True:
            try:
                await self._attend()
            except (OSError, EOFError, TimeoutError, DBusFastError) as error:
                event(logging.DEBUG, "no_logind", reason=error or type(error).__name__)
            await asyncio.sleep(self._retry)
            self._retry = min(2 * self._retry, _RETRY_LAST)

    async def _attend(self) -> None:
        """Serve one connection to the bus for as long as it lasts."""
        bus = MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
        heard: asyncio.Queue[bool] = asyncio.Queue()
        async with asyncio.timeout(_CALL_SECONDS):
            await bus.connect()
        try:
            bus.add_message_handler(_into(heard))
            await _call(bus, "org.freedesktop.DBus", "AddMatch", _MATCH)
            with _Lock() as lock:
                await lock.take(bus)
                self._retry = _RETRY_FIRST
                async with asyncio.TaskGroup() as group:
                    gone = group.create_task(_end_of(bus))
                    serving = group.create_task(self._serve(bus, lock, heard))
                    gone.add_done_callback(lambda _: serving.cancel())
        finally:
            bus.disconnect()

    async def _serve(self, bus: MessageBus, lock: _Lock, heard: asyncio.Queue[bool]) -> None:
        while True:
            if await heard.get():
                event(logging.INFO, "suspending")
                try:
                    async with asyncio.timeout(BUSY_SECONDS):
                        await self._before()
                except TimeoutError:
                    event(logging.WARNING, "suspend_not_awaited", seconds=BUSY_SECONDS)
                finally:
                    lock.release()
            else:
                event(logging.INFO, "resumed")
                await self._after()
                await lock.take(bus)


class _Lock:
    """The delay lock: logind lets the host sleep when the last holder closes it."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def __enter__(self) -> _Lock:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()

    async def take(self, bus: MessageBus) -> None:
        """Ask logind for the lock. Refused, we still hear of a suspend, but it does not wait."""
        if self._descriptor is not None:
            return
        words = ("sleep", "Anubis", "telling the far ends of connections", "delay")
        try:
            reply = await _call(bus, "org.freedesktop.login1", "Inhibit", *words)
        except PermissionError as error:
            event(logging.WARNING, "suspend_will_not_wait", reason=error)
            return
        self._descriptor = reply.unix_fds[reply.body[0]]

    def release(self) -> None:
        """Let the host sleep."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _into(heard: asyncio.Queue[bool]) -> Callable[[Message], None]:
    def handle(message: Message) -> None:
        if message.message_type == MessageType.SIGNAL and message.member == "PrepareForSleep":
            heard.put_nowait(bool(message.body[0]))

    return handle


async def _end_of(bus: MessageBus) -> None:
    """Return when the connection has ended, however it did."""
    try:
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
    except (OSError, EOFError) as error:
        event(logging.DEBUG, "bus_lost", reason=error or type(error).__name__)


async def _call(bus: MessageBus, destination: str, member: str, *arguments: str) -> Message:
    """Call a method whose arguments are strings.

    Raises PermissionError if it is refused, ConnectionError for any other error, TimeoutError.
    """
    paths = {
        "org.freedesktop.DBus": ("/org/freedesktop/DBus", "org.freedesktop.DBus"),
        "org.freedesktop.login1": ("/org/freedesktop/login1", "org.freedesktop.login1.Manager"),
    }
    path, interface = paths[destination]
    message = Message(
        destination=destination,
        path=path,
        interface=interface,
        member=member,
        signature="s" * len(arguments),
        body=list(arguments),
    )
    async with asyncio.timeout(_CALL_SECONDS):
        reply = await bus.call(message)
    if reply is None or reply.message_type == MessageType.ERROR:
        name = reply.error_name if reply is not None else "no reply"
        refused = str(name).endswith(("AccessDenied", "InteractiveAuthorizationRequired"))
        raise (PermissionError if refused else ConnectionError)(f"{member}: {name}")
    return reply
