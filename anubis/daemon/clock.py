"""The three clocks that the daemon reads, as one value that tests can replace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Clock"]


def _boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Clock:
    """Clocks by what they are for.

    `boot`: seconds, never jumps and goes on in suspend; leases are counted in it.
    `unix_ns`: nanoseconds since 1970, may be wrong by years; shown, and sent in requests.
    """

    boot: Callable[[], float] = _boot
    unix_ns: Callable[[], int] = time.time_ns

    def unix(self) -> float:
        """Return the seconds since 1970."""
        return self.unix_ns() / 1e9
