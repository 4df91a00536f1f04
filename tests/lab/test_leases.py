"""Connections end and are renewed as promised: leases, pins and goodbyes, with real tunnels."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from anubis.errors import LocalFailure
from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
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
    seen,
    stanza_key,
)

SHORT = "MaxLease = 2s\n"


@pytest.fixture(autouse=True)
def _leaves_nothing(everything_as_before: None) -> None:
    """See after each test, and after its own fixtures, that nothing is left of it."""


def reaches_the_house(lab: Lab) -> bool:
    """Whether the page in the house is there."""
    return page(lab, "xena", LEAF[4]).startswith("leaf, in the house")


def test_a_pinned_connection_comes_back_when_the_far_end_does(
    lab: Lab, before: dict[str, str]
) -> None:
    """After a `gone` it is asked for again until it is up; `down` ends that for good."""
    anubis(lab, "xena", "up", "jacinth", "--pin")
    lab.daemon("jacinth").stop()
    wait_until(lambda: seen(lab).state == "down", 5, "the goodbye is heard")
    lost = seen(lab)
    assert lost.pinned
    assert lost.retry_seconds is not None
    assert lost.retry_seconds <= 2.5
    lab.daemon("jacinth").start()
    wait_until(lambda: seen(lab).state == "up", 20, "it is up again")
    assert reaches_the_house(lab)
    assert (seen(lab).pinned, seen(lab).retry_seconds) == (True, None)
    lab.daemon("jacinth").stop()
    wait_until(lambda: seen(lab).state == "down", 5, "the goodbye is heard")
    assert anubis(lab, "xena", "down", "jacinth").stdout.startswith("jacinth is down (")
    assert not seen(lab).pinned
    assert left_over(lab, before, "xena") == []


def test_a_pinned_connection_outlives_its_lease_and_a_crash(lab: Lab) -> None:
    """Out of reach for longer than the lease, it stays here, and is made anew when it can be.

    Its routes stay, so that nothing that was meant for the tunnel leaves by another way.
    """
    with configured(lab, Edit("jacinth", ANUBIS_CONF, "", SHORT)):
        anubis(lab, "xena", "up", "jacinth", "--pin")
        with blocked(lab, "meta l4proto udp"):
            wait_until(
                lambda: seen(lab, "jacinth", "xena").ended == "expired", 10, "the lease has ended"
            )
            wait_until(lambda: seen(lab).retry_seconds is not None, 10, "the loss is seen")
            lab.daemon("xena").kill()
            lab.daemon("xena").start()
            lost = seen(lab)
            assert (lost.state, lost.pinned, lost.lease_seconds_left) == ("up", True, 0)
            shown = lab.run("xena", "ip", "route", "get", LEAF[4]).stdout
            assert " dev wg0 " in shown
        wait_until(lambda: seen(lab, "jacinth", "xena").state == "up", 30, "it is back")
        wait_until(lambda: seen(lab).retry_seconds is None, 10, "both ends know")
        assert reaches_the_house(lab)
        anubis(lab, "xena", "up", "jacinth")
        assert not seen(lab).pinned


def test_nobody_may_refuse_a_goodbye(lab: Lab, before: dict[str, str]) -> None:
    """The far end is told why and lets go, though its administrator permits no `down`.

    That is so for a daemon that stops, for a responder whose person types `down`, and for an `up`
    that is taken back because no handshake was seen.
    """
    with configured(
        lab,
        Edit("jacinth", AUTHORIZED_PEERS, "Name = xena\n", "Name = xena\nMay = up\n"),
        Edit("xena", AUTHORIZED_PEERS, "Name = jacinth\n", "Name = jacinth\nMay = none\n"),
    ):
        anubis(lab, "xena", "up", "jacinth")
        lab.daemon("xena").stop()
        assert left_over(lab, before, "jacinth") == []
        assert seen(lab, "jacinth", "xena").ended == "shutdown"
        lab.daemon("xena").start()
        anubis(lab, "xena", "up", "jacinth")
        anubis(lab, "jacinth", "down", "xena")
        assert left_over(lab, before, "jacinth", "xena") == []
        assert seen(lab).ended == "down"
        with blocked(lab, "udp dport 4296"):
            anubis(lab, "xena", "up", "jacinth", "--timeout", "1.5s", status=3)
        assert left_over(lab, before, "jacinth", "xena") == []


def test_far_ends_that_are_dead_hold_a_shutdown_up_for_two_seconds_in_all(lab: Lab) -> None:
    """A goodbye, and an undoing that begins with the end, share the time; they do not add up.

    Nor does a caller add to it who does not read what he asked for.
    """
    xena = lab.daemon("xena")

    def stop() -> float:
        began = time.monotonic()
        xena.stop()
        return time.monotonic() - began

    usual = stop()
    xena.start()
    anubis(lab, "xena", "up", "jacinth")
    with blocked(lab, "meta l4proto udp"), ThreadPoolExecutor(1) as pool, deaf_caller(lab, "xena"):
        call = pool.submit(client(lab, "xena").switch, "surya", None, 60.0)
        # A handshake that nobody answers: the switch is on its way.
        wait_until(lambda: tries(lab) > 0, 10, "surya is being asked")
        took = stop()
        assert isinstance(call.exception(10), LocalFailure)
    assert 1.5 < took < usual + 2.9
    assert "not_told connection=jacinth" in xena.log
    assert "not_told connection=surya" in xena.log


@contextmanager
def deaf_caller(lab: Lab, host: str) -> Iterator[None]:
    """Ask a host's daemon until it has more answers on their way than a socket holds."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(client(lab, host).path)
        caller.settimeout(2.0)
        with suppress(TimeoutError):
            while True:
                caller.sendall(b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")
        yield


def tries(lab: Lab) -> int:
    """Return how many bytes xena's control plane has sent to surya."""
    key = stanza_key(lab, "xena", "surya", "ControlPublicKey")
    shown = lab.run("xena", "wg", "show", "anubis0", "transfer").stdout
    return next(int(line.split()[2]) for line in shown.splitlines() if line.startswith(key))
