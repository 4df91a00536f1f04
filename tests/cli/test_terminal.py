"""What a person sees and does at a terminal: progress, colours, Ctrl-C, odd streams."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from anubis.cli import app
from anubis.errors import ConfigError, Location, Problem
from tests.fake_daemon import DEADLINE, FakeDaemon, fake_daemon

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-c", "import anubis.cli; anubis.cli.main()"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """Run a fake daemon."""
    with fake_daemon(tmp_path / "anubis.sock") as running:
        yield running


def environment(daemon: FakeDaemon, **variables: str) -> dict[str, str]:
    """Return the environment of a command that asks `daemon`."""
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**plain, "ANUBIS_SOCKET": str(daemon.path), "TERM": "xterm", **variables}


def on_terminal(daemon: FakeDaemon, *arguments: str, **variables: str) -> str:
    """Run a command with its standard output on a terminal, and return what it wrote there."""
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [*RUN, *arguments], stdout=slave, env=environment(daemon, **variables), cwd=ROOT
        )
        os.close(slave)
        written = bytearray()
        with contextlib.suppress(OSError):  # EIO: the other end of the terminal is closed
            while received := screen.read(4096):
                written += received
        process.wait(DEADLINE)
    return written.decode().replace("\r\n", "\n")


def as_seen(written: str) -> list[str]:
    """Return the lines that stay on the screen, without colours."""
    lines = written.split("\n")
    return [re.sub("\x1b\\[[0-9]+m", "", line.rpartition("\x1b[2K")[2]) for line in lines]


class TestProgress:
    def test_each_step_is_a_line_with_its_time(self, daemon: FakeDaemon) -> None:
        """On a terminal every step is shown with what it found and how long it took."""
        assert as_seen(on_terminal(daemon, "up", "jacinth")) == [
            "  ✓ control plane reached   203.0.113.1:4297             12 ms",
            "  ✓ far end agreed          lease 8h                     19 ms",
            "  ✓ peer added              wg0                          21 ms",
            "  ✓ routes added            2 routes                     25 ms",
            "  ✓ handshake seen          203.0.113.1:4296             32 ms",
            "jacinth is up (32 ms, lease 8h)",
            "",
        ]

    def test_who_waits_for_approval_is_told_so_once(self, daemon: FakeDaemon) -> None:
        """Though the daemon says it again and again, so that nobody takes it for dead."""
        lines = as_seen(on_terminal(daemon, "up", "ariadne"))
        assert lines[:2] == [
            "  ✓ waiting for approval    120s left                     9 ms",
            "  ✓ control plane reached   203.0.113.1:4297             12 ms",
        ]

    def test_the_steps_of_switch_say_whose_they_are(self, daemon: FakeDaemon) -> None:
        """What is taken down is named."""
        lines = as_seen(on_terminal(daemon, "switch", "jacinth"))
        assert lines[5:] == [
            "  ✓ surya: far end agreed                                40 ms",
            "  ✓ surya: removed here                                  41 ms",
            "jacinth is up (41 ms, lease 8h) in place of surya",
            "",
        ]

    def test_it_says_that_it_waits_and_clears_that_away(self, daemon: FakeDaemon) -> None:
        """While nothing happens a line says so; it is gone when the command ends."""
        written = on_terminal(daemon, "up", "leaf")
        assert written == "  … leaf\r\x1b[2K"

    def test_colours(self, daemon: FakeDaemon) -> None:
        """Ticks are green, unless $NO_COLOR is set."""
        assert "\x1b[32m✓\x1b[0m" in on_terminal(daemon, "up", "jacinth")
        assert "\x1b[32m" not in on_terminal(daemon, "up", "jacinth", NO_COLOR="1")
        assert "\x1b[32mup" in on_terminal(daemon, "status")

    def test_the_first_broken_link_is_red(self, daemon: FakeDaemon) -> None:
        """And no other; $NO_COLOR is heeded."""
        red = [line for line in on_terminal(daemon, "why", "broken").split("\n") if "\x1b" in line]
        assert len(red) == 1
        assert red[0].startswith("\x1b[31m  ✗ rules ")
        assert "\x1b" not in on_terminal(daemon, "why", "broken", NO_COLOR="1")

    def test_a_dumb_terminal_gets_plain_text(self, daemon: FakeDaemon) -> None:
        """Where escapes would be shown as text, there are none."""
        written = on_terminal(daemon, "up", "jacinth", TERM="dumb")
        assert written == "jacinth is up (32 ms, lease 8h)\n"

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_a_terminal_without_unicode(self, daemon: FakeDaemon, encoding: str) -> None:
        """What the terminal cannot write is written otherwise."""
        lines = as_seen(on_terminal(daemon, "up", "jacinth", PYTHONIOENCODING=encoding))
        assert lines[0].startswith("  * control plane reached")

    def test_json_on_a_terminal_is_one_object(self, daemon: FakeDaemon) -> None:
        """--json shows no progress."""
        assert json.loads(on_terminal(daemon, "up", "jacinth", "--json"))["state"] == "up"


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_rolls_back(daemon: FakeDaemon, as_json: bool) -> None:
    """Ctrl-C ends with 130, and what was begun is undone."""
    process = subprocess.Popen(
        [*RUN, "up", "slow", *(["--json"] if as_json else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(daemon),
        cwd=ROOT,
    )
    assert daemon.operations.waiting.wait(DEADLINE)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (130, "anubis: error: interrupted\n")
    assert daemon.operations.rolled_back.wait(DEADLINE)
    if as_json:
        assert json.loads(output)["error"]["kind"] == "interrupted"
    else:
        assert output == ""


@pytest.mark.parametrize("arguments", [["status"], ["up", "jacinth"], ["up", "surya", "--json"]])
def test_nobody_reading_is_no_error(daemon: FakeDaemon, arguments: list[str]) -> None:
    """With its output cut off a command still does its work, and is quiet about it."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as broken:
        done = subprocess.run(
            [*RUN, *arguments],
            stdout=broken,
            stderr=subprocess.PIPE,
            env=environment(daemon),
            cwd=ROOT,
            timeout=DEADLINE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_name_that_is_no_text(daemon: FakeDaemon) -> None:
    """Bytes that are no UTF-8 are refused like any other wrong name, in one ASCII-safe object."""
    done = subprocess.run(
        [*RUN, "up", b"j\xff", "--json"],
        capture_output=True,
        env=environment(daemon, LC_ALL="C.UTF-8"),
        cwd=ROOT,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "bad_request"


def fake_command(monkeypatch: pytest.MonkeyPatch, problem: BaseException) -> None:
    """Put a command in the place of `check` that ends with an exception."""

    @click.command
    def command() -> None:
        raise problem

    module = types.ModuleType("anubis.cli.check")
    monkeypatch.setattr(module, "command", command, raising=False)
    monkeypatch.setitem(sys.modules, "anubis.cli.check", module)


def test_a_bad_configuration_is_told_problem_by_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each problem has its line, with its place and what would be right; the status is 78."""
    place = Path("/etc/anubis/anubis.conf")
    problems = [
        Problem(Location(place, 7), "no such key", "did you mean Port?"),
        Problem(Location(place, 3), "not a port"),
    ]
    fake_command(monkeypatch, ConfigError(problems))
    assert app.run(["check"]) == 78
    assert capsys.readouterr().err.splitlines() == [
        "anubis: error: /etc/anubis/anubis.conf:3: not a port",
        "anubis: error: /etc/anubis/anubis.conf:7: no such key (did you mean Port?)",
    ]


def test_giving_up_a_question_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at a prompt is Ctrl-C."""
    fake_command(monkeypatch, click.Abort())
    with pytest.raises(KeyboardInterrupt):
        app.run(["check"])


def test_anubisd_is_anubis_daemon(tmp_path: Path) -> None:
    """`anubisd` takes the options of `anubis daemon`, and explains what is wrong in its way."""
    code = "import anubis.cli; anubis.cli.daemon_main()"
    for arguments, status, text in (
        (["--help"], 0, "Usage: anubis daemon [OPTIONS]"),
        (["--version"], 0, "anubis 0.1.0"),
        (["--colour"], 2, "anubis: error: no such option: --colour"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == status
        assert (done.stdout + done.stderr).startswith(text)


def test_every_command_of_the_list_exists() -> None:
    """Each command in --help can be called, and describes itself."""
    with app.anubis_group.make_context("anubis", ["--help"], resilient_parsing=True) as context:
        for name in app.COMMANDS:
            command = app.anubis_group.get_command(context, name)
            assert command is not None
            assert command.help
