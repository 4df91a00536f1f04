"""A change as a person watches it: steps with their milliseconds, then one line that says it.

On a terminal each step is a line as it happens; elsewhere there is only the last line. Refuses to
know how the daemon is asked.
"""

from __future__ import annotations

import sys

from anubis.cli.output import GREEN, is_terminal, paint, printable, say
from anubis.durations import format_duration
from anubis.events import Result, Step

__all__ = ["Progress", "summary"]

_STEPS = {
    "control": "control plane reached",
    "pending": "waiting for approval",
    "agreed": "far end agreed",
    "peer": "peer added",
    "routes": "routes added",
    "handshake": "handshake seen",
    "removed": "removed here",
}
_CLEAR_LINE = "\r\x1b[2K"


class Progress:
    """Shows the steps of one change on a terminal, and nothing anywhere else.

    A context manager: while it is open, the last line says that it waits.
    """

    def __init__(self, connection: str) -> None:
        self._connection = printable(connection)
        self._last = ""
        self._watched = is_terminal(sys.stdout)
        self._tick = "✓" if _can_write("✓…") else "*"
        self._dots = "…" if _can_write("✓…") else "..."

    def __enter__(self) -> Progress:
        self._wait()
        return self

    def __exit__(self, *exception: object) -> None:
        self._clear()

    def step(self, step: Step) -> None:
        """Show a step."""
        if not self._watched or self._last == step.step == "pending":  # it is told all the while
            return
        self._last = step.step
        self._clear()
        text = _STEPS.get(step.step, step.step)
        if step.connection is not None:
            text = f"{step.connection}: {text}"
        line = (
            f"{printable(text):<23} {printable(step.detail):<24} {milliseconds(step.elapsed_ms):>9}"
        )
        say(f"  {paint(self._tick, GREEN)} {line}")
        self._wait()

    def _wait(self) -> None:
        if self._watched:
            say(f"  {self._dots} {self._connection}", end="")

    def _clear(self) -> None:
        if self._watched:
            say(_CLEAR_LINE, end="")


def summary(result: Result) -> str:
    """Say in one line how a change ended."""
    name = printable(result.connection)
    remarks = []
    if "total" in result.elapsed_ms:
        remarks.append(milliseconds(result.elapsed_ms["total"]))
    if result.lease_seconds is not None:
        remarks.append(f"lease {format_duration(result.lease_seconds)}")
    words = {
        ("up", "unchanged"): f"{name} was up already",
        ("down", "unchanged"): f"{name} was down already",
        ("down", "local_only"): f"{name} is down on this host only",
    }.get((result.state, result.result), f"{name} is {printable(result.state)}")
    if remarks:
        words += f" ({', '.join(remarks)})"
    if result.replaced:
        replaced = ", ".join(printable(each) for each in result.replaced)
        words += f" in place of {replaced}"
    return words


def milliseconds(elapsed: float) -> str:
    """Write milliseconds, and seconds where there are many."""
    return f"{elapsed:.0f} ms" if elapsed < 10_000 else f"{elapsed / 1000:.1f} s"


def _can_write(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
