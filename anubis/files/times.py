"""Times as people write them: when something ends, and at which hours of the week it holds.

Owns the words, and how long a stretch such as `Mon-Fri 08:00-18:00` still lasts. Days and hours are
local time. Refuses to read a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from math import inf

from anubis.files.ini import BadValue, squeeze

__all__ = ["Hours", "Stretch", "expiry", "format_time", "stretch", "time"]

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES = 24 * 60  # of a day
_FORM = re.compile(
    r"(?:(?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))? +)?"
    r"(?P<begin>\d\d:\d\d) ?- ?(?P<end>\d\d:\d\d)"
)
_LIKE = "like Mon-Fri 08:00-18:00, or 22:00-06:00 for every night"


def time(text: str) -> datetime:
    """Parse a time of UTC, to the minute or the second (RFC 3339). Raises BadValue."""
    text = squeeze(text).upper()
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass  # a 30th of February
    raise BadValue("not a time", "UTC, like 2027-01-31T18:00Z")


def format_time(moment: datetime) -> str:
    """Write a time of UTC, to the minute, or to the second if it has seconds."""
    seconds = ":%S" if moment.second else ""
    return moment.astimezone(UTC).strftime(f"%Y-%m-%dT%H:%M{seconds}Z")


def expiry(text: str) -> datetime:
    """Parse when something ends: a time of UTC, or a day, with which it ends. Raises BadValue."""
    text = squeeze(text).upper()
    if not _DATE.fullmatch(text):
        try:
            return time(text)
        except BadValue:
            raise BadValue("no day", "like 2027-01-31, or 2027-01-31T18:00Z in UTC") from None
    try:
        day = date.fromisoformat(text)
        return datetime.combine(day + timedelta(days=1), time_of_day()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadValue("no day of the calendar", "like 2027-01-31") from None


@dataclass(frozen=True, slots=True)
class Stretch:
    """The same hours on days in a row, 0 being Monday. `begin` and `end` are minutes of the day.

    One that does not end after it begins goes on into the next day.
    """

    days: frozenset[int]
    begin: int
    end: int

    def __str__(self) -> str:
        hours = f"{_clock(self.begin)}-{_clock(self.end)}"
        if len(self.days) == len(_DAYS):
            return hours
        # Days in a row, also over the end of a week.
        first = next(day for day in sorted(self.days) if (day - 1) % 7 not in self.days)
        last = (first + len(self.days) - 1) % 7
        names = (_DAYS[day].capitalize() for day in dict.fromkeys((first, last)))
        return f"{'-'.join(names)} {hours}"

    def until(self, moment: datetime) -> datetime | None:
        """Return when this stretch ends that holds at a moment, or None if it does not hold."""
        for ago in (1, 0):  # yesterday's may go on
            day = moment.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=ago)
            if day.weekday() not in self.days:
                continue
            length = (
                self.end - self.begin
                if self.end > self.begin
                else (self.end + _MINUTES - self.begin)
            )
            begin = day + timedelta(minutes=self.begin)
            end = begin + timedelta(minutes=length)
            if begin <= moment < end:
                return end
        return None


@dataclass(frozen=True, slots=True)
class Hours:
    """When something is allowed; without a stretch, never."""

    stretches: tuple[Stretch, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.stretches))

    def seconds_left(self, moment: datetime) -> float:
        """Return for how long it is still allowed: 0 outside the hours, infinite if always.

        `moment` is local time without a zone. Across a change of the clocks the seconds are those
        that really pass.
        """
        end = moment
        limit = moment + timedelta(days=8)
        while (later := self._until(end)) is not None:
            end = later
            if end >= limit:
                return inf
        return end.timestamp() - moment.timestamp()

    def _until(self, moment: datetime) -> datetime | None:
        ends: Iterable[datetime | None] = (each.until(moment) for each in self.stretches)
        return max(filter(None, ends), default=None)


def stretch(text: str) -> Stretch:
    """Parse one stretch. Raises BadValue."""
    match = _FORM.fullmatch(" ".join(text.lower().split()))
    if match is None:
        raise BadValue("not hours", _LIKE)
    begin, end = _minutes(match["begin"]), _minutes(match["end"])
    if begin in (_MINUTES, end):
        raise BadValue("hours without length", "00:00-24:00 is the whole day")
    return Stretch(_days(match["first"], match["last"]), begin, end)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _minutes(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > _MINUTES:
        raise BadValue("no time of the day", "00:00 to 24:00")
    return hours * 60 + minutes


def _days(first: str | None, last: str | None) -> frozenset[int]:
    if first is None:
        return frozenset(range(7))
    for name in filter(None, (first, last)):
        if name not in _DAYS:
            raise BadValue("no day of the week", "Mon, Tue, Wed, Thu, Fri, Sat or Sun")
    begin = _DAYS.index(first)
    length = (_DAYS.index(last) - begin) % 7 + 1 if last else 1
    return frozenset((begin + each) % 7 for each in range(length))
