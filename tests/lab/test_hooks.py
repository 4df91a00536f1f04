"""`PostUp` and `PreDown` of real daemons: programs that write down what they were given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.caller import Caller
from tests.lab.hostile import new_tunnel, public_key
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    anubis,
    client,
    configured,
    edited,
    seen,
)

HOOK = "/etc/anubis/hook"
SAID = "/run/anubis/said"
SECONDS = 15.0
# What it is given goes to a file of its own, whole or not at all; the first word names it.
NOTES = f"""\
file={SAID}.$1.$(date +%s%N)
{{ printf '%s\\0' "$@"; printf '\\0'; env -0; }} > $file.new
mv $file.new $file
"""
STRANGE = "two words;$(touch /run/anubis/shell)`id`"


@pytest.fixture(autouse=True)
def _leaves_nothing(everything_as_before: None) -> None:
    """See after each test, and after its own fixtures, that nothing is left of it."""


@contextmanager
def hooked(
    lab: Lab, host: str, peer: str, up: str = NOTES, down: str = NOTES, *, more: str = ""
) -> Iterator[None]:
    """Have scripts run when a host's connection comes and goes; yield with them in force."""
    paths = {key: lab.path(host, f"{HOOK}-{key}") for key in ("up", "down")}
    for key, text in (("up", up), ("down", down)):
        paths[key].write_text(f"#!/bin/sh\n{text}")
        paths[key].chmod(0o755)
    keys = f"PostUp = {HOOK}-up up '{STRANGE}'\nPreDown = {HOOK}-down down\n{more}"
    name = f"Name = {peer}\n"
    try:
        with configured(lab, Edit(host, AUTHORIZED_PEERS, name, name + keys)):
            yield
            if seen(lab, host, peer).state == "up":
                client(lab, host).down(peer)
    finally:
        for path in (*paths.values(), *said(lab, host)):
            path.unlink()


def said(lab: Lab, host: str, hook: str = "") -> list[Path]:
    """Return what the hooks of a host wrote, oldest first."""
    found = lab.path(host, SAID).parent.glob(f"said.{hook}*")
    return sorted((p for p in found if p.suffix != ".new"), key=lambda p: p.name.split(".")[-1])


