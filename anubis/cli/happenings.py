"""What happened, in one line for a person: when, to whom, what, and how often.

Refuses to know which things can happen: a newer daemon may tell of others.
"""

from __future__ import annotations

from datetime import datetime

from anubis.cli.output import printable
from anubis.durations import format_duration
from anubis.happening import Detail, Happening

__all__ = ["line", "moment"]

# Where the event's own name, with blanks, would not say it.
_WORDS = {
    "ready": "the daemon is ready",
    "let-go": "the daemon ended, all that was up stayed up",
    "stopped": "the daemon stopped",
    "undone": "the far end has taken it back",
    **dict.fromkeys(("vanished", "changed", "appeared", "remained", "overtaken"), "put right"),
}
_SAID_FIRST = ("reason", "what")


def line(happening: Happening) -> str:
    """Say what happened."""
    words = _WORDS.get(happening.event, happening.event.replace("_", " "))
    detail = dict(happening.detail)
    if words == "put right":
        words = f"{happening.event}, put right"
    said = [str(detail.pop(key)) for key in _SAID_FIRST if key in detail]
    rest = ", ".join(f"{key} {_value(key, value)}" for key, value in detail.items())
    whose = happening.connection or "this host"
    text = f"{whose}: {': '.join([words, *said])}{f' ({rest})' if rest else ''}"
    if happening.count > 1:
        text += f", {happening.count} times since {moment(happening.first_at)}"
    return f"{moment(happening.at)}  {printable(text)}"


def moment(seconds: float) -> str:
    """Write a time, in seconds since 1970, as the clock on the wall has it."""
    try:
        return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        return f"{seconds:.0f} s since 1970"


def _value(key: str, value: Detail) -> str:
    if key == "lease" and isinstance(value, int) and value >= 0:
        return format_duration(value)
    return str(value)
