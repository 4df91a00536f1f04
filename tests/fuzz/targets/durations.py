"""Durations (`anubis/durations.py`).

Any text is so many seconds, or a ValueError that says in words why not. What was read is written
in the shortest form, and that reads the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from anubis.durations import MAX_DURATION, format_duration, parse_duration

RUNS = 60_000
MAX_LENGTH = 64
TOKENS = (b"d", b"h", b"m", b"s", b"4294967295s", b"4294967296s", b"49710d6h28m15s")


def run(data: bytes) -> None:
    """Read the input as a duration."""
    text = data.decode("utf-8", "replace")
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        assert str(error).isprintable(), error
        assert "duration" in str(error), error
        return
    assert 0 <= seconds <= MAX_DURATION
    shortest = format_duration(seconds)
    assert parse_duration(shortest) == seconds
    assert format_duration(parse_duration(shortest)) == shortest


def seeds() -> Iterator[bytes]:
    """Give every unit, alone and together, and what is just right or just wrong."""
    yield from (b"90s", b"30m", b"8h", b"1D12h", b"1d2h3m4s", b"0s", b"8", b"", b"1h1d", b"-1s",
                b"4294967295s", b"4294967296s", b"9999999999d", "\u0665s".encode())  # fmt: skip
