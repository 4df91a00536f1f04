"""What is pinned and lost is asked for again: soon, then less often, and never by many at once."""

from __future__ import annotations

import pytest

from anubis.wishes import Wishes

NOW = 1000.0
NEVER = float("inf")


def pinned(*names: str) -> Wishes:
    """Return wishes for connections that are up."""
    wishes = Wishes()
    for name in names:
        wishes.want(name, 3600)
    return wishes


def pauses(jitter: float, number: int) -> list[float]:
    """Return how long each of several tries that fail waits."""
    wishes, found = pinned("jacinth"), []
    for _ in range(number):
        wishes.lose("jacinth", NOW, jitter)
        found.append(wishes.next_due() - NOW)
        wishes.take_due(NEVER)
    return found


def test_what_is_up_or_not_wanted_is_not_asked_for() -> None:
    """Only a loss makes a connection due, and only if it is pinned."""
    wishes = pinned("jacinth")
    assert wishes.next_due() == NEVER
    wishes.lose("surya", NOW, 0.5)
    assert wishes.next_due() == NEVER
    assert wishes.retry_seconds("jacinth", NOW) is None
    assert "surya" not in wishes


def test_a_lost_one_is_asked_for_with_growing_pauses() -> None:
    """2 s, doubled up to 60 s."""
    assert pauses(0.5, 8) == [2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(("jitter", "factor"), [(0.0, 0.75), (0.5, 1.0), (0.996, 1.248)])
def test_hosts_are_spread_by_a_quarter(jitter: float, factor: float) -> None:
    """Of a gateway's many initiators not all come back at one moment."""
    assert pauses(jitter, 2) == pytest.approx([2 * factor, 4 * factor])


def test_a_due_one_is_taken_once() -> None:
    """While it is being asked for it is not due again, and its retry is now."""
    wishes = pinned("jacinth", "surya")
    wishes.lose("jacinth", NOW, 0.5)
    assert wishes.take_due(NOW + 1.9) == []
    assert wishes.retry_seconds("jacinth", NOW + 0.5) == 1.5
    assert [wish.name for wish in wishes.take_due(NOW + 2)] == ["jacinth"]
    assert wishes.take_due(NOW + 2) == []
    wish = wishes.get("jacinth")
    assert wish is not None
    assert wish.is_asked_for
    assert wishes.retry_seconds("jacinth", NOW + 2) == 0


def test_a_second_word_of_one_loss_changes_nothing() -> None:
    """An undoing and the failure behind it are one loss."""
    wishes = pinned("jacinth")
    wishes.lose("jacinth", NOW, 0.5)
    wishes.lose("jacinth", NOW + 1, 0.5)
    assert wishes.next_due() == NOW + 2
    wishes.take_due(NEVER)
    wishes.lose("jacinth", NOW, 0.5)
    assert wishes.next_due() == NOW + 4


def test_success_forgets_the_failures_and_a_drop_everything() -> None:
    """After it was up, the next loss begins with the shortest pause; a dropped one is not asked."""
    wishes = pinned("jacinth")
    for _ in range(5):
        wishes.lose("jacinth", NOW, 0.5)
        wishes.take_due(NEVER)
    wishes.want("jacinth", 60)
    wishes.lose("jacinth", NOW, 0.5)
    assert wishes.next_due() == NOW + 2
    wishes.drop("jacinth")
    wishes.drop("jacinth")
    assert (wishes.next_due(), list(wishes)) == (NEVER, [])


def test_hurry_asks_at_once_for_what_waits() -> None:
    """What is up, or being asked for, is left alone."""
    wishes = pinned("jacinth", "surya", "selen")
    for name in ("jacinth", "surya"):
        wishes.lose(name, NOW, 0.5)
    wishes.take_due(NOW + 2)
    wishes.lose("jacinth", NOW + 2, 0.5)
    wishes.hurry(NOW + 3)
    assert [wish.name for wish in wishes.take_due(NOW + 3)] == ["jacinth"]


def test_what_is_not_pinned_is_wanted_until_its_lease_ends() -> None:
    """A suspend makes it a wish; it is asked for as a pinned one is, but not for ever."""
    wishes = Wishes()
    wishes.want("jacinth", 3600, NOW + 100)
    assert not wishes.is_pinned("jacinth")
    wishes.lose("jacinth", NOW, 0.5)
    assert [wish.name for wish in wishes.take_due(NOW + 2)] == ["jacinth"]
    wishes.lose("jacinth", NOW + 98, 0.5)
    assert wishes.take_due(NOW + 102) == []
    assert "jacinth" not in wishes


def test_only_what_is_pinned_survives_its_end() -> None:
    """A goodbye of the far end, say, ends what a suspend has interrupted."""
    wishes = pinned("surya")
    wishes.want("jacinth", 3600, NOW + 100)
    for name in ("jacinth", "surya"):
        wishes.end(name, NOW, 0.5)
    assert [wish.name for wish in wishes] == ["surya"]
    assert wishes.next_due() == NOW + 2


def test_nothing_is_asked_for_while_the_host_sleeps() -> None:
    """Not even if the network changes, as it does when a host goes to sleep; but upon waking."""
    wishes = pinned("jacinth", "surya")
    wishes.lose("jacinth", NOW, 0.5)
    wishes.rest()
    wishes.hurry(NOW)
    assert (wishes.take_due(NOW + 10), wishes.next_due()) == ([], NEVER)
    wishes.wake(NOW + 11)
    assert [wish.name for wish in wishes.take_due(NOW + 11)] == ["jacinth"]
