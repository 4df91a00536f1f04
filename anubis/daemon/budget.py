"""How much work each source may cause, and all of them together: token buckets.

Sans-IO: time is an argument, in seconds of a clock that does not jump. Owns who has had how much of
late. Refuses to know what the work is, and what is said to a source that wants more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = [
    "CHANGES",
    "CHANGES_OF_ALL",
    "CONNECTIONS",
    "CONNECTIONS_OF_ALL",
    "DATAGRAMS",
    "DATAGRAMS_OF_ALL",
    "REQUESTS",
    "REQUESTS_OF_ALL",
    "Budget",
    "Rate",
]

MAX_SOURCES = 65_536  # remembered


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in the long run, and so many at once after a quiet time."""

    per_second: float
    burst: int


# What comes out of one control tunnel, read at all. An honest host sends a few a second; junk that
# fails only when it is opened costs most, about 60 microseconds.
DATAGRAMS = Rate(200, 300)
DATAGRAMS_OF_ALL = Rate(4000, 4000)
# Connections for a phone's page; a browser makes a few for each tap.
CONNECTIONS = Rate(20, 60)
CONNECTIONS_OF_ALL = Rate(200, 200)
# What is carried out, at about a millisecond each.
REQUESTS = Rate(40, 60)
REQUESTS_OF_ALL = Rate(400, 400)
# What changes a connection: WireGuard, routes and rules, some ten milliseconds.
CHANGES = Rate(10, 20)
CHANGES_OF_ALL = Rate(100, 200)


class Budget:
    """A bucket for each source and one for all; a source that wants too much empties only its own.

    Of each bucket it is remembered when it will be full again. At most `limit` sources: the one
    that was quiet longest is forgotten first.
    """

    def __init__(self, each: Rate, together: Rate, limit: int = MAX_SOURCES) -> None:
        self._each = each
        self._together = together
        self._limit = limit
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()
        self._all_full_at = 0.0

    def __len__(self) -> int:
        return len(self._full_at)

    def allows(self, source: Hashable, now: float) -> bool:
        """Take one from both buckets, or nothing from either and return False."""
        own = _after(self._full_at.get(source, now), self._each, now)
        all_ = _after(self._all_full_at, self._together, now)
        if own is None or all_ is None:
            if source in self._full_at:
                self._full_at.move_to_end(source)  # who keeps asking is not forgotten
            return False
        self._all_full_at = all_
        self._full_at[source] = own
        self._full_at.move_to_end(source)
        if len(self._full_at) > self._limit:
            self._full_at.popitem(last=False)
        return True


def _after(full_at: float, rate: Rate, now: float) -> float | None:
    """Return when a bucket will be full if one is taken out now; None if it is empty."""
    then = max(full_at, now) + 1 / rate.per_second
    return then if then - now <= rate.burst / rate.per_second + 1e-9 else None
