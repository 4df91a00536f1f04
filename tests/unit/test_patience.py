"""A thing that is taken away again and again is put back at once, then ever more slowly."""

from __future__ import annotations

from anubis.daemon.patience import FIRST_PAUSE, LAST_PAUSE, QUIET, TRIES, Patience


def quarrel(patience: Patience, thing: str, times: int, now: float) -> float:
    """Put a thing back as soon as it may be, so often; return the pause after the last time."""
    pause = 0.0
    for _ in range(times):
        now = max(now, patience.due(thing))
        assert patience.allows(thing, now)
        pause = patience.put_back(thing, now)
    return pause


def test_the_first_times_are_at_once() -> None:
    """Before the last of them there is no pause."""
    assert quarrel(Patience(), "rule", TRIES - 1, 5.0) == 0.0


def test_then_each_pause_is_twice_the_last_up_to_a_longest() -> None:
    """It is not put back in the pause, and never given up."""
    patience = Patience()
    now = 5.0
    pauses = [quarrel(patience, "rule", TRIES, now)]
    while len(pauses) < 10:
        assert not patience.allows("rule", now + pauses[-1] * 0.99)
        now += pauses[-1]
        pauses.append(quarrel(patience, "rule", 1, now))
    assert pauses == [FIRST_PAUSE * n for n in (1, 2, 4, 8, 16, 32)] + [LAST_PAUSE] * 4


def test_a_quiet_time_ends_the_quarrel() -> None:
    """After it a thing is put back at once again; just before it is not."""
    for quiet, pause in ((QUIET * 0.99, 2 * FIRST_PAUSE), (QUIET * 1.01, 0.0)):
        patience = Patience()
        quarrel(patience, "rule", TRIES, 0.0)
        assert patience.put_back("rule", patience.due("rule") + quiet) == pause


def test_things_have_their_own_quarrels_and_the_memory_is_bounded() -> None:
    """One thing's pause holds up no other; of too many, the oldest are forgotten."""
    patience = Patience()
    quarrel(patience, "rule", TRIES, 0.0)
    assert not patience.allows("rule", 0.5)
    assert patience.allows("route", 0.5)
    for number in range(10_000):
        patience.put_back(str(number), 0.5)
    assert patience.allows("rule", 0.5)
    assert len(patience._quarrels) <= 4096
