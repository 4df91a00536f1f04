"""A host in trouble: no room, nothing may be written, no descriptors, a name server that is dead.

What is up lives on, what would need the missing thing is refused before anything is changed, with a
message that says what to do, and all is well as soon as the trouble is over. Every trouble here is
real; that of the clock is in `test_replay`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from anubis.errors import LocalFailure
from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    Ping,
    anubis,
    client,
    configured,
    end_all,
    left_over,
    states,
    transaction,
)

# Answers like a name server that takes its time: for ever, or so many seconds.
NAME_SERVER = """
import select, socket, sys, time
address, delay = sys.argv[1], float(sys.argv[2])
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((address, 53))
print("ready", flush=True)
waiting = []
while True:
    pause = max(0, waiting[0][0] - time.monotonic()) if waiting else None
    if select.select([server], [], [], pause)[0]:
        waiting.append((time.monotonic() + delay, *server.recvfrom(4096)))
    while waiting and waiting[0][0] <= time.monotonic():
        _, query, client = waiting.pop(0)
        end = query.index(b"\\0", 12) + 5
        is_a = query[end - 4 : end - 2] == b"\\0\\1"
        head = query[:2] + bytes.fromhex("818000010001" if is_a else "818000010000") + bytes(4)
        found = bytes.fromhex("c00c0001000100000000" "0004cb007101")  # 203.0.113.1
        server.sendto(head + query[12:end] + found * is_a, client)
"""
NAME = "gate.example"
NEVER = 3600.0  # seconds
# Connects as often as it can, until its standard input ends.
CROWD = """
import socket, sys
held = []
for _ in range(200):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].settimeout(1)
    try:
        held[-1].connect("/run/anubis/anubis.sock")
    except OSError:  # the queue is full
        break
print("ready", flush=True)
sys.stdin.read()
"""
NOBODY = "65534"
FULL = "No space left on device"


@pytest.fixture(autouse=True)
def _nothing_left_behind(lab: Lab) -> Iterator[None]:
    """Demand that all hosts are in the end what they were with nothing up."""
    end_all(lab)
    before = states(lab)
    yield
    end_all(lab)
    assert left_over(lab, before, seconds=9.0) == []


@contextmanager
def filled(lab: Lab, host: str) -> Iterator[None]:
    """Leave not a byte free in a host's /run."""
    script = "mount -o remount,size=$(($(df --output=used -k /run | tail -1) + 64))k /run"
    with transaction(
        lab,
        host,
        f"{script}; dd if=/dev/zero of=/run/filler bs=1k 2>/dev/null || true",
        "rm /run/filler; mount -o remount,size=50% /run",
    ):
        yield


@contextmanager
def read_only(lab: Lab, host: str) -> Iterator[None]:
    """Let nothing be written in a host's /run."""
    with transaction(lab, host, "mount -o remount,ro /run", "mount -o remount,rw /run"):
        yield


TROUBLES = {"full": (filled, FULL), "read-only": (read_only, "Read-only file system")}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_up_that_cannot_be_written_down_is_not_begun(lab: Lab, trouble: str) -> None:
    """With /run full or read-only `up` changes nothing, here or there, and says what to do."""
    make, why = TROUBLES[trouble]
    before, heard = states(lab), lab.daemon("jacinth").log
    with make(lab, "xena"):
        run = anubis(lab, "xena", "up", "jacinth", status=4)
        error, hint = run.stderr.splitlines()
        assert error.startswith(f"anubis: error: {why}: /run/anubis/state.json")
        assert hint.startswith("anubis: hint: make ")
        assert states(lab) == before
        assert lab.daemon("jacinth").log == heard
        anubis(lab, "xena", "status")
    anubis(lab, "xena", "up", "jacinth")


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_is_up_lives_and_can_be_taken_down(lab: Lab, trouble: str) -> None:
    """With /run full or read-only no packet is lost, and `down` leaves nothing at either end."""
    before = states(lab)
    anubis(lab, "xena", "up", "jacinth")
    make, why = TROUBLES[trouble]
    known = len(lab.daemon("xena").log)
    with make(lab, "xena"):
        with Ping(lab, "xena", LEAF[4]) as ping:
            anubis(lab, "xena", "up", "jacinth")  # once more: it is granted anew
            assert ping.outages() == []
        anubis(lab, "xena", "down", "jacinth")
        assert left_over(lab, before, seconds=9.0) == []
        log = lab.daemon("xena").log[known:]
        assert len(re.findall(f"state_not_saved reason=.{why}", log)) == 1
    wait_until(
        lambda: "state_saved" in lab.daemon("xena").log[known:], 15, "it is written after all"
    )


def test_a_responder_that_cannot_write_it_down_refuses(lab: Lab) -> None:
    """Who asks is told, in time; what is up stays up and its lease is granted anew."""
    before = states(lab)
    with filled(lab, "jacinth"):
        run = anubis(lab, "xena", "up", "jacinth", status=1)
        assert run.stderr.splitlines()[0].startswith("anubis: error: jacinth refused (failed): ")
        assert f"{FULL}: /run/anubis/state.json" in lab.daemon("jacinth").log
        assert left_over(lab, before, seconds=9.0) == []
    anubis(lab, "xena", "up", "jacinth")
    with filled(lab, "jacinth"):
        anubis(lab, "xena", "up", "jacinth")
        anubis(lab, "xena", "down", "jacinth")
        assert left_over(lab, before, seconds=9.0) == []


