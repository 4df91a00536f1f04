"""Structured log lines: an event's name, then key=value fields.

Owns the format, for a terminal and for the journal, which gets the fields apart (`journal`) and
knows the time itself. Who wants to hear of events beside the log taps it. Refuses to know what is
logged; callers never pass secrets.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from anubis.daemon.journal import PRIORITIES, SOCKET, JournalHandler, leads_to_journal

__all__ = ["Throttle", "event", "set_up", "tapped"]

codecs.lookup("unicode_escape")  # loaded now: later there may be no descriptor for it
_logger = logging.getLogger("anubis")
_PLAIN = re.compile(r"[\w.:/@,+\[\]%-]+", re.ASCII)
# In the journal a peer is ANUBIS_PEER and what was asked for ANUBIS_VERB, however a line names it.
_FIELDS = {"connection": "PEER", "call": "VERB"}
_taps: list[Callable[[str, Mapping[str, object]], None]] = []


def set_up(*, debug: bool, journal: Path = SOCKET) -> None:
    """Send the log to standard error, or to the journal if that is where standard error ends."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    in_journal = leads_to_journal(os.environ, 2)
    handler.setFormatter(_Formatter(journal=in_journal))
    if in_journal:
        handler = JournalHandler(handler, journal)
    for old in _logger.handlers:
        old.close()
    _logger.handlers[:] = [handler]
    _logger.propagate = False
    _logger.setLevel(logging.DEBUG if debug else logging.INFO)


def event(level: int, name: str, **fields: object) -> None:
    """Log an event. Values are quoted where they need it; None is left out."""
    for tap in _taps:
        tap(name, fields)
    if _logger.isEnabledFor(level):
        texts = {key: _text(value) for key, value in fields.items() if value is not None}
        line = " ".join([name, *(f"{key}={_quote(text)}" for key, text in texts.items())])
        entry = {_FIELDS.get(key, key.upper()): text for key, text in texts.items()}
        _logger.log(level, line, extra={"anubis": {"EVENT": name, **entry}})


@contextmanager
def tapped(tap: Callable[[str, Mapping[str, object]], None]) -> Generator[None, None, None]:
    """Have `tap` called with each event and its fields, also with those of too low a level."""
    _taps.append(tap)
    try:
        yield
    finally:
        _taps.remove(tap)


def _text(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _quote(text: str) -> str:
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
        return f"<{PRIORITIES[record.levelname]}>{text}" if self._journal else text


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
