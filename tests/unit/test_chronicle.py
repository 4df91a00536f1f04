"""What is of interest in the log is remembered, written a moment later, and found again."""

from __future__ import annotations

import ast
import asyncio
import errno
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from anubis.daemon import chronicle as module
from anubis.daemon.chronicle import COUNTED, TOLD, Chronicle
from anubis.daemon.log import event, tapped
from anubis.happening import Happening

ROOT = Path(__file__).parents[2]
DEADLINE = 10.0  # seconds


class Time:
    """Seconds since 1970, a second more each time."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Note what is logged."""
    names: list[str] = []
    with tapped(lambda name, _fields: names.append(name)):
        yield names


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write at once what else waits two seconds."""
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "RETRY", 0.01)


def fresh(tmp_path: Path) -> Chronicle:
    """Return what a daemon has that starts on this directory."""
    found = Chronicle(tmp_path / "state" / "history", Time())
    found.load()
    return found


def names(chronicle: Chronicle, connection: str | None = "xena") -> list[str]:
    """Return the events that are remembered of a connection."""
    return [each.event for each in chronicle.history.of(connection)]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that a thread does."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def lines(tmp_path: Path) -> list[str]:
    """Return the events in the file, line by line."""
    path = tmp_path / "state" / "history"
    if not path.exists():
        return []
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


def test_the_log_is_tapped(tmp_path: Path) -> None:
    """Also what is logged at a level that nobody sees; what is of no interest is not kept."""
    chronicle = fresh(tmp_path)
    heard: list[Happening] = []
    chronicle.on_news = heard.append
    with tapped(chronicle.on_event):
        event(logging.INFO, "up", connection="xena", role="initiator", lease=60, left_out=None)
        event(logging.DEBUG, "renewed", connection="xena", lease=60)
        event(logging.WARNING, "refused", peer="xena", reason="busy", not_shown=41)
        event(logging.INFO, "call-done", connection="xena")
        event(logging.WARNING, "dropped", reason="unknown_source", source="fd61::1")
        event(logging.WARNING, "vanished", what="IPv4 rule 21430", put_right_ms=4.9)
    event(logging.INFO, "down", connection="xena")
    assert names(chronicle) == ["up", "renewed", "refused"]
    assert names(chronicle, None) == ["vanished"]
    assert [each.event for each in heard] == ["up", "renewed", "refused", "vanished"]
    assert heard[0].detail == {"role": "initiator", "lease": 60}
    assert (heard[2].count, heard[2].detail) == (42, {"reason": "busy"})
    assert chronicle.totals == {"up": 1, "renewed": 1, "refused": 42, "dropped": 1, "vanished": 1}


async def test_what_was_written_is_found_again(tmp_path: Path) -> None:
    """By the next daemon, also after a kill; a torn line costs only itself."""
    killed = fresh(tmp_path)
    running = asyncio.create_task(killed.run())
    killed.on_event("up", {"connection": "xena"})
    await until(lambda: lines(tmp_path) == ["up"])
    killed.on_event("renewed", {"connection": "xena"})
    await until(lambda: lines(tmp_path) == ["up", "renewed"])
    killed.on_event("renewed", {"connection": "xena"})
    await until(lambda: lines(tmp_path) == ["up", "renewed", "renewed"])
    running.cancel()
    path = tmp_path / "state" / "history"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes() + b'{"event": "down", "connecti\xff')

    second = fresh(tmp_path)
    assert names(second) == ["up", "renewed"]
    assert second.history.of("xena")[1].count == 2
    second.on_event("down", {"connection": "xena"})
    await second.close()
    assert lines(tmp_path) == ["up", "renewed", "down"]
    assert names(fresh(tmp_path)) == ["up", "renewed", "down"]


async def test_an_event_waits_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written where it happens, and only a file that is written anew is synchronised."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    chronicle = fresh(tmp_path)
    for _ in range(100):
        chronicle.on_event("up", {"connection": "xena"})
    assert lines(tmp_path) == []
    running = asyncio.create_task(chronicle.run())
    await until(lambda: bool(lines(tmp_path)))
    assert len(synced) == 1
    chronicle.on_event("down", {"connection": "xena"})
    await until(lambda: "down" in lines(tmp_path))
    running.cancel()
    assert len(synced) == 1
    await chronicle.close()
    assert len(synced) == 2


async def test_a_flood_costs_the_disk_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much happens: so many bytes a second, of a file that does not grow beyond its use."""
    slept: list[float] = []
    most: list[int] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        for _ in range(700):
            chronicle.on_event("down", {"connection": "xena", "reason": str(len(slept))})
            most.append(len(chronicle._unwritten))
        if len(slept) == 120:
            raise asyncio.CancelledError

    chronicle = fresh(tmp_path)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    written: list[int] = []
    monkeypatch.setattr(module, "_encode", counting(module._encode, written))
    chronicle.on_event("up", {"connection": "xena"})
    with pytest.raises(asyncio.CancelledError):
        await chronicle.run()
    assert len(written) > 40
    assert sum(slept) >= sum(written[:-1]) / module.RATE
    assert (tmp_path / "state" / "history").stat().st_size < 2 * module._SPARE
    assert max(most) == module._MAX_UNWRITTEN


