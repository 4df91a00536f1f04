"""Durations as people write them: `90s`, `30m`, `8h`, `1d12h`.

Owns both directions of that notation, for the files and for the command line, on the standard
library alone; refuses to know what is timed.
"""

from __future__ import annotations

import re

__all__ = ["MAX_DURATION", "format_duration", "parse_duration"]

MAX_DURATION = 2**32 - 1  # seconds; what 32 bits can say, 136 years

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(
    r"(?:([0-9]{1,10})d)?(?:([0-9]{1,10})h)?(?:([0-9]{1,10})m)?(?:([0-9]{1,10})s)?"
)
_NUMBER = re.compile(r"[0-9]+")


def parse_duration(text: str) -> int:
    """Return the seconds that `text` says, 0 to MAX_DURATION.

    Each of the units d, h, m and s stands at most once, the greater one first. A number without a
    unit is refused, because `8` means seconds to one reader and hours to the next. Raises
    ValueError with a message for the person who wrote it.
    """
    if _NUMBER.fullmatch(text):
        raise ValueError(f"a duration needs a unit: {text[:10]}s, {text[:10]}m or {text[:10]}h")
    match = _DURATION.fullmatch(text.lower())
    if not text or match is None:
        raise ValueError("not a duration; write it like 90s, 30m, 8h or 1d12h")
    seconds = sum(
        int(number) * unit
        for number, unit in zip(match.groups(), _UNITS.values(), strict=True)
        if number is not None
    )
    if seconds > MAX_DURATION:
        raise ValueError(f"too long; the longest duration is {format_duration(MAX_DURATION)}")
    return seconds


def format_duration(seconds: int) -> str:
    """Return the shortest notation of whole `seconds`, which `parse_duration` reads back."""
    if seconds < 0:
        raise ValueError("a duration is not negative")
    parts = []
    for letter, unit in _UNITS.items():
        count, seconds = divmod(seconds, unit)
        if count:
            parts.append(f"{count}{letter}")
    return "".join(parts) or "0s"
