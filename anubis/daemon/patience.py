"""How soon a thing may be put back that is taken away again and again.

Sans-IO: time is an argument, in seconds of a clock that does not jump. The first times are at
once, as promised; after that each takes twice as long as the last, so that two programs which
disagree do not keep a host busy for ever. Refuses to know what the things are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Patience"]

TRIES = 10  # at once
FIRST_PAUSE = 1.0  # seconds
LAST_PAUSE = 60.0  # seconds
QUIET = 60.0  # seconds beyond its pause without a quarrel, after which a thing starts afresh
_MAX_THINGS = 4096  # remembered; of more, the oldest quarrels are forgotten


@dataclass(slots=True)
class _Quarrel:
    times: int
    due: float


@dataclass(slots=True)
class Patience:
    """The things that were put back lately, by their names."""

    _quarrels: dict[str, _Quarrel] = field(default_factory=dict)

    def allows(self, thing: str, now: float) -> bool:
        """Tell whether a thing may be put back now."""
        quarrel = self._quarrels.get(thing)
        return quarrel is None or quarrel.due <= now

    def due(self, thing: str) -> float:
        """Return when it may be; in the past if it may be already."""
        quarrel = self._quarrels.get(thing)
        return quarrel.due if quarrel else 0.0

    def put_back(self, thing: str, now: float) -> float:
        """Note that a thing was put back; return the pause before the next time, in seconds."""
        quarrel = self._quarrels.pop(thing, None)
        if quarrel is None or now - quarrel.due > QUIET:
            quarrel = _Quarrel(0, now)
        quarrel.times += 1
        over = quarrel.times - TRIES
        pause = 0.0 if over < 0 else min(LAST_PAUSE, FIRST_PAUSE * 2.0 ** min(over, 16))
        quarrel.due = now + pause
        if len(self._quarrels) >= _MAX_THINGS:
            del self._quarrels[next(iter(self._quarrels))]
        self._quarrels[thing] = quarrel
        return pause
