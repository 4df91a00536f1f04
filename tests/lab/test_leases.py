"""Connections end and are renewed as promised: leases, pins and goodbyes, with real tunnels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anubis.events import ConnectionStatus
from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.steps import (
    ANUBIS_CONF,
    LEAF,
    Edit,
    anubis,
    blocked,
    client,
    configured,
    end_all,
    left_over,
    page,
    states,
)

SHORT = "MaxLease = 2s\n"


@pytest.fixture(scope="module")
def before(lab: Lab) -> dict[str, str]:
    """Return the state of every host that takes part, while nothing is up."""
    return states(lab)


@pytest.fixture(autouse=True)
def everything_as_before(lab: Lab, before: dict[str, str]) -> Iterator[None]:
    """See after each test that nothing is left of it, at either end."""
    yield
    end_all(lab)
    assert left_over(lab, before) == []


def seen(lab: Lab, host: str = "xena", peer: str = "jacinth") -> ConnectionStatus:
    """Return what a host's daemon says of a connection."""
    (found,) = client(lab, host).status(peer)
    return found


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
                lambda: seen(lab, "jacinth", "xena").state == "down", 10, "the lease has ended"
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
