"""Times as people write them: the end of an entry, and the hours of a week."""

from __future__ import annotations

import os
import time as clock
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.files.ini import BadValue
from anubis.files.times import Hours, Stretch, expiry, format_time, stretch, time

MONDAY = datetime(2026, 11, 23)  # noqa: DTZ001  local time


def hours(text: str) -> Hours:
    """Return the hours that a line of the file gives."""
    return Hours(tuple(stretch(item) for item in text.split(",")))


def at(day: int, text: str) -> datetime:
    """Return a time of that week, Monday being 0."""
    hour, minute = map(int, text.split(":"))
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in Berlin."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    clock.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    clock.tzset()


class TestHours:
    @pytest.mark.parametrize(
        ("text", "day", "moment", "left"),
        [
            ("Mon-Fri 08:00-18:00", 0, "08:00", 10 * 3600),
            ("Mon-Fri 08:00-18:00", 4, "17:59", 60),
            ("Mon-Fri 08:00-18:00", 4, "18:00", 0),
            ("Mon-Fri 08:00-18:00", 0, "07:59", 0),
            ("Mon-Fri 08:00-18:00", 5, "12:00", 0),
            ("Sat 10:00-14:00", 5, "13:00", 3600),
            ("Sat-Mon 10:00-14:00", 0, "13:00", 3600),
            ("Sat-Mon 10:00-14:00", 1, "13:00", 0),
            ("22:00-06:00", 2, "23:00", 7 * 3600),
            ("22:00-06:00", 3, "05:00", 3600),
            ("22:00-06:00", 3, "06:00", 0),
            ("Fri 22:00-06:00", 5, "01:00", 5 * 3600),
            ("Fri 22:00-06:00", 4, "01:00", 0),
            ("Mon 08:00-12:00, Mon 12:00-13:00", 0, "11:00", 2 * 3600),
            ("Mon 08:00-12:00, Mon 11:00-13:00", 0, "09:00", 4 * 3600),
            ("Sat-Sun 00:00-24:00", 5, "00:00", 48 * 3600),
            ("00:00-24:00", 3, "12:34", inf),
            ("mon-fri  08:00-18:00", 0, "08:00", 10 * 3600),
        ],
    )
    def test_how_long_they_last(self, text: str, day: int, moment: str, left: float) -> None:
        """From a moment to the end of what follows without a gap; the begin is in, the end out."""
        assert hours(text).seconds_left(at(day, moment)) == left

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not hours"),
            ("Mon", "not hours"),
            ("8-18", "not hours"),
            ("Monday 08:00-18:00", "not hours"),
            ("Mon-Fri 08:00", "not hours"),
            ("Moo 08:00-18:00", "no day of the week"),
            ("Mon-Foo 08:00-18:00", "no day of the week"),
            ("Mon 08:00-25:00", "no time of the day"),
            ("Mon 08:60-10:00", "no time of the day"),
            ("Mon 08:00-08:00", "hours without length"),
            ("Mon 24:00-08:00", "hours without length"),
        ],
    )
    def test_what_is_none(self, text: str, message: str) -> None:
        """Each is told apart."""
        with pytest.raises(BadValue, match=message):
            stretch(text)

    def test_a_night_in_which_the_clocks_change_is_as_long_as_it_is(self, zone: None) -> None:
        """From 22:00 to 06:00 it is nine hours when summer time ends, and seven when it begins."""
        night = hours("22:00-06:00")
        assert night.seconds_left(datetime(2026, 10, 24, 22)) == 9 * 3600  # noqa: DTZ001
        assert night.seconds_left(datetime(2027, 3, 27, 22)) == 7 * 3600  # noqa: DTZ001

    @pytest.mark.parametrize(
        "text", ["Mon-Fri 08:00-18:00", "22:00-06:00", "Sat-Mon 00:00-24:00, Wed 10:00-11:30"]
    )
    def test_they_are_written_as_they_were_read(self, text: str) -> None:
        """With every day named once."""
        assert str(hours(text)) == text

    @given(
        st.lists(
            st.builds(
                Stretch,
                st.builds(
                    lambda first, count: frozenset((first + i) % 7 for i in range(count)),
                    st.integers(0, 6),
                    st.integers(1, 7),
                ),
                st.integers(0, 1439),
                st.integers(0, 1440),
            ).filter(lambda each: each.begin != each.end),
            min_size=1,
            max_size=3,
        ),
        st.integers(0, 7 * 1440 - 1),
    )
    def test_they_are_the_minutes_that_are_in_them(
        self, stretches: list[Stretch], minute: int
    ) -> None:
        """Against a week of minutes, each marked by hand."""
        week = [False] * (7 * 1440)
        for each in stretches:
            length = (
                (each.end - each.begin) if each.end > each.begin else (each.end + 1440 - each.begin)
            )
            for day in each.days:
                for offset in range(length):
                    week[(day * 1440 + each.begin + offset) % len(week)] = True
        expected: float = 0
        while week[(minute + int(expected)) % len(week)] and expected < len(week):
            expected += 1
        assert hours(str(Hours(tuple(stretches)))) == Hours(tuple(stretches))
        left = Hours(tuple(stretches)).seconds_left(MONDAY + timedelta(minutes=minute))
        assert left == (inf if expected == len(week) else expected * 60)


class TestExpiry:
    def test_a_day_ends_with_its_night(self, zone: None) -> None:
        """Where the host is, in summer and in winter."""
        assert expiry("2027-01-31") == datetime(2027, 1, 31, 23, tzinfo=UTC)
        assert expiry("2027-07-31") == datetime(2027, 7, 31, 22, tzinfo=UTC)

    @pytest.mark.parametrize(
        "text", ["2027-01-31T18:00Z", "2027-01-31T18:00:30Z", "1970-01-01T00:00Z"]
    )
    def test_a_time_is_written_as_it_was_read(self, text: str) -> None:
        """In UTC, to the second if it says so."""
        assert format_time(time(text)) == text
        assert expiry(text) == time(text)

    @pytest.mark.parametrize(
        "text", ["", "tomorrow", "2027-02-30", "9999-12-31", "2027-1-1", "2027-01-31T18:00",
                 "2027-01-31T25:00Z", "20270131"]
    )  # fmt: skip
    def test_what_is_none(self, text: str) -> None:
        """Also days that no calendar has, or no clock."""
        with pytest.raises(BadValue):
            expiry(text)
