"""Hooks: the command as it is written, the process that runs, and what is told to it and when."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from anubis.daemon import hooks as module
from anubis.daemon.command import run_command
from anubis.daemon.goodbye import Reason
from anubis.daemon.hooks import Hooks, Occasion, Owed, known_reason, patience
from anubis.errors import LocalFailure, Location
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.files.hook import command
from anubis.files.ini import BadValue
from anubis.gatekeeper import Role
from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import Endpoint

SECONDS = 10.0  # for whatever has to happen


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Return a maker of programs of ours; each is given its text and has a name of its own."""
    tmp_path.chmod(0o755)

    def make(text: str) -> str:
        path = tmp_path / f"hook{len(list(tmp_path.iterdir()))}"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


def occasion(*, up: tuple[str, ...] = (), down: tuple[str, ...] = ()) -> Occasion:
    """Return the coming of jacinth, with these hooks."""
    peer = AuthorizedPeer(
        name="jacinth",
        public_key=PublicKey(bytes([1] * 32)),
        control_public_key=PublicKey(bytes([2] * 32)),
        allowed_ips=frozenset(map(ip_network, ("fd00:1::/48", "10.9.0.1/32", "10.1.0.0/16"))),
        location=Location(Path("authorized_peers"), 1),
        post_up=up,
        pre_down=down,
    )
    endpoint = Endpoint(ip_address("2001:db8::1"), 4296)
    return Occasion(peer, Owed(Role.INITIATOR, 3600), "wg0", endpoint)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition. Raises TimeoutError."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 (nobody tells of a process that has gone)
            await asyncio.sleep(0.01)


def lives(process: int) -> bool:
    """Tell whether a process runs; one that has ended and is not reaped does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


# As it is written


def test_words_are_told_apart_and_mean_nothing_else(script: Callable[[str], str]) -> None:
    """Quotes keep words together; what a shell would heed is a character like others."""
    program = script("exit 0")
    text = f"{program} 'two words' $HOME;id `id` >x \\* \"a'b\""
    assert command(text) == (program, "two words", "$HOME;id", "`id`", ">x", "*", "a'b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no command"),
        ("up.sh", "no absolute path"),
        ("/bin/sh 'x", "no closing quotation"),
        ("/nowhere/up.sh", "/nowhere/up.sh: there is no such file"),
        ("/etc", "/etc: this is not a regular file"),
        ("/etc/passwd", "/etc/passwd: this program may not be run"),
    ],
)
def test_what_cannot_be_run_is_refused(text: str, message: str) -> None:
    """When the file is read, not when the connection comes."""
    with pytest.raises(BadValue) as raised:
        command(text)
    assert raised.value.message == message
    assert raised.value.hint or message.endswith("no such file")


@pytest.mark.parametrize(("what", "mode"), [("file", 0o775), ("file", 0o757), ("directory", 0o777)])
def test_a_program_that_others_can_write_is_refused(
    script: Callable[[str], str], what: str, mode: int
) -> None:
    """They would decide what runs."""
    program = Path(script("exit 0"))
    (program if what == "file" else program.parent).chmod(mode)
    with pytest.raises(BadValue, match="others can write"):
        command(str(program))


# As it runs


async def test_arguments_and_environment_are_these_and_no_other() -> None:
    """No shell looks at the words, and nothing of the daemon's environment is passed on."""
    text = "import json,os,sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))"
    words = (sys.executable, "-I", "-c", text, "$HOME; id", "a b")
    ended = await run_command(words, {"ANUBIS_ROLE": "initiator", "LC_ALL": "C.UTF-8"}, SECONDS)
    assert ended.status == 0
    expected = [words[4:], {"ANUBIS_ROLE": "initiator", "LC_ALL": "C.UTF-8"}, "/"]
    assert json.loads(ended.said) == json.loads(json.dumps(expected))


async def test_nothing_of_the_daemon_s_is_open_to_it() -> None:
    """Its input is empty, and of descriptors it has the three that every program has."""
    text = (
        "import os,sys\nfor number in range(256):\n try: os.fstat(number)\n"
        " except OSError: pass\n else: print(number)\nprint(sys.stdin.read() + 'end')"
    )
    with open(os.devnull) as inheritable:  # noqa: ASYNC230, PTH123
        os.set_inheritable(inheritable.fileno(), True)  # noqa: FBT003
        ended = await run_command((sys.executable, "-I", "-c", text), {}, SECONDS)
    assert ended.said.split() == ["0", "1", "2", "end"]


