"""When files that are being changed are at rest, so that they are worth reading.

Sans-IO: time is an argument, in seconds of a clock that does not jump. A file is at rest a moment
after the last thing that happened to it, if whoever writes it has closed it; but nobody keeps a
change from being read for ever. Refuses to know how a change is heard of.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["LATEST", "SETTLE", "Calm"]

SETTLE = 0.2  # seconds; between the steps in which editors save there are a few milliseconds
LATEST = 5.0  # seconds after the first change, whatever goes on
_MAX_WRITING = 1024  # files that are known to be open; who writes more at once is not waited for

Place = tuple[int, str]  # the directory's watch, the name in it


@dataclass(slots=True)
class Calm:
    """What has happened since the files were read last."""

    _first: float | None = None
    _last: float = 0.0
    _writing: set[Place] = field(default_factory=set)

    def changed(self, now: float) -> None:
        """Note that something was changed."""
        if self._first is None:
            self._first = now
        self._last = now

    def being_written(self, place: Place, now: float) -> None:
        """Note that somebody has written into a file, which is still open."""
        self.changed(now)
        if len(self._writing) < _MAX_WRITING:
            self._writing.add(place)

    def written(self, place: Place, now: float) -> None:
        """Note that a file was closed, replaced or taken away."""
        self.changed(now)
        self._writing.discard(place)

    def due(self) -> float:
        """Return when to read; infinite if nothing was changed."""
        if self._first is None:
            return float("inf")
        latest = self._first + LATEST
        return latest if self._writing else min(self._last + SETTLE, latest)

    def read(self) -> None:
        """Note that the files are read from now on: what was changed until now is taken up."""
        self._first = None
        self._writing.clear()
