"""Suspend and resume, as logind announces them on the system bus.

Owns the connection to the bus and the lock that holds a suspend up until what must be done before
it is done. Refuses to know what that is. Where no logind answers, the daemon does without; where it
falls silent after it announced a suspend, the host is held to have resumed.

The interface is org.freedesktop.login1(5); for the lock see the page "Inhibitor Locks" of systemd.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine

from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

from anubis.daemon.log import event

__all__ = ["Sleep"]

BUSY_SECONDS = 2.0  # for what is done before a suspend; logind waits 5 s
AWAKE_SECONDS = 60.0  # after a suspend was announced; the clock for it stands still in suspend
_REST_SECONDS = 1.0  # for what a suspend cut short
_MAX_HEARD = 16  # words of the bus that wait to be heeded
_RETRY_FIRST = 5.0  # seconds without a bus or without logind, until it is tried again
_RETRY_LAST = 600.0
_CALL_SECONDS = 10.0
_Doing = Coroutine[None, None, None]
_MATCH = (
    "type='signal',sender='org.freedesktop.login1',"
    "interface='org.freedesktop.login1.Manager',member='PrepareForSleep'"
)


class Sleep:
    """Awaits `before` when the host is about to suspend, and `after` when it has resumed."""

    def __init__(self, before: Callable[[], _Doing], after: Callable[[], _Doing]) -> None:
        self._before = before
        self._after = after
        self._doing: asyncio.Task[None] | None = None  # `before`, from a suspend to the resume
        self._retry = _RETRY_FIRST
        self._is_missed = False  # and that was said

    async def run(self) -> None:
        """Listen until cancelled; a bus that is not there, or goes away, is tried again."""
        try:
            while True:
                try:
                    await self._attend()
                except* (OSError, EOFError, TimeoutError, DBusFastError) as errors:
                    self._miss(errors)
                if self._doing is not None:
                    await self._resume()
                await asyncio.sleep(self._retry)
                self._retry = min(2 * self._retry, _RETRY_LAST)
        finally:
            if self._doing is not None:
                self._doing.cancel()

    def _miss(self, errors: BaseExceptionGroup) -> None:
        """Log that there is no logind, but not at every try."""
        error = errors.exceptions[0]
        level = logging.DEBUG if self._is_missed else logging.INFO
        event(level, "no_logind", reason=error or type(error).__name__)
        self._is_missed = True

    async def _attend(self) -> None:
        """Serve one connection to the bus for as long as it lasts."""
        bus = MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
        heard: asyncio.Queue[bool] = asyncio.Queue(_MAX_HEARD)
        async with asyncio.timeout(_CALL_SECONDS):
            await bus.connect()
        try:
            bus.add_message_handler(_into(heard))
            await _call(bus, "org.freedesktop.DBus", "AddMatch", _MATCH)
            with _Lock() as lock:
                await lock.take(bus)
                self._retry, self._is_missed = _RETRY_FIRST, False
                async with asyncio.TaskGroup() as group:
                    gone = group.create_task(_end_of(bus))
                    serving = group.create_task(self._serve(bus, lock, heard))
                    gone.add_done_callback(lambda _: serving.cancel())
        finally:
            bus.disconnect()

    async def _serve(self, bus: MessageBus, lock: _Lock, heard: asyncio.Queue[bool]) -> None:
        while True:
            if await self._next(heard):
                await self._suspend()
                lock.release()
                continue
            await self._resume()
            try:
                await lock.take(bus)
            except ConnectionError:
                # The next suspend is under way already, or logind has ended.
                if heard.empty():
                    raise

    async def _next(self, heard: asyncio.Queue[bool]) -> bool:
        """Return whether logind announces a suspend, or else a resume."""
        try:
            async with asyncio.timeout(None if self._doing is None else AWAKE_SECONDS):
                return await heard.get()
        except TimeoutError:
            event(logging.WARNING, "resume_not_announced", seconds=AWAKE_SECONDS)
            return False

    async def _suspend(self) -> None:
        """Have done what must be done before, and wait for it, but not for long."""
        event(logging.INFO, "suspending")
        if self._doing is None:
            self._doing = asyncio.create_task(self._before())
        await asyncio.wait({self._doing}, timeout=BUSY_SECONDS)
        if not self._doing.done():
            event(logging.WARNING, "suspend_not_awaited", seconds=BUSY_SECONDS)

    async def _resume(self) -> None:
        """Have done what follows a suspend; what came before it has had its time."""
        if self._doing is not None:
            _, late = await asyncio.wait({self._doing}, timeout=_REST_SECONDS)
            for task in late:
                task.cancel()
                await asyncio.wait({task})
            self._doing = None
        event(logging.INFO, "resumed")
        await self._after()


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
        is_word = message.message_type == MessageType.SIGNAL and message.signature == "b"
        if not is_word or message.member != "PrepareForSleep":
            return
        # To our own name everybody can send a signal; to all, of logind's alone the bus lets
        # through what we asked to hear.
        if message.destination is None and not heard.full():
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
