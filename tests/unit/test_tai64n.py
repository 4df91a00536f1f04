"""Time labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.protocol import tai64n

TIMES = st.integers(0, tai64n.MAX_UNIX_NS)


def test_the_epoch_is_ten_seconds_after_tai() -> None:
    """1970-01-01 00:00:10 TAI is the label 0x400000000000000a (libtai)."""
    assert tai64n.encode(0).hex() == "400000000000000a00000000"
    assert tai64n.encode(1_800_000_000_123_456_789).hex() == "400000006b49d20a075bcd15"


@given(TIMES)
def test_round_trip(unix_ns: int) -> None:
    """Every time in range comes back to the nanosecond, in 12 bytes."""
    label = tai64n.encode(unix_ns)
    assert len(label) == tai64n.SIZE
    assert tai64n.decode(label) == unix_ns


@given(TIMES, TIMES)
def test_labels_sort_as_times_do(one: int, other: int) -> None:
    """Labels compare as bytes as the times compare as numbers."""
    assert (one < other) == (tai64n.encode(one) < tai64n.encode(other))


@given(st.binary(min_size=12, max_size=12))
def test_one_time_has_one_label(label: bytes) -> None:
    """A label that is accepted is the one that `encode` makes."""
    try:
        unix_ns = tai64n.decode(label)
    except ValueError:
        return
    assert tai64n.encode(unix_ns) == label


@pytest.mark.parametrize(
    "label",
    [
        "",
        "400000000000000a000000",
        "400000000000000a0000000000",
        "400000000000000900000000",
        "000000000000000000000000",
        "800000000000000000000000",
        "ffffffffffffffff00000000",
        "400000000000000a3b9aca00",
    ],
)
def test_what_is_refused(label: str) -> None:
    """Other lengths, times before 1970 or from 2^63 on, a second of nanoseconds: ValueError."""
    with pytest.raises(ValueError, match=r"TAI64N"):
        tai64n.decode(bytes.fromhex(label))


def test_the_last_time() -> None:
    """MAX_UNIX_NS is the last time that has a label."""
    last = tai64n.encode(tai64n.MAX_UNIX_NS)
    assert last.hex() == "7fffffffffffffff3b9ac9ff"
    assert tai64n.decode(last) == tai64n.MAX_UNIX_NS
