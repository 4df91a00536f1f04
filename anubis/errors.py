"""The errors of Anubis, by what the person who meets them can do about it.

    AnubisError                 what happened, and a hint: what to do now
    |- ConfigError              mend the file              exit 78
    |- BadRequest               mend the call              exit 2
    |- UnknownConnection        use a name that exists     exit 2
    |- Refused                  ask the far administrator  exit 1
    |- NoAnswer                 check the way there        exit 3
    |- LocalFailure             mend this host             exit 4
    |- DaemonNotRunning         start the daemon           exit 69
    `- NotPermitted             become somebody else       exit 77

This module owns the tree and the exit statuses, and refuses to know where any of it is raised.
`kind` is the word for the error in the HTTP API (`docs/api.md`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

__all__ = [
    "AnubisError",
    "BadRequest",
    "ConfigError",
    "DaemonNotRunning",
    "LocalFailure",
    "Location",
    "NoAnswer",
    "NotPermitted",
    "Problem",
    "Refused",
    "UnknownConnection",
    "nearest",
]


class AnubisError(Exception):
    """Anything that went wrong and is explained to a person: a message, and perhaps a hint."""

    kind: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 4

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a file; line 0 means the file as a whole."""

    path: Path
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else str(self.path)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with a file: where, what stands there, and what would be right."""

    location: Location
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.location}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(AnubisError):
    """A file cannot be used. Carries every problem found, not only the first."""

    kind = "bad_configuration"
    exit_status = 78

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BadRequest(AnubisError):
    """A call of the HTTP API that is wrong in itself; nothing was done."""

    kind = "bad_request"
    exit_status = 2


class UnknownConnection(AnubisError):
    """No entry of the authorized-peers file has this name."""

    kind = "unknown_connection"
    exit_status = 2


class Refused(AnubisError):
    """The far end was reached, knows us, and said no.

    `result` is the name of its result code in the registry of `docs/protocol.md`.
    """

    kind = "refused"
    exit_status = 1

    def __init__(self, message: str, hint: str | None = None, result: str = "refused") -> None:
        super().__init__(message, hint)
        self.result = result


class NoAnswer(AnubisError):
    """The far end did not answer in time."""

    kind = "no_answer"
    exit_status = 3


class LocalFailure(AnubisError):
    """This host could not do its part; what had been begun is rolled back."""

    kind = "failed"
    exit_status = 4


class DaemonNotRunning(AnubisError):
    """Nobody listens on the daemon's socket."""

    kind = "daemon_not_running"
    exit_status = 69


class NotPermitted(AnubisError):
    """The caller is neither root nor in group `anubis`."""

    kind = "not_permitted"
    exit_status = 77


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return a hint that names what was probably meant, or None if nothing is near."""
    matches = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {matches[0]}?" if matches else None
