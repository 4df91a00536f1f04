"""What follows the daemon, `events` and `status --watch`: to Ctrl-C, and beyond a restart."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread

import pytest

from anubis.events import ConnectionStatus
from tests.fake_daemon import DEADLINE, HISTORY, FakeDaemon, fake_daemon

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-c", "import anubis.cli; anubis.cli.main()"]


@dataclass
class Running:
    """A command that runs: what it has written so far, and its process."""

    process: subprocess.Popen[bytes]
    written: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)

    @property
    def lines(self) -> list[str]:
        """The whole lines of its standard output."""
        return self.written.decode().split("\n")[:-1]

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that it does."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, (self.written, self.errors)
            time.sleep(0.01)

    def interrupt(self) -> int:
        """Press Ctrl-C, and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE)


@contextmanager
def following(path: Path, *arguments: str, terminal: bool = False) -> Iterator[Running]:
    """Run a command, with its standard output on a terminal or not."""
    reading, writing = pty.openpty() if terminal else os.pipe()
    environment = {**os.environ, "ANUBIS_SOCKET": str(path), "TERM": "xterm", "TZ": "UTC"}
    process = subprocess.Popen(
        [*RUN, *arguments], stdout=writing, stderr=subprocess.PIPE, env=environment, cwd=ROOT
    )
    os.close(writing)
    running = Running(process)
    assert process.stderr is not None
    threads = [
        Thread(target=collect, args=(reading, running.written)),
        Thread(target=collect, args=(process.stderr.fileno(), running.errors)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        for thread in threads:
            thread.join(DEADLINE)
        process.stderr.close()
        os.close(reading)


def collect(descriptor: int, into: bytearray) -> None:
    """Read until there is no more."""
    with suppress(OSError):  # EIO: the other end of the terminal is closed
        while piece := os.read(descriptor, 65536):
            into += piece


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a place for a daemon that comes and goes."""
    return tmp_path / "anubis.sock"


def listened(daemon: FakeDaemon) -> Callable[[], bool]:
    """Return the condition that somebody listens."""
    return lambda: len(daemon.records.audience) == 1


class TestEvents:
    def test_each_is_a_line(self, path: Path) -> None:
        """For a person; Ctrl-C ends it, and is no error."""
        with fake_daemon(path) as daemon, following(path, "events") as running:
            running.until(listened(daemon))
            daemon.tell(*HISTORY[1:])
            running.until(lambda: len(running.lines) == 4)
            assert running.interrupt() == 0
        assert running.lines == [
            "2026-11-26 11:56:00  jacinth: up (role initiator, lease 8h)",
            "2026-11-26 23:56:00  jacinth: renewed (lease 8h), 3 times since 2026-11-26 15:56:00",
            "2026-11-27 01:49:20  this host: vanished, put right: IPv4 rule 21430",
            "2026-11-27 01:50:20  jacinth: down: \N{REPLACEMENT CHARACTER}[31mshutdown",
        ]
        assert running.errors == b""

    def test_a_daemon_that_ends_is_waited_for(self, path: Path) -> None:
        """It is said once that there is none, and that it is back; events go on."""
        with fake_daemon(path) as daemon, following(path, "events", "--json") as running:
            running.until(listened(daemon))
            daemon.stop_serving()
            running.until(lambda: b"waiting" in running.errors)
            with fake_daemon(path) as second:
                running.until(listened(second))
                second.tell(HISTORY[0])
                running.until(lambda: len(running.lines) == 1)
                assert running.interrupt() == 0
        assert json.loads(running.lines[0]) == HISTORY[0].to_json()
        assert running.errors.decode().splitlines() == [
            "anubis: warning: the daemon is stopping; waiting for the daemon",
            "anubis: warning: the daemon is back",
        ]

    def test_without_a_daemon_it_does_not_begin(self, path: Path) -> None:
        """As every other command."""
        with following(path, "events", "--json") as running:
            assert running.process.wait(DEADLINE) == 69
            running.until(lambda: len(running.lines) == 1)
        assert json.loads(running.lines[0])["error"]["kind"] == "daemon_not_running"

    def test_it_ends_with_who_reads_it(self, path: Path) -> None:
        """`anubis events | head -1` ends."""
        environment = {**os.environ, "ANUBIS_SOCKET": str(path)}
        with (
            fake_daemon(path) as daemon,
            subprocess.Popen(
                [*RUN, "events"],
                env=environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process,
        ):
            try:
                running = Running(process)
                running.until(listened(daemon))
                assert process.stdout is not None
                process.stdout.close()
                daemon.tell(HISTORY[0])
                _, errors = process.communicate(timeout=DEADLINE)
                assert (process.returncode, errors) == (141, b"")
            finally:
                process.kill()  # it must not outlive a test that fails


class TestWatch:
    def test_each_change_is_a_line(self, path: Path) -> None:
        """First all, then what differs in more than times and bytes; what is gone, too."""
        with fake_daemon(path) as daemon, following(path, "status", "--watch", "--json") as running:
            running.until(lambda: len(running.lines) == 4)
            now = {each.name: each for each in daemon.operations.connections}
            daemon.operations.connections = [
                replace(now["jacinth"], rx_bytes=5, lease_seconds_left=3),
                replace(now["leaf"], pinned=False),
                now["surya"],
            ]
            running.until(lambda: len(running.lines) == 6)
            assert running.interrupt() == 0
        told = [json.loads(line) for line in running.lines]
        assert [each["name"] for each in told[:4]] == ["jacinth", "leaf", "surya", "selen"]
        assert told[4:] == [
            replace(now["leaf"], pinned=False).to_json(),
            {"name": "selen", "state": "removed"},
        ]
        assert running.errors == b""

    def test_a_line_for_a_person(self, path: Path) -> None:
        """Where there is no terminal; a daemon that ends is waited for."""
        with (
            fake_daemon(path) as daemon,
            following(path, "status", "jacinth", "--watch") as running,
        ):
            running.until(lambda: len(running.lines) == 1)
            daemon.stop_serving()
            running.until(lambda: b"waiting" in running.errors)
            with fake_daemon(path) as second:
                second.operations.connections = [
                    ConnectionStatus("jacinth", "down", ended="shutdown")
                ]
                running.until(lambda: len(running.lines) == 2)
                assert running.interrupt() == 0
        stamp = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ")
        assert [stamp.sub("", line) for line in running.lines] == [
            "jacinth is up (initiator, 203.0.113.1:4296, lease 7h58m20s)",
            "jacinth is down (ended: shutdown)",
        ]
        assert running.errors.decode().splitlines()[-1] == "anubis: warning: the daemon is back"

    def test_a_terminal_shows_the_table_as_it_is(self, path: Path) -> None:
        """Drawn over itself; Ctrl-C gives the screen back and leaves the last table on it."""
        with (
            fake_daemon(path) as daemon,
            following(path, "status", "--watch", terminal=True) as running,
        ):
            running.until(lambda: b"203.0.113.1:4296" in running.written)
            daemon.operations.connections = [ConnectionStatus("surya", "down", ended="idle")]
            running.until(lambda: b"ended: idle" in running.written)
            daemon.stop_serving()
            running.until(lambda: b"waiting for the daemon" in running.written)
            assert running.interrupt() == 0
            running.until(lambda: running.written.endswith(b"\n"))
        begin, _, rest = running.written.decode().partition("\x1b[H")
        drawn, _, left = rest.partition("\x1b[?1049l")
        assert begin.startswith("\x1b[?1049h")
        assert drawn.count("\x1b[H") >= 2
        assert left.replace("\r\n", "\n").splitlines()[-1] == (
            "surya  down                ended: idle"
        )
        assert running.errors == b""

    def test_an_unknown_name_is_an_error_at_once(self, path: Path) -> None:
        """There is nothing to watch."""
        with fake_daemon(path), following(path, "status", "nobody", "--watch") as running:
            assert running.process.wait(DEADLINE) == 2
