"""Suspends are heard of and held up: a real bus, and on it a service that speaks as logind does."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from dbus_fast.aio import MessageBus

from anubis.daemon import sleep
from anubis.daemon.sleep import Sleep
from tests.logind import BUS_CONFIG, announcement, logind

SECONDS = 10.0
ERRORS = "org.freedesktop.DBus.Error"


@contextmanager
def message_bus(tmp_path: Path) -> Iterator[str]:
    """Run a message bus of our own."""
    config = tmp_path / "bus.conf"
    config.write_text(BUS_CONFIG.format(path=tmp_path / "bus"))
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
        assert service.asked[0].body[0::3] == ["sleep", "delay"]
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
    async with logind(bus_address, error=f"{ERRORS}.AccessDenied") as service, attended(host):
        await until(lambda: service.asked)
        await service.announce(suspending=True)
        assert await asyncio.wait_for(host.told.get(), SECONDS) == "before"


async def test_a_logind_that_comes_late_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a host without D-Bus nor a bus that is lost ends the listening; each is said once."""
    caplog.set_level(logging.DEBUG, "anubis")

    def missed() -> list[int]:
        return [each.levelno for each in caplog.records if "no_logind" in each.message]

    host = Host()
    async with attended(host):
        for _ in range(2):
            caplog.clear()
            await until(lambda: len(missed()) > 3)
            assert missed()[:4] == [logging.INFO, *[logging.DEBUG] * 3]
            with message_bus(tmp_path) as address:
                async with logind(address) as service:
                    await until(lambda: service.locks)
                    await service.announce(suspending=False)
                    assert await asyncio.wait_for(host.told.get(), SECONDS) == "after"
            (tmp_path / "bus").unlink(missing_ok=True)


@pytest.mark.parametrize("is_for_us", [True, False])
async def test_only_logind_is_believed(bus_address: str, *, is_for_us: bool) -> None:
    """Everybody on the bus can send a signal of that name, to us or to all; it is passed over."""
    host = Host()
    async with logind(bus_address) as service, attended(host):
        await until(lambda: service.locks)
        stranger = await MessageBus(bus_address=bus_address).connect()
        message = announcement(suspending=True)
        message.destination = service.asked[0].sender if is_for_us else None
        await stranger.send(message)
        stranger.disconnect()
        await service.announce(suspending=False)
        assert await asyncio.wait_for(host.told.get(), SECONDS) == "after"
        assert not service.is_released()


async def test_a_bus_that_is_lost_in_a_suspend_is_a_resume(tmp_path: Path) -> None:
    """Nobody would say that the host is awake; what waits for that shall not wait for ever."""
    host = Host()
    host.may_sleep.set()
    async with attended(host):
        with message_bus(tmp_path) as address:
            async with logind(address) as service:
                await until(lambda: service.locks)
                await service.announce(suspending=True)
                assert await asyncio.wait_for(host.told.get(), SECONDS) == "before"
                await until(service.is_released)
                assert host.told.empty()
        assert await asyncio.wait_for(host.told.get(), SECONDS) == "after"


async def test_a_host_that_stays_awake_has_resumed(
    bus_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logind that announces a suspend and then falls silent is not waited for without an end."""
    monkeypatch.setattr(sleep, "AWAKE_SECONDS", 0.2)
    host = Host()
    host.may_sleep.set()
    async with logind(bus_address) as service, attended(host):
        await until(lambda: service.locks)
        await service.announce(suspending=True)
        assert await asyncio.wait_for(host.told.get(), SECONDS) == "before"
        assert await asyncio.wait_for(host.told.get(), SECONDS) == "after"
        await until(partial(service.has_given, 2))


@pytest.mark.parametrize("next_is_under_way", [True, False])
async def test_a_lock_that_cannot_be_had_again_ends_nothing(
    bus_address: str, *, next_is_under_way: bool
) -> None:
    """While the next suspend is under way logind gives none; that one is heeded all the same."""
    host = Host()
    host.may_sleep.set()
    async with logind(bus_address) as service, attended(host):
        await until(lambda: service.locks)
        await service.announce(suspending=True)
        assert await asyncio.wait_for(host.told.get(), SECONDS) == "before"
        service.error = "org.freedesktop.login1.OperationInProgress"
        await service.announce(suspending=False)
        if next_is_under_way:
            await service.announce(suspending=True)
        assert await asyncio.wait_for(host.told.get(), SECONDS) == "after"
        await until(lambda: len(service.asked) > 1)
        if next_is_under_way:
            assert await asyncio.wait_for(host.told.get(), SECONDS) == "before"
        service.error = None
        await service.announce(suspending=False)
        await until(partial(service.has_given, 2))
