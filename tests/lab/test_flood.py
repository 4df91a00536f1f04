"""Honest requests go on being answered while somebody floods: `benchmarks/flood.py`, but short.

The floods are paced, far above every budget and below what one core of wireguard-go decrypts: what
WireGuard cannot take is not Anubis's to share out.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anubis.lab.lab import Lab
from benchmarks.flood import FLOODS, measure, phone_tunnel
from tests.lab.hostile import LogMark, anubis, has_peer, public_key

SECONDS = 3.0
RATE = 2000.0  # datagrams a second: ten times what a peer may send, fifty times what it may ask


@pytest.fixture(scope="module")
def phone(lab: Lab) -> Iterator[None]:
    """Have selen's tunnel up."""
    with phone_tunnel(lab):
        yield


@pytest.mark.usefixtures("phone")
@pytest.mark.parametrize("flood", FLOODS)
def test_honest_requests_are_answered_during_a_flood(lab: Lab, flood: str) -> None:
    """All of 30 a second are granted, nothing of xena's is touched, memory does not grow."""
    mark = LogMark(lab, "jacinth")
    measured = measure(lab, flood, SECONDS, RATE)
    assert measured.honest.results == {"done": measured.honest.asked}, measured
    assert measured.flood_per_second > 0.5 * RATE, measured
    assert measured.daemon_growth_kib < 4096, measured
    assert has_peer(lab, "jacinth", public_key(lab, "xena"))
    assert anubis(lab, "jacinth", "status").status == 0
    if flood != "outside":
        shown = mark.matching("dropped", "reason=over_budget")
        assert 1 <= len(shown) <= 15, "a line a second, however many there were"
