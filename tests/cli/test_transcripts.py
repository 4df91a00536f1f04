"""Every transcript beside this file is what happens, to the letter.

A transcript has comments (`#`), commands (`$`), and below each command the lines of its standard
output (`|`) and standard error (`!`), and its exit status (`?`). A fake daemon answers
(`tests/fake_daemon.py`); `as nobody` before a command makes the caller a stranger.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fake_daemon import DEADLINE, FakeDaemon, fake_daemon

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TRANSCRIPTS = sorted(HERE.glob("*.txt"))

# The commands are imported first, as a stranger may not be able to read this checkout.
RUN = """
import sys, os
import anubis.cli.app, anubis.cli.up, anubis.cli.down, anubis.cli.switch, anubis.cli.status
import anubis.cli.log, anubis.cli.metrics
import anubis.cli.check, anubis.cli.plan, anubis.cli.why
if sys.argv[1] == "nobody":
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.argv[:2] = ["anubis"]
anubis.cli.main()
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a transcript, and the lines below it."""

    words: list[str]
    expected: list[str]


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    """Run a fake daemon on a socket that every user can reach."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with fake_daemon(Path(directory) / "anubis.sock", "daemon") as running:
            yield running


def read(transcript: Path) -> list[Command]:
    """Read the commands of a transcript."""
    commands: list[Command] = []
    for line in transcript.read_text().splitlines():
        if line.startswith("$ "):
            commands.append(Command(shlex.split(line[2:]), []))
        elif line and not line.startswith("#"):
            commands[-1].expected.append(line)
    return commands


def run(words: list[str], path: Path) -> list[str]:
    """Run a command and return what a transcript says of it."""
    user = "root"
    if words[:2] == ["as", "nobody"]:
        user, words = "nobody", words[2:]
    environment = dict(os.environ, ANUBIS_SOCKET=str(path), TZ="UTC", COLUMNS="80")
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    assert words.pop(0) == "anubis"
    done = subprocess.run(
        [sys.executable, "-c", RUN, user, *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    lines = [f"| {line}".rstrip() for line in done.stdout.splitlines()]
    lines += [f"! {line}".rstrip() for line in done.stderr.splitlines()]
    return [line.replace(str(path), "SOCKET") for line in [*lines, f"? {done.returncode}"]]


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(daemon: FakeDaemon, transcript: Path) -> None:
    """Each command writes what the transcript says, and ends with that status."""
    commands = read(transcript)
    assert commands
    for command in commands:
        assert run(command.words, daemon.path) == command.expected, shlex.join(command.words)


def test_every_exit_status_has_a_transcript() -> None:
    """No status is documented and never seen; 78 and 130 have tests of their own."""
    seen = {
        line for path in TRANSCRIPTS for line in path.read_text().splitlines() if line[:1] == "?"
    }
    assert seen == {f"? {status}" for status in (0, 1, 2, 3, 4, 69, 77)}


def test_the_document_shows_what_is_printed() -> None:
    """The log in docs/monitoring.md is, to the letter, the beginning of the transcript's."""
    document = (ROOT / "docs" / "monitoring.md").read_text()
    shown = document.partition("$ anubis log jacinth\n")[2].partition("```")[0].splitlines()
    command = read(HERE / "log.txt")[0]
    assert command.words == ["anubis", "log", "jacinth"]
    assert [f"| {line}" for line in shown] == command.expected[: len(shown)]
    assert len(shown) == 4
