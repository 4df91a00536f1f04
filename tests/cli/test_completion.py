"""TAB in a shell: names as they are now, soon, and never an error."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from anubis.cli.app import anubis_group
from tests.fake_daemon import DEADLINE, fake_daemon

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-c", "from anubis.cli import main; main()"]
NAMES = ["jacinth", "leaf", "surya", "selen"]  # as the fake daemon has them: two up, two down
SHELLS = {
    "bash": ["bash", "--noprofile", "--norc", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
# How each loads the script as it does when it finds it by itself, and is quick to draw.
LOADING = {
    "bash": "PS1='> '; source {script}",
    "zsh": "PS1='> '; bindkey -e; fpath=({script.parent} $fpath); autoload compinit; compinit -uD",
    "fish": "function fish_prompt; echo -n '> '; end; source {script}",
}
TOO_LONG = 3.0  # seconds; it promises one, and the machine has other work


def ask(line: str, socket_path: Path, kind: str = "bash_complete") -> list[str]:
    """Return what is offered for the last word of a line, as click's script for bash is told."""
    words = line.split(" ")
    done = subprocess.run(
        RUN,
        env={
            **os.environ,
            "ANUBIS_SOCKET": str(socket_path),
            "_ANUBIS_COMPLETE": kind,
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [answer.removeprefix("plain,") for answer in done.stdout.split()]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """Run a fake daemon, and give its socket."""
    path = tmp_path / "anubis.sock"
    with fake_daemon(path):
        yield path


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("anubis up ", ["surya", "selen"]),
        ("anubis switch s", ["surya", "selen"]),
        ("anubis down ", ["jacinth", "leaf"]),
        ("anubis status ", NAMES),
        ("anubis status LE", ["leaf"]),
        ("anubis up --lease 8h s", ["surya", "selen"]),
        ("anubis up jac", ["jacinth"]),  # it is up, but nothing else begins so
        ("anubis down su", ["surya"]),
        ("anubis up nobody", []),
        ("anubis up surya ", []),
        ("anubis st", ["status"]),
        ("anubis up --l", ["--lease"]),
        ("anubis peer re", ["remove", "rename"]),
        ("anubis nonsense up --l", []),
    ],
)
def test_what_is_offered(daemon: Path, line: str, offered: list[str]) -> None:
    """The connections that the command is for, by the daemon; commands and options."""
    assert ask(line, daemon) == offered


def test_what_a_connection_is_now_is_told(daemon: Path) -> None:
    """Zsh and fish show beside a name whether it is up."""
    assert ask("anubis status s", daemon, "zsh_complete") == [
        *("plain", "surya", "down"),
        *("plain", "selen", "down"),
    ]


def test_peers_are_those_of_the_files(tmp_path: Path) -> None:
    """Also of the directory beside the file; no daemon is asked, a mistake hides nobody else."""
    (tmp_path / "anubis.conf").write_text("[Production]\nAdress = 10.9.0.2/24\n")
    (tmp_path / "authorized_peers").write_text(
        "[Peer]\nName = Selen\nMay = everything\n[Peer]\nName = a b\n[Peer]\nName = jacinth\n"
    )
    (tmp_path / "authorized_peers.d").mkdir()
    (tmp_path / "authorized_peers.d/more.conf").write_text("[Peer]\nName = surya\n")
    group = f"anubis peer --config {tmp_path}/anubis.conf"
    assert ask(f"{group} remove ", tmp_path / "none") == ["selen", "jacinth", "surya"]
    assert ask(f"{group} rename s", tmp_path / "none") == ["selen", "surya"]
    (tmp_path / "authorized_peers").unlink()
    assert ask(f"{group} remove ", tmp_path / "none") == ["surya"]


def unnamed(group: click.Group, context: click.Context) -> Iterator[str]:
    """Yield the commands below a group for whose NAME nothing is offered."""
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None
        inner = click.Context(command, context, info_name=word)
        inner.params["config_path"] = Path(os.environ["CONFIG"])
        for parameter in command.params:
            if parameter.name == "name" and isinstance(parameter, click.Argument):
                offered = [item.value for item in parameter.shell_complete(inner, "jac")]
                if offered != ["jacinth"]:
                    yield inner.command_path
        if isinstance(command, click.Group):
            yield from unnamed(command, inner)


