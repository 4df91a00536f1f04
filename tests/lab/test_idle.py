"""A connection that nobody uses is ended by who granted it, and one in use is not."""

from __future__ import annotations

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.steps import (
    ANUBIS_CONF,
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    Ping,
    anubis,
    blocked,
    configured,
    left_over,
    seen,
    stanza_key,
)

TIMEOUT = 4  # seconds
IDLE = Edit("jacinth", ANUBIS_CONF, "", f"IdleTimeout = {TIMEOUT}s\n")
# The initiator's own word does not count, and its keepalives are no use.
DEAF = Edit("xena", ANUBIS_CONF, "", "IdleTimeout = 1s\n")
ALIVE = Edit(
    "xena", AUTHORIZED_PEERS, "Name = jacinth\n", "Name = jacinth\nPersistentKeepalive = 3\n"
)


@pytest.fixture(autouse=True)
def _leaves_nothing(everything_as_before: None) -> None:
    """See after each test, and after its own fixtures, that nothing is left of it."""


def received(lab: Lab) -> int:
    """Return how many bytes jacinth has received from xena on production; 0 without a peer."""
    key = stanza_key(lab, "jacinth", "xena")
    shown = lab.run("jacinth", "wg", "show", "wg0", "transfer").stdout
    return sum(int(line.split()[1]) for line in shown.splitlines() if line.startswith(key))


def test_a_connection_ends_when_it_is_used_no_more(lab: Lab, before: dict[str, str]) -> None:
    """A ping every two seconds keeps it up; with keepalives alone it goes, at both ends."""
    with configured(lab, IDLE, DEAF, ALIVE):
        anubis(lab, "xena", "up", "jacinth")
        with Ping(lab, "xena", LEAF[4], 2.0) as ping:
            wait_until(lambda: len(ping.replies()) > 2 * TIMEOUT, 60, "it is used for long")
            answered = sorted(ping.replies())
            assert answered == list(range(1, len(answered) + 1))
        assert received(lab) > 0
        wait_until(lambda: received(lab) == 0, 4 * TIMEOUT, "jacinth ends it")
        wait_until(lambda: seen(lab).state == "down", 5, "xena has heard it")
        assert (seen(lab).ended, seen(lab, "jacinth", "xena").ended) == ("idle", "idle")
        assert left_over(lab, before, "xena", "jacinth") == []
        assert "down connection=jacinth asked=gone reason=idle" in lab.daemon("xena").log
        assert "down connection=xena reason=idle" in lab.daemon("jacinth").log


def test_an_entry_may_be_idle_for_ever(lab: Lab) -> None:
    """`IdleTimeout = off` in the entry beats that of the host."""
    for_ever = Edit(
        "jacinth", AUTHORIZED_PEERS, "Name = xena\n", "Name = xena\nIdleTimeout = off\n"
    )
    with configured(lab, IDLE, DEAF, ALIVE, for_ever):
        anubis(lab, "xena", "up", "jacinth")
        began = received(lab)
        keepalives = 3 * TIMEOUT // 3 * 32
        wait_until(lambda: received(lab) >= began + keepalives, 60, "it is idle for long")
        assert seen(lab).state == "up"
        anubis(lab, "xena", "down", "jacinth")


def test_what_is_pinned_does_not_flap(lab: Lab) -> None:
    """Told that it was idle, the initiator asks no more until somebody wants it; it says so."""
    with configured(lab, IDLE):
        anubis(lab, "xena", "up", "jacinth", "--pin")
        wait_until(lambda: seen(lab).state == "down", 4 * TIMEOUT, "it was idle")
        told = seen(lab)
        assert (told.pinned, told.retry_seconds, told.ended) == (False, None, "idle")
        assert "unpinned connection=jacinth" in lab.daemon("xena").log
        anubis(lab, "xena", "up", "jacinth", "--pin")
        assert (seen(lab).pinned, seen(lab).ended) == (True, None)


def test_who_could_not_be_told_learns_it_when_it_renews(lab: Lab) -> None:
    """The refusal of a renewal says why, so that a pinned connection is not asked for again."""
    short = Edit("jacinth", ANUBIS_CONF, "", "MaxLease = 30s\n")
    with configured(lab, IDLE, short):
        anubis(lab, "xena", "up", "jacinth", "--pin")
        with blocked(lab, "meta l4proto udp"):
            wait_until(lambda: seen(lab, "jacinth", "xena").ended == "idle", 20, "it was idle")
            jacinth = lab.daemon("jacinth")
            wait_until(lambda: "not_told connection=xena" in jacinth.log, 10, "nobody was told")
            assert seen(lab).pinned
        wait_until(lambda: seen(lab).state == "down", 40, "it is renewed")
        assert (seen(lab).pinned, seen(lab).ended) == (False, "idle")
