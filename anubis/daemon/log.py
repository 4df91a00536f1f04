"""Structured log lines: an event's name, then key=value fields.

Owns the format, for a terminal and for journald (which gets the priority as `<N>` in front of the
line and knows the time itself). Refuses to know what is logged; callers never pass secrets.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import dataclass, field

__all__ = ["Throttle", "event", "set_up"]

_logger = logging.getLogger("anubis")
_PLAIN = re.compile(r"[\w.:/@,+\[\]%-]+", re.ASCII)
_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}  # RFC 5424


def set_up(*, debug: bool) -> None:
    """Send the log to standard error, in journald's form if that is where it ends."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(journal="JOURNAL_STREAM" in os.environ))
    _logger.handlers[:] = [handler]
    _logger.propagate = False
    _logger.setLevel(logging.DEBUG if debug else logging.INFO)


def event(level: int, name: str, **fields: object) -> None:
    """Log an event. Values are quoted where they need it; None is left out."""
    if _logger.isEnabledFor(level):
        pairs = [f"{key}={_quote(value)}" for key, value in fields.items() if value is not None]
        _logger.log(level, " ".join([name, *pairs]))


def _quote(value: object) -> str:
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.encode("unicode_escape").decode().replace('"', '\\"')
    return f'"{escaped}"'


class _Formatter(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"<{_PRIORITIES[record.levelname]}>{text}" if self._journal else text


@dataclass(slots=True)
class Throttle:
    """Lets through one event a second for each kind, and tells how many it kept back."""

    interval: float = 1.0  # seconds
    max_kinds: int = 256
    _last: dict[str, float] = field(default_factory=dict)
    _kept: dict[str, int] = field(default_factory=dict)

    def passes(self, kind: str, now: float) -> int | None:
        """Return how many were kept back since the last one that passed, or None to keep this."""
        last = self._last.get(kind)
        if last is not None and now - last < self.interval:
            self._kept[kind] = self._kept.get(kind, 0) + 1
            return None
        if len(self._last) >= self.max_kinds:
            self._last.clear()
            self._kept.clear()
        self._last[kind] = now
        return self._kept.pop(kind, 0)
