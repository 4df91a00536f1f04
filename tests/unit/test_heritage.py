"""A start takes over what still holds, and nothing that the administrator took back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from anubis.daemon.heritage import inherit
from anubis.daemon.state import SavedState
from anubis.errors import Location
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers
from anubis.gatekeeper import Connection, Role
from anubis.wireguard.keys import PublicKey
from anubis.wishes import Wish

NOW = 1000.0


def entry(number: int, name: str) -> AuthorizedPeer:
    """Return an entry with keys of its own."""
    return AuthorizedPeer(
        name=name,
        public_key=PublicKey(bytes([number, *bytes(31)])),
        control_public_key=PublicKey(bytes([number, 1, *bytes(30)])),
        allowed_ips=frozenset({ip_network(f"10.0.0.{number}/32")}),
        location=Location(Path("authorized_peers"), number),
    )


JACINTH, XENA = entry(1, "jacinth"), entry(2, "xena")
OURS = Connection("jacinth", Role.INITIATOR, 1.0, 3600, NOW + 60, NOW + 30)
THEIRS = Connection("xena", Role.RESPONDER, 1.0, 3600, NOW + 60, float("inf"))
SAVED = SavedState(
    connections=(OURS, THEIRS),
    peers={peer.name: peer.public_key for peer in (JACINTH, XENA)},
    controls={peer.name: peer.control_public_key for peer in (JACINTH, XENA)},
)


def test_what_was_up_is_taken_over() -> None:
    """As it was."""
    found = inherit(SAVED, AuthorizedPeers([JACINTH, XENA]), NOW)
    assert found.connections == (OURS, THEIRS)
    assert (found.unfinished, found.departed) == ({}, ())


def test_a_lease_that_ended_meanwhile_is_not() -> None:
    """But for what is pinned, which has no end."""
    saved = replace(SAVED, wishes=(Wish("jacinth"),))
    found = inherit(saved, AuthorizedPeers([JACINTH, XENA]), NOW + 61)
    assert found.connections == (OURS,)


@pytest.mark.parametrize(
    "now",
    [
        [JACINTH],
        [JACINTH, replace(XENA, public_key=PublicKey(bytes([9] * 32)))],
        [JACINTH, replace(XENA, control_public_key=PublicKey(bytes([9] * 32)))],
    ],
)
def test_who_is_not_authorized_any_more_has_departed(now: list[AuthorizedPeer]) -> None:
    """With the keys that it had, by which it can be told; its pin goes, too."""
    saved = replace(SAVED, wishes=(Wish("xena"),), unfinished={"xena": NOW + 9})
    found = inherit(saved, AuthorizedPeers(now), NOW)
    assert found.connections == (OURS,)
    (departed,) = found.departed
    assert (departed.name, departed.public_key) == ("xena", XENA.public_key)
    assert departed.control_public_key == XENA.control_public_key
    assert (found.wishes, found.unfinished) == ((), {})


def test_who_may_not_ask_any_more_is_told_that_it_is_down() -> None:
    """What it had asked for is settled like what a crash left; what we asked for stays."""
    peers = [replace(peer, may=frozenset({"down"})) for peer in (JACINTH, XENA)]
    found = inherit(SAVED, AuthorizedPeers(peers), NOW)
    assert found.connections == (OURS,)
    assert found.unfinished == {"xena": THEIRS.expires}


def test_what_was_half_done_is_not_taken_over() -> None:
    """Its far end is told `gone`, so this side must not have it."""
    saved = replace(SAVED, unfinished={"jacinth": NOW + 9})
    found = inherit(saved, AuthorizedPeers([JACINTH, XENA]), NOW)
    assert found.connections == (THEIRS,)
    assert found.unfinished == {"jacinth": NOW + 9}


def test_a_state_of_before_control_keys_were_saved() -> None:
    """An upgrade cuts nobody off, and nobody can be told."""
    saved = replace(SAVED, controls={})
    assert inherit(saved, AuthorizedPeers([JACINTH, XENA]), NOW).connections == (OURS, THEIRS)
    assert inherit(saved, AuthorizedPeers([JACINTH]), NOW).departed == ()
