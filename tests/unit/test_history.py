"""What is remembered of each connection is bounded, and nobody can push out what another did."""

from __future__ import annotations

import json

import pytest

from anubis.happening import Happening, details
from anubis.history import Bounds, History

COUNTED = {"refused", "renewed"}


def one(event: str, at: float, connection: str | None = "xena", **detail: str) -> Happening:
    """Return something that happened once."""
    return Happening(event, at, at, connection, dict(detail))


def told(history: History, connection: str | None = "xena") -> list[tuple[str, float, int]]:
    """Return what is remembered: the event, when last, and how often."""
    return [(each.event, each.at, each.count) for each in history.of(connection)]


def test_each_connection_has_its_own_past_in_order() -> None:
    """And the host has one, too."""
    history = History()
    for entry in (one("up", 1), one("up", 2, "selen"), one("ready", 0, None), one("down", 3)):
        history.note(entry)
    assert told(history) == [("up", 1, 1), ("down", 3, 1)]
    assert told(history, "selen") == [("up", 2, 1)]
    assert told(history, None) == [("ready", 0, 1)]
    assert told(history, "nobody") == []
    assert len(history) == len(list(history)) == 4


def test_the_same_again_is_counted() -> None:
    """It moves to the end, and tells since when; what differs in anything is another entry."""
    history = History(COUNTED)
    history.note(one("refused", 1, reason="busy"))
    history.note(one("refused", 2, reason="stale"))
    last = history.note(Happening("refused", 3, 3, "xena", {"reason": "busy"}, 10))
    assert (last.count, last.first_at, last.at) == (11, 1, 3)
    assert told(history) == [("refused", 2, 1), ("refused", 3, 11)]
    assert history.note(one("refused", 4, "selen", reason="busy")).count == 1


def test_what_came_in_between_parts_what_is_counted() -> None:
    """Renewals of one connection are not those of the next; ups and downs are never counted."""
    history = History(COUNTED)
    for at, event in enumerate(("up", "renewed", "renewed", "down", "up", "renewed", "up", "up")):
        history.note(one(event, at))
    assert [(event, count) for event, _, count in told(history)] == [
        *(("up", 1), ("renewed", 2), ("down", 1), ("up", 1), ("renewed", 1), ("up", 1), ("up", 1))
    ]


def test_a_flood_pushes_out_nothing_of_others_and_little_of_its_own() -> None:
    """Of one connection there is a bound, and what there is most of goes first."""
    history = History(COUNTED, Bounds(entries_of_one=8))
    history.note(one("up", 0))
    history.note(one("up", 0, "selen"))
    for at in range(1, 1000):
        history.note(one("refused", at, reason=str(at)))
    assert told(history, "selen") == [("up", 0, 1)]
    assert told(history)[0] == ("up", 0, 1)
    assert [at for _, at, _ in told(history)[1:]] == list(range(993, 1000))


def test_the_bytes_of_one_connection_are_bounded() -> None:
    """Long texts take the place of more entries, not more room."""
    history = History(bounds=Bounds(bytes_of_one=1000))
    for at in range(100):
        history.note(one("down", at, reason="x" * 150))
    size = sum(len(json.dumps(each.to_json())) for each in history)
    assert history.bytes == size <= 1000
    assert told(history)[-1][1] == 99
    history.note(one("down", 100, reason="x" * 2000))  # more than there is room for at all
    assert history.of("xena") == []
    assert (len(history), history.bytes) == (0, 0)
    assert history.note(one("up", 101)) == history.of("xena")[0]


@pytest.mark.parametrize("bounds", [Bounds(entries=20), Bounds(entries=50, bytes=2000)])
def test_all_together_are_bounded(bounds: Bounds) -> None:
    """Who was quiet longest loses its oldest first; the host's own past stays.

    One that is busy all the while has its share, and no more.
    """
    history = History(bounds=bounds)
    history.note(one("ready", 0, None))
    for at in range(1, 1000):
        history.note(one("up", at, f"peer{at}"))
        history.note(one("up", at, "busy"))
        assert len(history) <= bounds.entries
        assert history.bytes <= bounds.bytes
    assert told(history, None) == [("ready", 0, 1)]
    assert told(history, "peer999") == [("up", 999, 1)]
    assert told(history, "peer1") == []
    assert len(told(history, "busy")) == 8
    assert len(history._rings) <= 20


def test_the_host_alone_is_bounded() -> None:
    """Also where it is the only one."""
    history = History(bounds=Bounds(entries=5))
    for at in range(10):
        history.note(one("vanished", at, None))
    assert [at for _, at, _ in told(history, None)] == [5, 6, 7, 8, 9]


def test_what_was_written_is_taken_up() -> None:
    """A later state of an entry supersedes the earlier one, and counting goes on."""
    history = History(COUNTED)
    states = [history.note(one("up", 1)), *(history.note(one("renewed", at)) for at in (2, 3, 4))]
    later = History(COUNTED)
    later.take_up([states[0], states[1], states[3], one("down", 0, "selen")])
    assert told(later) == [("up", 1, 1), ("renewed", 4, 3)]
    assert later.note(one("renewed", 5)).count == 4
    assert told(later, "selen") == [("down", 0, 1)]


class TestJson:
    def test_there_and_back(self) -> None:
        """What is written is what is read."""
        happening = Happening("up", 1.5, 2.25, "xena", {"lease": 60, "role": "initiator"}, 3)
        assert Happening.from_json(json.loads(json.dumps(happening.to_json()))) == happening

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("event", ""), ("event", None), ("connection", 5), ("count", 0), ("count", True)),
            *(
                ("count", 10**4000),
                ("count", "1"),
                ("detail", []),
                ("at", "soon"),
                ("at", float("nan")),
            ),
            *(("at", 10**400), ("first_at", None), ("at", True)),
        ],
    )
    def test_what_is_none_is_refused(self, key: str, value: object) -> None:
        """With the key that is at fault."""
        data = {**one("up", 1).to_json(), key: value}
        with pytest.raises(ValueError, match=key):
            Happening.from_json(data)

    def test_details_are_short_and_few(self) -> None:
        """Whatever is handed over; None is left out, numbers stay numbers."""
        found = details({"a": None, "b": 5, "c": 1.23456, "d": "x" * 500, "e": float("inf")})
        assert found == {"b": 5, "c": 1.235, "d": "x" * 199 + "…", "e": "inf"}
        assert details({"a": -(10**300)})["a"] == "-1" + "0" * 197 + "…"
        assert len(details({str(number): number for number in range(100)})) == 12