def counting(encode: Callable[..., bytes], written: list[int]) -> Callable[..., bytes]:
    """Note how much is written."""

    def count(entries: object) -> bytes:
        content = encode(entries)
        written.append(len(content))
        return content

    return count


async def test_a_disk_that_cannot_be_written(tmp_path: Path, logged: list[str]) -> None:
    """It is said once, if it lasts; when the disk is back, everything is on it without more ado."""
    (tmp_path / "state").write_text("in the way")
    chronicle = Chronicle(tmp_path / "state" / "history", Time())
    chronicle.load()
    running = asyncio.create_task(chronicle.run())
    for name in ("up", "down"):
        chronicle.on_event(name, {"connection": "xena"})
        await until(lambda: not chronicle._unwritten)
    await until(lambda: chronicle._failures > 4)
    (tmp_path / "state").unlink()
    await until(lambda: lines(tmp_path) == ["up", "down"])
    chronicle.on_event("lost", {"connection": "xena"})
    await until(lambda: lines(tmp_path) == ["up", "down", "lost"])
    running.cancel()
    assert logged == ["history_unreadable", "history_not_saved"]


async def test_a_hitch_is_not_worth_a_line(
    tmp_path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as no descriptor for a moment, of which others tell."""
    chronicle = fresh(tmp_path)
    running = asyncio.create_task(chronicle.run())
    replace = chronicle._file.replace
    failed: list[None] = []

    def once(entries: Iterable[Happening]) -> int:
        if not failed:
            failed.append(None)
            raise OSError(errno.EMFILE, "Too many open files")
        return replace(entries)

    monkeypatch.setattr(chronicle._file, "replace", once)
    chronicle.on_event("up", {"connection": "xena"})
    await until(lambda: lines(tmp_path) == ["up"])
    running.cancel()
    assert (len(failed), logged) == (1, [])


async def test_the_end_does_not_wait_for_a_dead_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """It is given up, and said."""
    monkeypatch.setattr(module, "_CLOSE_SECONDS", 0.01)
    chronicle = fresh(tmp_path)
    chronicle._file._turn.acquire()
    async with asyncio.timeout(DEADLINE):
        await chronicle.close()
    chronicle._file._turn.release()
    assert logged == ["history_not_saved"]
    await until(lambda: chronicle._thread.running == 0)


def test_every_event_of_the_table_is_logged_somewhere() -> None:
    """A name that nobody logs any more would silently be missing from every history."""
    logged: set[str] = set()
    for path in (ROOT / "anubis").rglob("*.py"):
        if path.name == "chronicle.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                logged |= {
                    each.value
                    for argument in [*node.args, *(key.value for key in node.keywords)]
                    for each in ast.walk(argument)
                    if isinstance(each, ast.Constant) and isinstance(each.value, str)
                }
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.IfExp):
                logged |= {
                    each.value
                    for each in ast.walk(node.value)
                    if isinstance(each, ast.Constant) and isinstance(each.value, str)
                }
    assert logged >= TOLD | COUNTED
    assert not TOLD & COUNTED