def told(lab: Lab, host: str, hook: str, number: int = 1) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment of the newest run of a hook, its `number`th."""
    wait_until(lambda: len(said(lab, host, hook)) >= number, SECONDS, f"{hook} has run")
    files = said(lab, host, hook)
    assert len(files) == number
    arguments, _, environment = files[-1].read_text().partition("\0\0")
    return arguments.split("\0"), dict(
        each.split("=", 1) for each in environment.split("\0") if each
    )


def test_hooks_are_told_what_comes_and_goes(lab: Lab) -> None:
    """At the initiator, with its arguments as they stand in the file, and nothing of ours."""
    with hooked(lab, "xena", "jacinth"):
        anubis(lab, "xena", "up", "jacinth", "--lease", "1h")
        arguments, environment = told(lab, "xena", "up")
        assert arguments == ["up", STRANGE]
        assert not lab.path("xena", "/run/anubis/shell").exists()
        common = {
            "ANUBIS_CONNECTION": "jacinth",
            "ANUBIS_ROLE": "initiator",
            "ANUBIS_INTERFACE": "wg0",
            "ANUBIS_LEASE": "3600",
        }
        shown = lab.run("xena", "wg", "show", "wg0", "dump").stdout.splitlines()[1].split("\t")
        assert environment["ANUBIS_ENDPOINT"] == shown[2]
        assert set(environment["ANUBIS_ALLOWED_IPS"].split(",")) == set(shown[3].split(","))
        assert common.items() <= environment.items()
        ours = {name for name in environment if name.startswith("ANUBIS_")}
        # PWD and _ are the shell's own.
        assert set(environment) - ours - {"PWD", "_", "OLDPWD", "SHLVL"} == {"PATH", "LC_ALL"}
        assert len(ours) == 6
        assert said(lab, "xena", "down") == []
        anubis(lab, "xena", "down", "jacinth")
        assert told(lab, "xena", "down")[1]["ANUBIS_REASON"] == "down"
        anubis(lab, "xena", "down", "jacinth")
        assert len(said(lab, "xena")) == 2  # what is down already has nothing to run


def test_pre_down_still_reaches_the_far_end(lab: Lab) -> None:
    """The connection stands while it runs."""
    fetch = f"curl -sS --max-time 5 http://{LEAF[4]}/ >&2 || exit 9\n{NOTES}"
    with hooked(lab, "xena", "jacinth", down=fetch):
        anubis(lab, "xena", "up", "jacinth")
        anubis(lab, "xena", "down", "jacinth")
        told(lab, "xena", "down")


def test_a_failing_post_up_undoes_the_connection(lab: Lab, before: dict[str, str]) -> None:
    """At both ends, and whoever asked is told why; so at the responder, whose far end is told."""
    with hooked(lab, "xena", "jacinth", up="echo no luck >&2\nexit 3\n"):
        done = anubis_fails(lab, "xena", "up", "jacinth")
        assert f"PostUp of jacinth: {HOOK}-up ended with status 3: no luck" in done
        wait_until(lambda: seen(lab, "jacinth", "xena").state == "down", SECONDS, "undone there")
        assert said(lab, "xena") == []
    with hooked(lab, "jacinth", "xena", up="exit 3\n"):
        assert "failed" in anubis_fails(lab, "xena", "up", "jacinth")
        assert seen(lab, "jacinth", "xena").state == "down"
        assert "status 3" in lab.daemon("jacinth").log


def anubis_fails(lab: Lab, host: str, *words: str) -> str:
    """Run `anubis` to a failure; return what it says."""
    done = lab.run(host, "anubis", *words)
    assert done.returncode not in (0, None), done
    assert seen(lab, host).state == "down"
    return done.stderr


def test_a_failing_pre_down_keeps_nothing_up(lab: Lab) -> None:
    """The connection is down at both ends, and the caller is warned."""
    with hooked(lab, "xena", "jacinth", down="echo stuck; exit 4\n"):
        anubis(lab, "xena", "up", "jacinth")
        result = client(lab, "xena").down("jacinth")
        why = f"PreDown of jacinth: {HOOK}-down ended with status 4: stuck"
        assert (result.result, result.warnings) == ("done", (why,))
        assert seen(lab).state == seen(lab, "jacinth", "xena").state == "down"


def test_a_hanging_hook_is_killed_and_its_children_too(lab: Lab) -> None:
    """After 10 s; the connection, which the far end took down, has long ended by then."""
    hang = "sleep 4321 &\necho $! > /run/anubis/child\nsleep 4321\n"
    with hooked(lab, "jacinth", "xena", down=hang):
        anubis(lab, "xena", "up", "jacinth")
        anubis(lab, "xena", "down", "jacinth", "--timeout", "3s")
        assert seen(lab, "jacinth", "xena").state == "down"
        assert sleepers(lab) == 2
        wait_until(lambda: sleepers(lab) == 0, SECONDS, "it is killed")
        assert "had not ended after 10 s, and was killed" in lab.daemon("jacinth").log


def sleepers(lab: Lab) -> int:
    """Return how many processes of the hanging hook there are."""
    return len(re.findall(r"sleep 4321", lab.run("jacinth", "ps", "-eo", "args").stdout))


def test_hooks_run_however_a_connection_comes_and_goes(lab: Lab) -> None:
    """By the far end, when it asks and when it stops; when an entry is disabled."""
    with hooked(lab, "jacinth", "xena"):
        anubis(lab, "xena", "up", "jacinth")
        assert told(lab, "jacinth", "up")[1]["ANUBIS_ROLE"] == "responder"
        anubis(lab, "xena", "down", "jacinth")
        assert told(lab, "jacinth", "down")[1]["ANUBIS_REASON"] == "down"
        anubis(lab, "xena", "up", "jacinth")
        lab.daemon("xena").stop()
        assert told(lab, "jacinth", "down", 2)[1]["ANUBIS_REASON"] == "shutdown"
        lab.daemon("xena").start()
        anubis(lab, "xena", "up", "jacinth")
        name = "Name = xena\n"
        with edited(lab, Edit("jacinth", AUTHORIZED_PEERS, name, f"{name}Enabled = no\n")):
            client(lab, "jacinth").reload()
            assert told(lab, "jacinth", "down", 3)[1]["ANUBIS_REASON"] == "revoked"
        anubis(lab, "xena", "up", "jacinth")
        lab.daemon("jacinth").stop()
        assert told(lab, "jacinth", "down", 4)[1]["ANUBIS_REASON"] == "shutdown"
        lab.daemon("jacinth").start()
        assert len(said(lab, "jacinth", "up")) == 4


def test_hooks_run_when_a_lease_ends(lab: Lab) -> None:
    """Nobody asks then, and nobody is told but the hook."""
    with hooked(lab, "jacinth", "xena", more="MaxLease = 2s\n"):
        anubis(lab, "xena", "up", "jacinth")
        assert told(lab, "jacinth", "up")[1]["ANUBIS_LEASE"] == "2"
        lab.daemon("xena").kill()
        assert told(lab, "jacinth", "down")[1]["ANUBIS_REASON"] == "expired"
        lab.daemon("xena").start()


def test_a_restart_runs_no_hook_and_a_crash_owes_none(lab: Lab) -> None:
    """What is taken up has come long ago. A PostUp that was cut short is not run again."""
    with hooked(lab, "xena", "jacinth"):
        anubis(lab, "xena", "up", "jacinth")
        lab.daemon("xena").let_go()
        lab.daemon("xena").start()
        lab.daemon("xena").kill()
        lab.daemon("xena").start()
        assert seen(lab).state == "up"
        assert len(said(lab, "xena")) == 1
        anubis(lab, "xena", "down", "jacinth")
        told(lab, "xena", "down")
    with hooked(lab, "xena", "jacinth", up=NOTES + "exec sleep 4322\n"):
        up = lab.popen("xena", "anubis", "up", "jacinth")
        told(lab, "xena", "up")
        lab.daemon("xena").kill()
        up.communicate(timeout=SECONDS)
        lab.run("xena", "sh", "-c", "kill $(ps -eo pid,args | awk '/[s]leep 4322/ {print $1}')")
        lab.daemon("xena").start()
        assert seen(lab).state == "down"
        wait_until(lambda: seen(lab, "jacinth", "xena").state == "down", SECONDS, "undone there")
        assert len(said(lab, "xena")) == 1


def test_what_a_crash_left_to_be_run_is_run_at_the_next_start(lab: Lab) -> None:
    """A PreDown that was under way when the daemon was killed is run again, once."""
    first = f"{NOTES}[ -e {SAID}.again ] || {{ touch {SAID}.again; exec sleep 4323; }}\n"
    with hooked(lab, "xena", "jacinth", down=first):
        anubis(lab, "xena", "up", "jacinth")
        down = lab.popen("xena", "anubis", "down", "jacinth")
        told(lab, "xena", "down")
        wait_until(lab.path("xena", f"{SAID}.again").exists, SECONDS, "it hangs")
        lab.daemon("xena").kill()
        down.communicate(timeout=SECONDS)
        lab.run("xena", "sh", "-c", "kill $(ps -eo pid,args | awk '/[s]leep 4323/ {print $1}')")
        lab.daemon("xena").start()
        assert told(lab, "xena", "down", 2)[1]["ANUBIS_REASON"] == "undone"
        assert seen(lab).state == "down"


def test_a_far_end_writes_nothing_into_a_hook(lab: Lab) -> None:
    """Its reason for `gone` may be any text; only the known words are passed on."""
    evil = "$(touch /run/anubis/pwned)\nLD_PRELOAD=/tmp/x"
    with hooked(lab, "jacinth", "xena"):
        new_tunnel(lab, "xena", "jacinth")
        with Caller(lab, "xena") as caller:
            assert caller.ask("up").result == "done"
            told(lab, "jacinth", "up")
            assert caller.ask("gone", reason=evil).result == "done"
        environment = told(lab, "jacinth", "down")[1]
        assert environment["ANUBIS_REASON"] == "unknown"
        assert "LD_PRELOAD" not in environment
        assert not any("pwned" in text for text in environment.values())
        assert public_key(lab, "xena") not in lab.run("jacinth", "wg", "show", "wg0").stdout
        new_tunnel(lab, "xena", "jacinth")
