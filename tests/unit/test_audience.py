"""Those who listen hear everything in order, are bounded, and are told when they hear no more."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack

import pytest

from anubis.daemon import audience as module
from anubis.daemon.audience import (
    MAX_BEHIND,
    MAX_LISTENERS,
    MAX_OF_USER,
    Audience,
    TooManyListeners,
)
from anubis.happening import Happening

DEADLINE = 10.0  # seconds


class Reader:
    """A stream whose other end reads while it is `open`."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.lines: list[dict[str, object] | None] = []
        self.ended = False

    async def write(self, data: bytes) -> None:
        """Take a line; hold up the writer as a full socket does."""
        self.lines.append(json.loads(data) if data.strip() else None)
        await self.open.wait()

    async def write_eof(self) -> None:
        """Hear that this was all."""

    def force_close(self) -> None:
        """Note that the connection ends."""
        self.ended = True


def happening(number: int) -> Happening:
    """Return something that happened."""
    return Happening("up", number, number, "xena")


async def rest(turns: int = 50) -> None:
    """Let the others go on until they wait."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_everybody_hears_everything_in_order() -> None:
    """And nothing after having left."""
    audience = Audience()
    readers = [Reader(), Reader()]
    with audience.listener(1000) as one, audience.listener(1000) as two:
        tasks = [
            asyncio.create_task(listening.serve(reader))
            for listening, reader in zip((one, two), readers, strict=True)
        ]
        for number in range(5):
            audience.tell(happening(number))
        await rest()
        for task in tasks:
            task.cancel()
    audience.tell(happening(99))
    await asyncio.gather(*tasks, return_exceptions=True)
    for reader in readers:
        assert reader.lines == [happening(number).to_json() for number in range(5)]
    assert len(audience) == 0


async def test_a_slow_reader_is_cut_off_and_told() -> None:
    """At once when too much waits for it; nobody else is held up, nothing is kept for it."""
    audience = Audience()
    slow, quick = Reader(), Reader()
    slow.open.clear()
    with audience.listener(1000) as behind, audience.listener(0) as ahead:
        serving = asyncio.create_task(behind.serve(slow))
        other = asyncio.create_task(ahead.serve(quick))
        for number in range(MAX_BEHIND + 10):
            audience.tell(happening(number))
            await rest(3)
        assert behind._queue.qsize() <= 1
        async with asyncio.timeout(DEADLINE):
            await serving
        await rest()
        other.cancel()
    assert len(quick.lines) == MAX_BEHIND + 10
    assert slow.ended
    last = slow.lines[-1]
    assert last is not None
    assert (last["event"], last["kind"]) == ("error", "failed")
    assert "too slowly" in str(last["message"])
    assert slow.lines[:-1] == [happening(0).to_json()]


async def test_one_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when little happens."""
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    audience, dead = Audience(), Reader()
    dead.open.clear()
    with audience.listener(1000) as listening:
        audience.tell(happening(1))
        async with asyncio.timeout(DEADLINE):
            await listening.serve(dead)
    assert dead.ended


async def test_silence_is_broken_by_an_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a caller knows that the daemon is there."""
    monkeypatch.setattr(module, "HEARTBEAT", 0.001)
    audience, reader = Audience(), Reader()
    with audience.listener(1000) as listening:
        serving = asyncio.create_task(listening.serve(reader))
        async with asyncio.timeout(DEADLINE):
            while len(reader.lines) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        audience.tell(happening(1))
        await rest()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert reader.lines[:3] == [None] * 3
    assert happening(1).to_json() in reader.lines


async def test_the_end_of_the_daemon_is_told_at_once() -> None:
    """Also to one who does not read just now."""
    audience = Audience()
    readers = [Reader(), Reader()]
    readers[1].open.clear()
    with audience.listener(1000) as one, audience.listener(1000) as two:
        tasks = [
            asyncio.create_task(listening.serve(reader))
            for listening, reader in zip((one, two), readers, strict=True)
        ]
        audience.tell(happening(1))
        await rest()
        audience.dismiss()
        async with asyncio.timeout(1.0):
            await asyncio.gather(*tasks)
    for reader in readers:
        assert reader.lines[-1] is not None
        assert reader.lines[-1]["message"] == "the daemon is stopping"


def test_listeners_are_bounded() -> None:
    """Of one user, and of all but root, who can always listen."""
    audience = Audience()
    with ExitStack() as stack:
        for user in range(MAX_LISTENERS // MAX_OF_USER):
            for _ in range(MAX_OF_USER):
                stack.enter_context(audience.listener(1000 + user))
            with pytest.raises(TooManyListeners):
                stack.enter_context(audience.listener(1000 + user))
        with pytest.raises(TooManyListeners):
            stack.enter_context(audience.listener(4000))
        stack.enter_context(audience.listener(0))
    assert len(audience) == 0
    with audience.listener(4000):
        pass
