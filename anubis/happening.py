"""One thing that happened to a connection or to this host, as a value and as JSON (`docs/api.md`).

Owns both directions, as `anubis.events` does for calls: the daemon writes it for its callers and
into its file, and reads that again. Refuses to know which things happen, and what is kept of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

__all__ = ["Detail", "Happening", "details"]

Detail = str | int | float | bool
_MAX_TEXT = 200  # characters of one detail; some of it was chosen by the far end
_MAX_DETAILS = 12
_MAX_NUMBER = 2**53  # what every reader of JSON can hold


@dataclass(frozen=True, slots=True)
class Happening:
    """What happened, `count` times from `first_at` to `at`, in seconds since 1970.

    `connection` is None for what happened to the host as a whole.
    """

    event: str
    first_at: float
    at: float
    connection: str | None = None
    detail: dict[str, Detail] = field(default_factory=dict)
    count: int = 1

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of this happening."""
        return {
            "event": self.event,
            "at": round(self.at, 3),
            "connection": self.connection,
            "detail": self.detail,
            "count": self.count,
            "first_at": round(self.first_at, 3),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Happening:
        """Read the JSON object of a happening. Raises ValueError with the key that is at fault."""
        event, connection, count = data.get("event"), data.get("connection"), data.get("count")
        detail = data.get("detail", {})
        if not isinstance(event, str) or not event:
            raise ValueError("event is missing or is no text")
        if connection is not None and not isinstance(connection, str):
            raise ValueError("connection is no text")
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count < _MAX_NUMBER:
            raise ValueError("count is no number of times")
        if not isinstance(detail, dict):
            raise ValueError("detail is no object")  # noqa: TRY004 (bad data, not a wrong call)
        first_at, at = _time(data, "first_at"), _time(data, "at")
        return cls(event, first_at, at, connection, details(detail), count)


def details(fields: Mapping[str, object]) -> dict[str, Detail]:
    """Return fields as they are told: numbers as they are, all else as text that is not long."""
    told: dict[str, Detail] = {}
    for key, value in fields.items():
        if value is None or len(told) == _MAX_DETAILS:
            continue
        if isinstance(value, float):
            told[key] = round(value, 3) if isfinite(value) else str(value)
        elif isinstance(value, int) and abs(value) < _MAX_NUMBER:
            told[key] = value
        else:
            told[key] = _cut(str(value))
    return told


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _time(data: Mapping[str, object], key: str) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is missing or is no time")  # noqa: TRY004 (as above)
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError(f"{key} is too large") from None
    if not isfinite(seconds):
        raise ValueError(f"{key} is no time")
    return seconds
