"""Hosts suspend and resume: a real bus in each, with a logind on it, and the far end's own `wg`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from anubis.daemon.silence import QUIET_SECONDS
from anubis.events import ConnectionStatus
from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.moving import MOVED, move, named
from tests.lab.steps import (
    ANUBIS_CONF,
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    anubis,
    blocked,
    client,
    configured,
    left_over,
    page,
    stanza_key,
    transaction,
)
from tests.logind import BUS_CONFIG, Suspender, suspender

BUS = "/run/dbus/system_bus_socket"
HELD_SECONDS = 2.0  # at most, is a suspend held up
SCHEDULING = 0.5  # seconds that a busy machine may add to what has a deadline
BACK_SECONDS = 5.0  # until a connection is back; it takes a few round trips


@pytest.fixture(autouse=True)
def _leaves_nothing(everything_as_before: None) -> None:
    """See after each test, and after its own fixtures, that nothing is left of it."""


class Bed:
    """Where one host sleeps: its bus and its logind."""

    def __init__(self, lab: Lab, host: str, logind: Suspender, end_bus: Callable[[], None]) -> None:
        self._lab = lab
        self._host = host
        self._logind = logind
        self.end_bus = end_bus

    def await_lock(self, number: int = 1) -> None:
        """Wait until the daemon holds a lock, its first or a later one."""
        service = self._logind.service
        wait_until(lambda: service.has_given(number), 20, f"{self._host} has lock {number}")

    def suspend(self) -> float:
        """Announce a suspend; return how many seconds the daemon held it up."""
        began = time.monotonic()
        self._logind.announce(suspending=True)
        wait_until(self._logind.service.is_released, 10, f"{self._host} may sleep")
        return time.monotonic() - began

    def resume(self) -> None:
        """Announce the end of a suspend."""
        self._logind.announce(suspending=False)


@contextmanager
def bed(lab: Lab, host: str) -> Iterator[Bed]:
    """Run a bus and a logind in a host, and its daemon anew, which finds them."""
    directory = lab.path(host, BUS).parent
    directory.mkdir(exist_ok=True)
    (directory / "bus.conf").write_text(BUS_CONFIG.format(path=BUS))
    command = ("dbus-daemon", "--config-file=/run/dbus/bus.conf", "--nofork")
    with ExitStack() as stack:
        bus = lab.popen(host, *command)
        stack.callback(bus.communicate)
        stack.callback(bus.terminate)
        wait_until(lab.path(host, BUS).is_socket, 10, "there is a bus")
        logind = stack.enter_context(suspender(f"unix:path={lab.path(host, BUS)}"))
        lab.daemon(host).stop()
        lab.daemon(host).start()
        found = Bed(lab, host, logind, bus.terminate)
        found.await_lock()
        yield found
    lab.path(host, BUS).unlink(missing_ok=True)


def seen(lab: Lab, host: str = "xena", peer: str = "jacinth") -> ConnectionStatus:
    """Return what a host's daemon says of a connection."""
    (found,) = client(lab, host).status(peer)
    return found


def has_peer(lab: Lab, host: str = "jacinth", peer: str = "xena") -> bool:
    """Return whether a host's WireGuard has another as its production peer."""
    key = stanza_key(lab, host, peer)
    return key in lab.run(host, "wg", "show", "wg0", "allowed-ips").stdout


def is_back(lab: Lab) -> bool:
    """Return whether the house is reached from the hotel."""
    return has_peer(lab) and page(lab, "xena", LEAF[4]).startswith("leaf, in the house")


def leads_into_the_tunnel(lab: Lab) -> bool:
    """Return whether what xena sends to the house goes to production."""
    return " dev wg0 " in lab.run("xena", "ip", "route", "get", LEAF[4]).stdout


def test_the_far_end_is_told_before_and_asked_again_after(lab: Lab) -> None:
    """When the host may sleep, the peer is gone at the responder; upon the resume it is back.

    Meanwhile nothing leaves by another way. So twice, and the lease is that of before.
    """
    with bed(lab, "xena") as xena:
        anubis(lab, "xena", "up", "jacinth", "--lease", "1h")
        for number in (1, 2):
            held = xena.suspend()
            assert not has_peer(lab)
            assert held < HELD_SECONDS + SCHEDULING
            assert seen(lab, "jacinth", "xena").ended == "suspend"
            assert leads_into_the_tunnel(lab)
            asleep = seen(lab)
            assert (asleep.state, asleep.pinned) == ("up", False)
            assert asleep.retry_seconds is not None
            xena.resume()
            began = time.monotonic()
            wait_until(partial(is_back, lab), BACK_SECONDS, "the house is back")
            back = time.monotonic() - began
            print(f"held up for {held:.3f} s, back after {back:.3f} s")  # noqa: T201
            wait_until(lambda: seen(lab).retry_seconds is None, 5, "xena knows")
            left = seen(lab).lease_seconds_left
            assert left is not None
            assert 3590 <= left <= 3600
            xena.await_lock(number + 1)
    assert 'lost connection=jacinth reason="the host suspends"' in lab.daemon("xena").log
    assert "down connection=xena asked=gone reason=suspend" in lab.daemon("jacinth").log


