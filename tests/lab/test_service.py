"""What systemd asks of the daemon, without systemd: readiness, signs of life, stop and restart."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from functools import partial

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.steps import (
    LEAF,
    Ping,
    anubis,
    blocked,
    changes,
    client,
    end_all,
    states,
)

NOTIFY = "/run/notify"
ALLOWED = 1.0  # seconds for a sign of life


@pytest.fixture
def systemd(lab: Lab) -> Iterator[socket.socket]:
    """Run xena's daemon with a socket that hears what systemd would; afterwards without."""
    lab.daemon("xena").stop()
    path = lab.path("xena", NOTIFY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hearing:
        hearing.bind(str(path))
        path.chmod(0o666)
        hearing.settimeout(10)
        wanted = {"NOTIFY_SOCKET": NOTIFY, "WATCHDOG_USEC": str(int(ALLOWED * 1e6))}
        lab.daemon("xena").start(env=wanted)
        yield hearing
    path.unlink()
    lab.daemon("xena").stop()
    lab.daemon("xena").start()


def heard(hearing: socket.socket, seconds: float) -> list[bytes]:
    """Return what comes until nothing has come for so long."""
    found = []
    while select.select([hearing], [], [], seconds)[0]:
        found.append(hearing.recv(4096))
    return found


def test_systemd_learns_how_the_daemon_is(lab: Lab, systemd: socket.socket) -> None:
    """Ready when it answers; alive in less than the time allowed; not while it hangs; stopping."""
    assert systemd.recv(4096).splitlines() == [b"READY=1", b"STATUS=2 peers authorized"]
    for _ in range(3):
        assert select.select([systemd], [], [], ALLOWED)[0]
        assert systemd.recv(4096) == b"WATCHDOG=1"
    process = lab.daemon("xena").process
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    heard(systemd, 0.1)
    assert heard(systemd, 2 * ALLOWED) == []
    os.kill(process, signal.SIGCONT)
    assert systemd.recv(4096) == b"WATCHDOG=1"
    lab.daemon("xena").stop()
    assert heard(systemd, 0)[-1] == b"STOPPING=1"


def test_a_restart_cuts_nothing(lab: Lab) -> None:
    """At either end: no packet is lost, the far end is not told, and the connection goes on."""
    anubis(lab, "xena", "up", "jacinth")
    since = {host: up_since(lab, host) for host in ("xena", "jacinth")}
    said = {host: len(lab.daemon(host).log) for host in since}
    before = states(lab, *since)
    with Ping(lab, "xena", LEAF[4]) as ping:
        for host in since:
            lab.daemon(host).let_go()
            assert lab.daemon(host).process is None
            assert changes(lab, before, host) == []
            lab.daemon(host).start()
        assert ping.outages() == []
    assert {host: up_since(lab, host) for host in since} == since
    for host, begin in said.items():
        log = lab.daemon(host).log[begin:]
        assert "let-go connections=1" in log
        assert " down " not in log
    end_all(lab)


def up_since(lab: Lab, host: str) -> tuple[str, object]:
    """Return which connection of a host is up, and since when."""
    (found,) = (each for each in client(lab, host).status() if each.state == "up")
    return found.name, found.since


def test_a_restart_undoes_what_is_half_done(lab: Lab) -> None:
    """An up that still waits for its answer is rolled back, and whoever asked is told."""
    before = states(lab, "xena")
    with blocked(lab, "ip daddr 203.0.113.1"):
        asking = lab.popen("xena", "anubis", "up", "jacinth", "--timeout", "20s")
        wait_until(partial(changed, lab, before), 10, "the up has begun")
        lab.daemon("xena").let_go()
        _, said = asking.communicate(timeout=10)
    assert asking.returncode != 0
    assert said.startswith("anubis: error: ")
    lab.daemon("xena").start()
    assert changes(lab, before) == []


def changed(lab: Lab, before: dict[str, str]) -> bool:
    """Return whether anything is different from before."""
    return bool(changes(lab, before))
