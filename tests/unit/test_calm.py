"""Files are read when they are at rest, and never later than promised."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anubis.daemon.calm import LATEST, SETTLE, Calm

NEVER = float("inf")
FILE = (1, "authorized_peers")


def test_nothing_is_read_for_nothing() -> None:
    """Without a change there is no moment to wait for."""
    assert Calm().due() == NEVER


def test_each_change_begins_the_wait_anew() -> None:
    """What is changed in several steps is read once, a moment after the last."""
    calm = Calm()
    for now in (10.0, 10.1, 10.2):
        calm.changed(now)
    assert calm.due() == 10.2 + SETTLE


def test_a_file_that_is_open_is_waited_for() -> None:
    """Whoever writes slowly is not taken for one who made a mistake."""
    calm = Calm()
    calm.being_written(FILE, 10.0)
    assert calm.due() == 10.0 + LATEST
    calm.written(FILE, 13.0)
    assert calm.due() == 13.0 + SETTLE


def test_a_file_that_stays_open_is_read_all_the_same() -> None:
    """Nobody keeps a change from being taken up; when it is closed at last, it is read again."""
    calm = Calm()
    calm.being_written(FILE, 10.0)
    calm.read()
    assert calm.due() == NEVER
    calm.written(FILE, 100.0)
    assert calm.due() == 100.0 + SETTLE


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2)), min_size=1))
def test_no_change_waits_longer_than_promised(steps: list[tuple[float, int]]) -> None:
    """Whatever happens in whatever order: read at the latest so long after the first change."""
    calm, now = Calm(), 0.0
    for pause, what in steps:
        now += pause
        if what == 0:
            calm.changed(now)
        elif what == 1:
            calm.being_written(FILE, now)
        else:
            calm.written(FILE, now)
        assert calm.due() <= steps[0][0] + LATEST