def test_a_far_end_that_is_dead_holds_no_suspend_up_for_long(lab: Lab) -> None:
    """Two seconds, not more; and when it is in reach again, it is found at once."""
    with bed(lab, "xena") as xena:
        anubis(lab, "xena", "up", "jacinth")
        with blocked(lab, "meta l4proto udp"):
            held = xena.suspend()
            assert HELD_SECONDS - SCHEDULING < held < HELD_SECONDS + SCHEDULING
            assert has_peer(lab)
        xena.resume()
        wait_until(partial(is_back, lab), BACK_SECONDS, "the house is back")
        wait_until(lambda: seen(lab).retry_seconds is None, 10, "xena knows")


def test_a_far_end_that_moved_meanwhile_is_found_by_its_name(lab: Lab) -> None:
    """Its name is looked up anew upon the resume, for both interfaces."""
    there = move("internet", "203.0.113.1", MOVED, "203.0.113.254")
    back = move("internet", MOVED, "203.0.113.1", "203.0.113.254")
    by_name = Edit("xena", AUTHORIZED_PEERS, "= 203.0.113.1:", "= house:")
    with (
        named(lab, "203.0.113.1") as rename,
        configured(lab, by_name),
        bed(lab, "xena") as xena,
    ):
        anubis(lab, "xena", "up", "jacinth")
        xena.suspend()
        with transaction(lab, "jacinth", there, back):
            rename(MOVED)
            xena.resume()
            wait_until(partial(is_back, lab), BACK_SECONDS, "the house is found")
            shown = lab.run("xena", "wg", "show", "all", "endpoints").stdout
            assert f"{MOVED}:4296" in shown
            assert f"{MOVED}:4297" in shown
            anubis(lab, "xena", "down", "jacinth")


def test_what_is_down_or_has_ended_stays_down(lab: Lab, before: dict[str, str]) -> None:
    """A resume brings up neither what a person took down, nor what outlived its lease asleep."""
    short = Edit("jacinth", ANUBIS_CONF, "", "MaxLease = 3s\n")
    with configured(lab, short), bed(lab, "xena") as xena:
        anubis(lab, "xena", "up", "surya")
        anubis(lab, "xena", "down", "surya")
        anubis(lab, "xena", "up", "jacinth")
        xena.suspend()
        wait_until(lambda: seen(lab).state == "down", 10, "the lease has ended")
        xena.resume()
        xena.await_lock(2)
        assert left_over(lab, before, "xena", "jacinth") == []
        assert (seen(lab).ended, seen(lab).retry_seconds) == ("expired", None)
        assert seen(lab, "xena", "surya").retry_seconds is None


def test_a_daemon_that_is_killed_in_a_suspend_knows_what_to_ask_for(lab: Lab) -> None:
    """The next one brings back what was up, without a word of logind."""
    with bed(lab, "xena") as xena:
        anubis(lab, "xena", "up", "jacinth")
        xena.suspend()
        lab.daemon("xena").kill()
        assert not has_peer(lab)
        lab.daemon("xena").start()
        wait_until(partial(is_back, lab), BACK_SECONDS, "the house is back")
        wait_until(lambda: seen(lab).retry_seconds is None, 10, "xena knows")
        assert not seen(lab).pinned


def test_a_bus_that_dies_in_a_suspend_keeps_nothing_down(lab: Lab) -> None:
    """Nobody will say that the host is awake, so it is held to be."""
    with bed(lab, "xena") as xena:
        anubis(lab, "xena", "up", "jacinth")
        xena.suspend()
        assert not has_peer(lab)
        xena.end_bus()
        wait_until(partial(is_back, lab), BACK_SECONDS, "the house is back")


def test_a_responder_that_suspends_tells_who_asked_for_the_connection(
    lab: Lab, before: dict[str, str]
) -> None:
    """What is pinned over there is asked for again; else it is down.

    Who cannot be told keeps the connection, and so do we: after a short sleep it goes on.
    """
    with bed(lab, "jacinth") as jacinth:
        anubis(lab, "xena", "up", "jacinth")
        jacinth.suspend()
        assert left_over(lab, before, "xena", "jacinth") == []
        assert seen(lab).ended == "suspend"
        jacinth.resume()
        jacinth.await_lock(2)
        anubis(lab, "xena", "up", "jacinth", "--pin")
        jacinth.suspend()
        wait_until(partial(is_back, lab), 10, "the house is back")
        jacinth.resume()
        jacinth.await_lock(3)
        told = lab.daemon("xena").log.count("asked=gone")
        with blocked(lab, "meta l4proto udp"):
            jacinth.suspend()
        assert is_back(lab)
        anubis(lab, "xena", "up", "jacinth")  # by a control tunnel that stands again
        assert lab.daemon("xena").log.count("asked=gone") == told
        anubis(lab, "xena", "down", "jacinth")
        assert left_over(lab, before, seconds=QUIET_SECONDS + 2) == []