async def test_a_late_command_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    """Also what runs in its background, and at once."""
    text = f"sleep 1000 & echo $! > {tmp_path}/child; sleep 1000"
    began = time.monotonic()
    ended = await run_command(("/bin/sh", "-c", text), {"PATH": os.environ["PATH"]}, 0.5)
    assert ended.status is None
    assert 0.5 <= time.monotonic() - began < SECONDS
    child = int((tmp_path / "child").read_text())
    await until(lambda: not lives(child))


async def test_nothing_that_it_started_outlives_it(tmp_path: Path) -> None:
    """A background job holds nobody up, though it has the output open, and ends with the hook."""
    text = f"sleep 1000 & echo $! > {tmp_path}/child; echo done; exit 3"
    async with asyncio.timeout(SECONDS):
        ended = await run_command(("/bin/sh", "-c", text), {"PATH": os.environ["PATH"]}, 1000)
    assert (ended.status, ended.said) == (3, "done")
    child = int((tmp_path / "child").read_text())
    await until(lambda: not lives(child))


async def test_a_cancelled_command_is_killed(tmp_path: Path) -> None:
    """Nobody waits for it any more, so nobody would see to it."""
    text = f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 1000"
    environment = {"PATH": os.environ["PATH"]}
    task = asyncio.create_task(run_command(("/bin/sh", "-c", text), environment, 1000))
    await until((tmp_path / "pid").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lives(int((tmp_path / "pid").read_text()))


async def test_of_endless_output_the_beginning_is_kept() -> None:
    """Who talks without end is neither held up nor remembered whole."""
    environment = {"PATH": os.environ["PATH"]}
    text = "echo first; head -c 3000000 /dev/zero | tr '\\0' x; exit 5"
    ended = await run_command(("/bin/sh", "-c", text), environment, SECONDS)
    assert ended.status == 5
    assert ended.said.startswith("first\nxxx")
    assert len(ended.said) == 4096


# What it is told, and when


def test_the_environment_is_the_documented_one() -> None:
    """The names and forms of docs/configuration.md."""
    told = occasion().environment()
    assert {name: text for name, text in told.items() if name.startswith("ANUBIS_")} == {
        "ANUBIS_CONNECTION": "jacinth",
        "ANUBIS_ROLE": "initiator",
        "ANUBIS_INTERFACE": "wg0",
        "ANUBIS_ENDPOINT": "[2001:db8::1]:4296",
        "ANUBIS_ALLOWED_IPS": "10.1.0.0/16,10.9.0.1/32,fd00:1::/48",
        "ANUBIS_LEASE": "3600",
    }
    assert set(told) - {name for name in told if name.startswith("ANUBIS_")} == {"PATH", "LC_ALL"}
    assert replace(occasion(), reason="idle").environment()["ANUBIS_REASON"] == "idle"


def test_a_reason_is_one_of_our_own_words() -> None:
    """The text in a far end's `gone` reaches no hook."""
    assert {known_reason(word) for word in Reason} == set(Reason)
    for text in ("", "DOWN", "down ", "$(id)", "down\nPATH=/tmp", "/tmp/x"):
        assert known_reason(text) == "unknown"


@pytest.mark.parametrize("word", ["revoked", "not_permitted", "changed"])
def test_who_is_cut_off_is_not_waited_for(word: str) -> None:
    """A hook gives nobody another moment; any other end waits a little."""
    assert patience(word) == 0.0
    assert 0.0 < patience("down") == patience("unknown") <= 1.0


async def test_a_failing_post_up_is_told_and_owes_nothing(script: Callable[[str], str]) -> None:
    """With its status and its last line, without what a terminal would heed."""
    saved: list[dict[str, Owed]] = []
    hooks = Hooks(lambda: saved.append(dict(hooks.owed)))
    hooks.coming.add("jacinth")
    program = script("echo one; printf 'bad\\033[31m luck\\n' >&2; exit 7")
    told = occasion(up=(program,), down=(program,))
    with pytest.raises(LocalFailure) as raised:
        await hooks.post_up(told)
    assert raised.value.message == (
        f"PostUp of jacinth: {program} ended with status 7: bad?[31m luck"
    )
    assert (hooks.owed, saved) == ({}, [])
    assert hooks.coming == {"jacinth"}  # until the connection is undone
    assert await hooks.pre_down(told, SECONDS) is None


async def test_pre_down_is_run_once(script: Callable[[str], str], tmp_path: Path) -> None:
    """Whoever ends the connection, however many do; then it is owed no more."""
    saved: list[dict[str, Owed]] = []
    hooks = Hooks(lambda: saved.append(dict(hooks.owed)))
    told = occasion(down=(script(f"echo down >> {tmp_path}/ran; exit 2"),))
    await hooks.post_up(told)
    assert saved == [{"jacinth": told.owed}]
    found = await asyncio.gather(*(hooks.pre_down(told, SECONDS) for _ in range(3)))
    (why,) = filter(None, found)
    assert why.endswith(" ended with status 2")
    assert (tmp_path / "ran").read_text() == "down\n"
    assert saved == [{"jacinth": told.owed}, {}]


async def test_a_slow_pre_down_goes_on_beside(script: Callable[[str], str], tmp_path: Path) -> None:
    """Nobody waits longer than he wants; the next PostUp of the connection waits for its turn."""
    hooks = Hooks(lambda: None)
    os.mkfifo(tmp_path / "gate")
    slow = script(f"read line < {tmp_path}/gate; echo down >> {tmp_path}/ran")
    told = occasion(up=(script(f"echo up >> {tmp_path}/ran"),), down=(slow,))
    await hooks.post_up(told)
    async with asyncio.timeout(SECONDS):
        assert await hooks.pre_down(told, 0.0) is None
    assert "jacinth" in hooks.owed
    again = asyncio.create_task(hooks.post_up(told))
    await asyncio.to_thread((tmp_path / "gate").write_text, "go\n")
    await again
    assert (tmp_path / "ran").read_text() == "up\ndown\nup\n"
    assert "jacinth" in hooks.owed


async def test_at_the_end_a_hook_that_hangs_is_killed_and_stays_owed(
    script: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next daemon runs it again; nothing is left running."""
    monkeypatch.setattr(module, "STOP_SECONDS", 0.1)
    hooks = Hooks(lambda: None)
    told = occasion(down=(script("exec sleep 1000"),))
    await hooks.post_up(told)
    await hooks.pre_down(told, 0.0)
    async with asyncio.timeout(SECONDS):
        await hooks.stop()
    assert hooks.owed == {"jacinth": told.owed}


async def test_a_hook_that_hangs_is_told(
    script: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the time that it had; so is one that had no turn."""
    monkeypatch.setattr(module, "HOOK_SECONDS", 0.5)
    monkeypatch.setattr(module, "TURN_SECONDS", 0.1)
    monkeypatch.setattr(logging.getLogger("anubis"), "propagate", True)
    hooks = Hooks(lambda: None)
    program = script("exec sleep 1000")
    told = occasion(up=(program,))
    found = await asyncio.gather(*(hooks.post_up(told) for _ in range(2)), return_exceptions=True)
    assert [str(error) for error in found] == [
        f"PostUp of jacinth: {program} had not ended after 0.5 s, and was killed",
        "PostUp of jacinth: other hooks took longer than 0.1 s, so that it was not run",
    ]
    messages = {record.getMessage() for record in caplog.records}
    assert [message.split()[0] for message in messages] == ["hook_failed"] * 2


async def test_a_program_is_looked_at_before_it_is_run(
    script: Callable[[str], str], tmp_path: Path
) -> None:
    """One that others may write by now is not run, though it was right when the file was read."""
    program = script(f"touch {tmp_path}/ran")
    assert command(program) == (program,)
    os.chmod(program, 0o777)  # noqa: PTH101
    with pytest.raises(LocalFailure, match="others can write this file"):
        await Hooks(lambda: None).post_up(occasion(up=(program,)))
    assert not (tmp_path / "ran").exists()