def test_a_full_state_directory_stops_nothing(lab: Lab) -> None:
    """With /var/lib/anubis full, connections are granted all the same; the log says it once."""
    daemon = lab.daemon("jacinth")
    full = "mount -t tmpfs -o size=4k,mode=777 none /var/lib/anubis;"
    full += "dd if=/dev/zero of=/var/lib/anubis/filler bs=1k 2>/dev/null || true"
    known = len(daemon.log)
    with transaction(lab, "jacinth", full, "umount /var/lib/anubis"):
        for verb in ("up", "down", "up"):
            anubis(lab, "xena", verb, "jacinth")
        assert daemon.log[known:].count("watermarks_not_saved") == 1
    anubis(lab, "xena", "down", "jacinth")
    assert "watermarks_saved" in daemon.log[known:]


_STREAMS = 3  # descriptors: those that every program has


@contextmanager
def descriptors(lab: Lab, host: str, more: int | None) -> Iterator[None]:
    """Let a host's daemon have so many descriptors besides those that it has; None: not one.

    The limit is on their numbers, and a low one may be free for another.
    """
    process = lab.daemon(host).process
    assert process is not None
    used = len(list(Path(f"/proc/{process}/fd").iterdir()))
    # As the daemon's own user: root needs a capability for that, which a container's has not.
    status = Path(f"/proc/{process}/status").read_text()
    (user,) = re.findall(r"^Uid:\t(\d+)", status, re.M)
    own = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--")
    limit = (*own, "prlimit", f"--pid={process}")
    asked = (*limit, "--nofile", "--raw", "--noheadings", "--output=SOFT")
    before = subprocess.run(asked, check=True, text=True, capture_output=True).stdout.strip()
    allowed = _STREAMS if more is None else used + more
    subprocess.run((*limit, f"--nofile={allowed}:"), check=True)
    try:
        yield
    finally:
        subprocess.run((*limit, f"--nofile={before}:"), check=True)


@contextmanager
def crowd(lab: Lab, host: str) -> Iterator[None]:
    """Have a user hold as many connections to the daemon as it gets."""
    command = (*("setpriv", f"--reuid={NOBODY}", "--clear-groups", "--"), "/usr/bin/python3")
    with lab.popen(host, *command, "-c", CROWD, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.communicate("")


def processor_seconds(process: int) -> float:
    """Return how long a process has computed."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_callers_cannot_take_the_last_descriptors(lab: Lab) -> None:
    """A user who holds connections open keeps the daemon from nothing: up, renewal, down."""
    with ExitStack() as troubles:
        for host in ("xena", "jacinth"):
            troubles.enter_context(descriptors(lab, host, 40))
            troubles.enter_context(crowd(lab, host))
        for verb in ("up", "up", "down"):
            anubis(lab, "xena", verb, "jacinth")


def test_without_descriptors_the_daemon_waits(lab: Lab) -> None:
    """It neither dies nor spins, tunnels go on, and all is well when there are some again."""
    anubis(lab, "xena", "up", "jacinth")
    daemon = lab.daemon("xena")
    process, known = daemon.process, len(daemon.log)
    assert process is not None
    with Ping(lab, "xena", LEAF[4]) as ping:
        with descriptors(lab, "xena", None):
            with pytest.raises(LocalFailure):
                client(lab, "xena").status()
            began, used = time.monotonic(), processor_seconds(process)
            with pytest.raises(LocalFailure):
                client(lab, "xena").status()
            assert processor_seconds(process) - used < 0.03 * (time.monotonic() - began)
        wait_until(lambda: daemon.ready, 5, "it answers again")
        assert ping.outages() == []
    said = daemon.log[known:]
    assert said.count("Too many open files") <= 4
    assert "vanished" not in said
    assert said.count("short_of_resources") == 1
    assert "Traceback" not in said
    assert daemon.process == process
    anubis(lab, "xena", "down", "jacinth")


@contextmanager
def name_server(lab: Lab, delay: float) -> Iterator[None]:
    """Let xena know jacinth by a name, which a name server answers after some seconds."""
    resolver = lab.path("xena", "/etc/resolv.conf")
    before = resolver.read_text()
    endpoint = Edit("xena", AUTHORIZED_PEERS, "Endpoint = 203.0.113.1:", f"Endpoint = {NAME}:")
    program = (sys.executable, "-c", NAME_SERVER, "10.9.8.1", str(delay))
    with configured(lab, endpoint), lab.popen("hotel", *program) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        resolver.write_text("nameserver 10.9.8.1\n")
        try:
            yield
        finally:
            resolver.write_text(before)
            server.terminate()
            server.communicate()


def test_a_dead_name_server_holds_up_nobody_else(lab: Lab) -> None:
    """Who needs the name is told within the time given; others are served at once meanwhile."""
    with name_server(lab, NEVER), ThreadPoolExecutor(1) as pool:
        late = pool.submit(anubis, lab, "xena", "up", "jacinth", "--timeout", "4s", status=4)
        state = lab.path("xena", "/run/anubis/state.json")
        wait_until(
            lambda: "jacinth" in json.loads(state.read_text())["unfinished"], 10, "it has begun"
        )
        served = 0
        while not late.done():
            client(lab, "xena").status()
            client(lab, "xena").up("surya")
            client(lab, "xena").down("surya")
            served += not late.done()
        assert served
        assert late.result().stderr.splitlines() == [
            f"anubis: error: the name {NAME} was not resolved within 4 s",
            "anubis: hint: check the name servers of this host, or use an address in Endpoint",
        ]


def test_a_slow_name_server_makes_it_late(lab: Lab) -> None:
    """A name that is resolved after two seconds serves."""
    with name_server(lab, 2.0):
        began = time.monotonic()
        anubis(lab, "xena", "up", "jacinth")
        assert time.monotonic() - began >= 2
