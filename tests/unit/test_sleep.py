"""Suspend and resume: a real message bus, and a service on it that speaks as logind does."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from anubis.daemon import sleep
from anubis.daemon.sleep import Sleep

_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={path}</listen>
  <policy context="default">
    <allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/>
  </policy>
</busconfig>
"""
SECONDS = 10.0


@contextmanager
def message_bus(tmp_path: Path) -> Iterator[str]:
    """Run a message bus of our own."""
    config = tmp_path / "bus.conf"
    config.write_text(_BUS.format(path=tmp_path / "bus"))
    command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        try:
            yield daemon.stdout.readline().strip()
        finally:
            daemon.terminate()


@pytest.fixture(autouse=True)
def _system_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have our own bus stand for the system's, and little patience."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
    monkeypatch.setattr(sleep, "_RETRY_FIRST", 0.05)
    monkeypatch.setattr(sleep, "_RETRY_LAST", 0.05)


@pytest.fixture
def bus_address(tmp_path: Path) -> Iterator[str]:
    """Run the bus."""
    with message_bus(tmp_path) as address:
        yield address


@dataclass
class Logind:
    """Speaks as logind: gives locks out, and tells of a suspend."""

    bus: MessageBus
    refuses: bool = False
    locks: list[int] = field(default_factory=list)  # our ends of the pipes
    asked: list[list[str]] = field(default_factory=list)

    def on_message(self, message: Message) -> Message | None:
        """Answer a call of Inhibit with one end of a pipe."""
        if message.message_type != MessageType.METHOD_CALL or message.member != "Inhibit":
            return None
        self.asked.append(message.body)
        if self.refuses:
            return Message.new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "no")
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
        signal = Message.new_signal(
            "/org/freedesktop/login1",
            "org.freedesktop.login1.Manager",
            "PrepareForSleep",
            "b",
            [suspending],
        )
        await self.bus.send(signal)


@asynccontextmanager
async def logind(address: str, *, refuses: bool = False) -> AsyncIterator[Logind]:
    """Have a logind on the bus."""
    bus = await MessageBus(bus_address=address, negotiate_unix_fd=True).connect()
    service = Logind(bus, refuses)
    bus.add_message_handler(service.on_message)
    await bus.request_name("org.freedesktop.login1")
    try:
        yield service
    finally:
        bus.disconnect()
        for lock in service.locks:
            os.close(lock)


@dataclass
class Host:
    """What is done before and after; each waits until it may go on."""

    told: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    may_sleep: asyncio.Event = field(default_factory=asyncio.Event)

    async def before(self) -> None:
        """Say goodbye."""
        self.told.put_nowait("before")
        await self.may_sleep.wait()

    async def after(self) -> None:
        """Be back."""
        self.told.put_nowait("after")


@asynccontextmanager
async def attended(host: Host) -> AsyncIterator[None]:
    """Listen for suspends."""
    task = asyncio.create_task(Sleep(host.before, host.after).run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - what happens at the other end of a bus
            await asyncio.sleep(0.01)


async def test_the_host_sleeps_only_when_all_is_said(bus_address: str) -> None:
    """The lock is held until `before` is done, and taken again after the resume."""
    host = Host()
    async with logind(bus_address) as service, attended(host):
        await until(lambda: service.locks)
        assert service.asked[0][0::3] == ["sleep", "delay"]
        for _ in range(2):
            locks = len(service.locks)
            host.may_sleep.clear()
            await service.announce(suspending=True)
            assert await asyncio.wait_for(host.told.get(), SECONDS) == "before"
            assert not service.is_released()
            host.may_sleep.set()
            await until(service.is_released)
            await service.announce(suspending=False)
            assert await asyncio.wait_for(host.told.get(), SECONDS) == "after"
            await until(partial(service.has_given, locks + 1))
            assert not service.is_released()


async def test_a_suspend_is_not_held_up_for_long(
    bus_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not done in time does not keep the host awake."""
    monkeypatch.setattr(sleep, "BUSY_SECONDS", 0.05)
    host = Host()
    async with logind(bus_address) as service, attended(host):
        await until(lambda: service.locks)
        await service.announce(suspending=True)
        await until(service.is_released)
        await service.announce(suspending=False)
        await until(partial(service.has_given, 2))


async def test_a_refused_lock_is_done_without(bus_address: str) -> None:
    """The host does not wait, but we are told all the same."""
    host = Host()
    async with logind(bus_address, refuses=True) as service, attended(host):
        await until(lambda: service.asked)
        await service.announce(suspending=True)
        assert await asyncio.wait_for(host.told.get(), SECONDS) == "before"


async def test_a_logind_that_comes_late_is_found(tmp_path: Path) -> None:
    """Neither a host without D-Bus, nor a bus that is lost, ends the listening."""
    host = Host()
    async with attended(host):
        for _ in range(2):
            with message_bus(tmp_path) as address:
                async with logind(address) as service:
                    await until(lambda: service.locks)
                    await service.announce(suspending=False)
                    assert await asyncio.wait_for(host.told.get(), SECONDS) == "after"
            (tmp_path / "bus").unlink(missing_ok=True)
