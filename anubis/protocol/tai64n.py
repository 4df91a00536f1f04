"""TAI64N timestamps: 12 bytes that sort as they count (https://cr.yp.to/libtai/tai64.html).

Owns the conversion from nanoseconds since the Unix epoch; refuses to read a clock. Leap seconds
are ignored, as WireGuard does: the offset to TAI is the 10 s of 1970.
"""

from __future__ import annotations

import struct

__all__ = ["MAX_UNIX_NS", "NANOSECONDS", "SIZE", "decode", "encode"]

SIZE = 12  # bytes
NANOSECONDS = 1_000_000_000
_FORMAT = struct.Struct(">QI")
_EPOCH = (1 << 62) + 10
MAX_UNIX_NS = ((1 << 62) - 11) * NANOSECONDS + NANOSECONDS - 1  # the last label below 2^63


def encode(unix_ns: int) -> bytes:
    """Encode nanoseconds since 1970 (0 to MAX_UNIX_NS) in 12 bytes."""
    seconds, nanoseconds = divmod(unix_ns, NANOSECONDS)
    return _FORMAT.pack(_EPOCH + seconds, nanoseconds)


def decode(label: bytes) -> int:
    """Decode 12 bytes to nanoseconds since 1970.

    Raises ValueError for anything `encode` cannot make: another length, a time before 1970 or
    beyond the labels in use, more than 999,999,999 nanoseconds.
    """
    if len(label) != SIZE:
        raise ValueError(f"a TAI64N label has {SIZE} bytes, not {len(label)}")
    seconds, nanoseconds = _FORMAT.unpack(label)
    if not _EPOCH <= seconds < 1 << 63 or nanoseconds >= NANOSECONDS:
        raise ValueError("not a TAI64N label of a time since 1970")
    return int((seconds - _EPOCH) * NANOSECONDS + nanoseconds)
