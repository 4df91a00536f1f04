"""Connections outlive a move of either end: addresses change under them, and they go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.moving import MOVED, move, named
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    Ping,
    anubis,
    client,
    configured,
    end_all,
    page,
    transaction,
)

INTERFACES = ("anubis0", "wg0")
NEXT_ROOM = "10.9.8.20"  # xena's other address


@pytest.fixture(autouse=True)
def everything_down(lab: Lab) -> Iterator[None]:
    """Leave no connection to the next test."""
    yield
    end_all(lab)


def endpoints(lab: Lab, host: str) -> list[set[str]]:
    """Return where a host's WireGuard sends to, on control and on production."""
    found = []
    for interface in INTERFACES:
        shown = lab.run(host, "wg", "show", interface, "endpoints").stdout
        found.append({line.split("\t")[1] for line in shown.splitlines()} - {"(none)"})
    return found


def test_the_initiator_moves_to_another_address(lab: Lab) -> None:
    """Both interfaces tell the far end at once where they are now, though nothing is sent.

    The NAT gives the new address another port, so the responder sees the move.
    """
    anubis(lab, "xena", "up", "jacinth")
    old = endpoints(lab, "jacinth")
    assert all(len(each) == 1 for each in old)
    there = move("hotel", "10.9.8.10", NEXT_ROOM, "10.9.8.1")
    back = move("hotel", NEXT_ROOM, "10.9.8.10", "10.9.8.1")
    with transaction(lab, "xena", there, back):
        wait_until(
            # The keepalives of the control plane are 25 s apart, production has none.
            lambda: all(
                new != was for new, was in zip(endpoints(lab, "jacinth"), old, strict=True)
            ),
            10,
            "jacinth sends to the new place, on both interfaces",
        )
        assert page(lab, "xena", LEAF[4]).startswith("leaf, in the house")
    assert "network_changed connections=1" in lab.daemon("xena").log
    assert client(lab, "xena").status("jacinth")[0].state == "up"


def test_the_responder_moves_and_is_found_by_its_name(lab: Lab) -> None:
    """When nothing is answered any more, its name is looked up again, for both interfaces.

    The NAT lets nothing through that comes from the new address unasked.
    """
    there = move("internet", "203.0.113.1", MOVED, "203.0.113.254")
    back = move("internet", MOVED, "203.0.113.1", "203.0.113.254")
    by_name = Edit("xena", AUTHORIZED_PEERS, "= 203.0.113.1:", "= house:")
    with named(lab, "203.0.113.1") as rename, configured(lab, by_name):
        anubis(lab, "xena", "up", "jacinth")
        with Ping(lab, "xena", LEAF[4], 0.1) as ping, transaction(lab, "jacinth", there, back):
            rename(MOVED)
            answered = len(ping.replies()) + 20
            wait_until(lambda: len(ping.replies()) > answered, 90, "jacinth is found again")
            control, production = endpoints(lab, "xena")
            assert production == {f"{MOVED}:4296"}
            assert f"{MOVED}:4297" in control
        assert "far_end_moved connection=jacinth" in lab.daemon("xena").log
