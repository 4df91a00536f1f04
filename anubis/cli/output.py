"""What is written to the terminal, and how: plain text, a little colour, one JSON object.

Owns the form of messages and the care for odd terminals; refuses to know commands.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TextIO

from anubis.errors import AnubisError, ConfigError
from anubis.events import ErrorEvent

__all__ = [
    "GREEN",
    "RED",
    "error_object",
    "explain",
    "is_terminal",
    "json_errors",
    "note",
    "paint",
    "prepare",
    "printable",
    "say",
    "say_json",
    "stream",
    "warn",
]

GREEN, RED = 32, 31  # of ECMA-48, select graphic rendition


def prepare() -> None:
    """Make any text writable: what a terminal's encoding lacks is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, end: str = "\n") -> None:
    """Write to standard output. Nobody reading any more is no error: what was asked is done."""
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stream(text: str, end: str = "\n") -> None:
    """Write to standard output as one of many lines. Raises BrokenPipeError if nobody reads."""
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def say_json(data: Mapping[str, object]) -> None:
    """Write one JSON object, in ASCII, on one line."""
    say(json.dumps(data))


def note(text: str) -> None:
    """Write to standard error what is no part of the result: standard output may be a file."""
    sys.stderr.write(f"{printable(text)}\n")


def warn(text: str) -> None:
    """Write a warning to standard error."""
    sys.stderr.write(f"anubis: warning: {printable(text)}\n")


def explain(error: AnubisError) -> None:
    """Write an error to standard error, and what to do now."""
    if isinstance(error, ConfigError):
        lines = [str(problem) for problem in error.problems]
    else:
        lines = [error.message]
    for line in lines:
        sys.stderr.write(f"anubis: error: {printable(line)}\n")
    if error.hint:
        sys.stderr.write(f"anubis: hint: {printable(error.hint)}\n")


@contextmanager
def json_errors(connection: str | None, *, as_json: bool) -> Generator[None, None, None]:
    """With --json, write an error as the one JSON object too, and let it pass on."""
    try:
        yield
    except AnubisError as error:
        if as_json:
            say_json(error_object(error, connection))
        raise
    except KeyboardInterrupt:
        if as_json:
            error_data = {"connection": connection, "kind": "interrupted", "message": "interrupted"}
            say_json({"error": {**error_data, "hint": None}})
        raise


def error_object(error: AnubisError, connection: str | None = None) -> dict[str, object]:
    """Return what --json prints for an error."""
    return {"error": {"connection": connection, **ErrorEvent.from_error(error).to_json()}}


def printable(text: str) -> str:
    """Return text without control characters: some of it was chosen by the far end."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person watches, on a terminal that understands more than text."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: int) -> str:
    """Return text in a colour, if standard output has colours and $NO_COLOR is not set."""
    if not is_terminal(sys.stdout) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"