def test_every_name_that_there_is_already_is_offered(
    daemon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every command, but for those that take a new one, and for one that has no daemon."""
    (tmp_path / "anubis.conf").touch()
    (tmp_path / "authorized_peers").write_text("[Peer]\nName = jacinth\n")
    monkeypatch.setenv("ANUBIS_SOCKET", str(daemon))
    monkeypatch.setenv("CONFIG", str(tmp_path / "anubis.conf"))
    found = set(unnamed(anubis_group, click.Context(anubis_group, info_name="anubis")))
    assert found == {"anubis invite", "anubis peer add", "anubis request"}


def test_without_a_daemon_nothing_is_said(tmp_path: Path) -> None:
    """Neither names nor an error."""
    assert ask("anubis up ", tmp_path / "none") == []


def with_status(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Press TAB after `anubis up `, while the client's way to the names is this code."""
    (directory / "sitecustomize.py").write_text(
        f"import time\nimport anubis.client\ndef status(self):\n    {code}\n"
        "anubis.client.Client.status = status\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}",
        "_ANUBIS_COMPLETE": "bash_complete",
        "COMP_WORDS": "anubis up ",
        "COMP_CWORD": "2",
    }
    return subprocess.run(
        RUN, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def test_a_bug_is_not_shown_at_the_prompt(tmp_path: Path) -> None:
    """What is printed to standard error while a line is completed goes nowhere."""
    done = with_status("raise KeyError", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_what_takes_long_is_given_up(tmp_path: Path) -> None:
    """Whatever it is: after a second nothing is offered."""
    begun = time.monotonic()
    done = with_status("time.sleep(60)", tmp_path)
    assert time.monotonic() - begun < TOO_LONG
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_daemon_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    """It accepts and is silent: after a second there are no names."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "silent"))
        listener.listen()
        begun = time.monotonic()
        assert ask("anubis up ", tmp_path / "silent") == []
        assert time.monotonic() - begun < TOO_LONG


class Terminal:
    """A shell in a terminal, and what it has written there."""

    def __init__(self, name: str, environment: dict[str, str], directory: Path) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *SHELLS[name]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            cwd=directory,
        )
        os.close(slave)
        self.written = ""

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def wait_for(self, pattern: str) -> None:
        """Read until the pattern is there; what stands before its end is then done with."""
        deadline = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.written)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.written!r}"
            if select.select([self._master], [], [], left)[0]:
                self.written += os.read(self._master, 4096).decode(errors="replace")
        self.written = self.written[found.end() :]

    def close(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait(DEADLINE)
        with contextlib.suppress(OSError):
            os.close(self._master)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Give a directory with an `anubis` as it is installed, and the scripts of all shells."""
    program = tmp_path / "bin/anubis"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -c "{RUN[-1]}" "$@"\n')
    program.chmod(0o755)
    for shell in SHELLS:
        source = subprocess.run(
            [program],
            env={**os.environ, "_ANUBIS_COMPLETE": f"{shell}_source"},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )
        directory = tmp_path / shell
        directory.mkdir()
        (directory / "_anubis").write_text(source.stdout)
    return tmp_path


@pytest.mark.parametrize("shell", SHELLS)
def test_in_a_shell(daemon: Path, programs: Path, shell: str) -> None:
    """TAB completes a command, an option and names, and writes nothing else."""
    environment = {
        **{name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ},
        "HOME": str(programs),
        "TERM": "dumb" if shell == "bash" else "xterm",
        "PATH": f"{programs}/bin:{os.environ['PATH']}",
        "ANUBIS_SOCKET": str(daemon),
    }
    terminal = Terminal(shell, environment, programs)
    try:
        terminal.type(
            f"{LOADING[shell].format(script=programs / shell / '_anubis')}; echo re''ady\n"
        )
        terminal.wait_for("ready")
        for typed, completed in {
            "anubis sta": "anubis status",
            "anubis up --pi": "anubis up --pin",
            "anubis up se": "anubis up selen",
            "anubis down j": "anubis down jacinth",
            "anubis up nobody": "anubis up nobody",
        }.items():
            terminal.type(f"{typed}\t\x01echo '<' \x05 '>'\n")
            terminal.wait_for(rf"< {completed} >")
    finally:
        terminal.close()
