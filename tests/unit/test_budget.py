"""Nobody gets more than its budget, nobody less because of another, and memory is bounded."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from anubis.daemon.budget import DATAGRAMS, Budget, Rate
from anubis.daemon.courier import Courier

PLENTY = Rate(1e9, 10**9)
MOMENTS = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), min_size=1, max_size=200)


def taken(budget: Budget, source: str, now: float, wanted: int) -> int:
    """Return how many of so many at one moment are allowed."""
    return sum(budget.allows(source, now) for _ in range(wanted))


def test_a_burst_then_the_rate() -> None:
    """After a quiet time the burst passes, then only what has come back since."""
    budget = Budget(Rate(10, 5), PLENTY)
    assert taken(budget, "a", 100.0, 20) == 5
    assert taken(budget, "a", 100.05, 20) == 0
    assert taken(budget, "a", 100.2, 20) == 2
    assert taken(budget, "a", 500.0, 20) == 5


def test_a_flood_takes_nothing_from_others() -> None:
    """What a source is refused costs the others nothing."""
    budget = Budget(Rate(10, 5), Rate(10, 8))
    assert taken(budget, "a", 100.0, 1000) == 5
    assert taken(budget, "b", 100.0, 3) == 3


def test_all_together_have_a_bound() -> None:
    """Many sources get no more than the bound of all; what that refuses nobody has used up."""
    budget = Budget(Rate(10, 5), Rate(10, 8))
    assert sum(taken(budget, source, 100.0, 5) for source in "abcdef") == 8
    assert taken(budget, "f", 101.0, 5) == 5


@given(MOMENTS, st.integers(1, 20), st.integers(1, 10))
def test_no_window_has_more_than_burst_and_rate(
    moments: list[tuple[str, float]], per_second: int, burst: int
) -> None:
    """In any stretch of time a source gets at most its burst and what the rate gives meanwhile."""
    budget = Budget(Rate(per_second, burst), PLENTY)
    now = 0.0
    allowed: dict[str, list[float]] = {}
    for source, pause in moments:
        now += pause / per_second
        if budget.allows(source, now):
            allowed.setdefault(source, []).append(now)
    for times in allowed.values():
        for first, begin in enumerate(times):
            for last in range(first, len(times)):
                most = burst + (times[last] - begin) * per_second
                assert last - first + 1 <= most + 1e-6


def test_the_table_is_bounded_and_the_quietest_is_forgotten() -> None:
    """A source that keeps sending is not forgotten for new ones, so it gains nothing by them."""
    budget = Budget(Rate(1, 3), PLENTY, limit=10)
    for number in range(100):
        budget.allows(f"new {number}", 100.0 + number / 100)
        assert budget.allows("a", 100.0 + number / 100) == (number < 3)
        assert len(budget) <= 10


async def test_a_flood_is_not_even_looked_at() -> None:
    """Of one source only its budget is handed on; another source is heard all the same."""
    courier, heard = Courier(), Counter[str]()
    courier._on_request = lambda _datagram, source, _port: heard.update([str(source)])
    for _ in range(5 * DATAGRAMS.burst):
        courier.datagram_received(bytes(200), ("fd61::1", 4298, 0, 0))
    courier.datagram_received(bytes(200), ("fd61::2", 4298, 0, 0))
    assert DATAGRAMS.burst <= heard["fd61::1"] < 2 * DATAGRAMS.burst
    assert heard["fd61::2"] == 1
