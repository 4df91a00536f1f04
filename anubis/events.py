"""What the daemon tells its callers, as values and as the JSON of `docs/api.md`.

Owns both directions: `to_json` writes, `from_json` reads and passes over keys that it does not
know, because the daemon may be newer than its caller. Owns also what a call may ask for, so that
both ends judge alike. Refuses to know sockets and HTTP.

Every `from_json` raises ValueError with the key that is at fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from anubis.errors import (
    AnubisError,
    BadRequest,
    ConfigError,
    LocalFailure,
    Location,
    NoAnswer,
    NotPermitted,
    Problem,
    Refused,
    UnknownConnection,
)

__all__ = [
    "DEFAULT_TIMEOUT",
    "LEASE_SECONDS",
    "TIMEOUT_SECONDS",
    "Approval",
    "ConnectionStatus",
    "ErrorEvent",
    "Event",
    "Reloaded",
    "Result",
    "Step",
    "check_name",
    "event_from_json",
    "event_to_json",
    "problem_to_json",
]

LEASE_SECONDS = (60, 31 * 86400)  # the shortest and the longest lease that can be asked for
TIMEOUT_SECONDS = (0.1, 120.0)  # the shortest and the longest wait for the far end
DEFAULT_TIMEOUT = 10.0  # seconds

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened on the way, `elapsed_ms` after the call arrived.

    `connection` is set only where the step belongs to another connection than the one called.
    """

    step: str
    elapsed_ms: float
    detail: str = ""
    connection: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of this step."""
        data = asdict(self)
        if self.connection is None:
            del data["connection"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Step:
        """Read the JSON object of a step. Raises ValueError."""
        return cls(
            step=_read(data, "step", str),
            elapsed_ms=_read_number(data, "elapsed_ms"),
            detail=_read_optional(data, "detail", str) or "",
            connection=_read_optional(data, "connection", str),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """How a change ended well.

    `result` is "done", "unchanged" or "local_only"; `lease_seconds` is None while down;
    `elapsed_ms` has the steps of this connection and "total"; `replaced` what `switch` took down.
    """

    connection: str
    state: str
    result: str
    lease_seconds: int | None = None
    endpoint: str | None = None
    elapsed_ms: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of this result."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Result:
        """Read the JSON object of a result. Raises ValueError."""
        elapsed = _read(data, "elapsed_ms", dict)
        return cls(
            connection=_read(data, "connection", str),
            state=_read(data, "state", str),
            result=_read(data, "result", str),
            lease_seconds=_read_optional(data, "lease_seconds", int),
            endpoint=_read_optional(data, "endpoint", str),
            elapsed_ms={str(step): _read_number(elapsed, step) for step in elapsed},
            warnings=_read_texts(data, "warnings"),
            replaced=_read_texts(data, "replaced"),
        )


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload of the authorized-peers file changed; names of entries, sorted.

    `peers` counts the entries that there are now; `ended` are the connections that were cut off.
    """

    peers: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of this reload."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Reloaded:
        """Read the JSON object of a reload. Raises ValueError."""
        return cls(
            peers=_read(data, "peers", int),
            added=_read_texts(data, "added"),
            removed=_read_texts(data, "removed"),
            changed=_read_texts(data, "changed"),
            ended=_read_texts(data, "ended"),
            warnings=_read_texts(data, "warnings"),
        )


@dataclass(frozen=True, slots=True)
class Approval:
    """Which connection was `approved`, if one was to be, and which are `waiting` for that still."""

    approved: str | None = None
    waiting: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of this approval."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Approval:
        """Read the JSON object of an approval. Raises ValueError."""
        return cls(_read_optional(data, "approved", str), _read_texts(data, "waiting"))


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """A connection as it is now; `docs/api.md` explains each field."""

    name: str
    state: str
    role: str | None = None
    since: str | None = None
    lease_seconds_left: int | None = None
    endpoint: str | None = None
    last_handshake_seconds: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    pinned: bool = False
    retry_seconds: float | None = None
    ended: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of this connection."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> ConnectionStatus:
        """Read the JSON object of a connection. Raises ValueError."""
        handshake, retry = data.get("last_handshake_seconds"), data.get("retry_seconds")
        return cls(
            name=_read(data, "name", str),
            state=_read(data, "state", str),
            role=_read_optional(data, "role", str),
            since=_read_optional(data, "since", str),
            lease_seconds_left=_read_optional(data, "lease_seconds_left", int),
            endpoint=_read_optional(data, "endpoint", str),
            last_handshake_seconds=(
                None if handshake is None else _read_number(data, "last_handshake_seconds")
            ),
            rx_bytes=_read(data, "rx_bytes", int),
            tx_bytes=_read(data, "tx_bytes", int),
            pinned=data.get("pinned") is True,
            retry_seconds=None if retry is None else _read_number(data, "retry_seconds"),
            ended=_read_optional(data, "ended", str),
        )


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """An error on its way to the caller; `result` is the far end's result code, if it refused."""

    kind: str
    message: str
    hint: str | None = None
    result: str | None = None
    problems: tuple[Problem, ...] = ()

    @classmethod
    def from_error(cls, error: AnubisError) -> ErrorEvent:
        """Turn an error into what is sent."""
        result = error.result if isinstance(error, Refused) else None
        problems = error.problems if isinstance(error, ConfigError) else ()
        return cls(error.kind, error.message, error.hint, result, problems)

    def to_error(self) -> AnubisError:
        """Turn what was received into the error that the daemon met.

        A kind that this version does not know is a LocalFailure.
        """
        if self.kind == Refused.kind:
            return Refused(self.message, self.hint, self.result or "refused")
        if self.kind == ConfigError.kind:
            return ConfigError(self.problems)
        return _ERRORS.get(self.kind, LocalFailure)(self.message, self.hint)

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of this error."""
        data: dict[str, object] = {"kind": self.kind, "message": self.message, "hint": self.hint}
        if self.result is not None:
            data["result"] = self.result
        if self.problems:
            data["problems"] = [problem_to_json(problem) for problem in self.problems]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> ErrorEvent:
        """Read the JSON object of an error. Raises ValueError."""
        return cls(
            kind=_read(data, "kind", str),
            message=_read(data, "message", str),
            hint=_read_optional(data, "hint", str),
            result=_read_optional(data, "result", str),
            problems=tuple(_problem(each) for each in _read_optional(data, "problems", list) or ()),
        )


def problem_to_json(problem: Problem) -> dict[str, object]:
    """Return the JSON object of something that is wrong with a file."""
    return {
        "file": str(problem.location.path),
        "line": problem.location.line or None,
        "message": problem.message,
        "hint": problem.hint,
    }


def _problem(data: object) -> Problem:
    if not isinstance(data, dict):
        raise ValueError("problems is not a list of objects")  # noqa: TRY004 (as _read)
    place = Location(Path(_read(data, "file", str)), _read_optional(data, "line", int) or 0)
    return Problem(place, _read(data, "message", str), _read_optional(data, "hint", str))


Event = Step | Result | ErrorEvent

_ERRORS: dict[str, type[AnubisError]] = {
    error.kind: error
    for error in (BadRequest, UnknownConnection, NoAnswer, LocalFailure, NotPermitted)
}
_EVENTS: dict[str, type[Event]] = {"step": Step, "result": Result, "error": ErrorEvent}
_WORDS = {event: word for word, event in _EVENTS.items()}


def event_to_json(event: Event) -> dict[str, object]:
    """Return a line of the event stream: the event, with what it is under `event`."""
    return {"event": _WORDS[type(event)], **event.to_json()}


def event_from_json(data: Mapping[str, object]) -> Event | None:
    """Read a line of the event stream; None if this version does not know such events."""
    event = _EVENTS.get(_read(data, "event", str))
    return None if event is None else event.from_json(data)


def check_name(text: str) -> str:
    """Return the name of a connection in lower case, as its case does not count.

    Raises BadRequest if no connection can have this name.
    """
    if not _NAME.fullmatch(text):
        raise BadRequest(
            f"not the name of a connection: {text[:64]!r}",
            "a name is 1 to 63 letters, digits, - _ and ., beginning with a letter or digit",
        )
    return text.lower()


def _read(data: Mapping[str, object], key: str, kind: type[_T]) -> _T:
    value = data.get(key)
    # JSON's true is no number, though Python's True is an int.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{key} is missing or is not of type {kind.__name__}")  # noqa: TRY004 (the caller answers for what it reads, not a TypeError of ours)
    return value


def _read_optional(data: Mapping[str, object], key: str, kind: type[_T]) -> _T | None:
    return None if data.get(key) is None else _read(data, key, kind)


def _read_number(data: Mapping[str, object], key: str) -> float:
    # A whole number of milliseconds may come without a point.
    try:
        return float(_read(data, key, int if isinstance(data.get(key), int) else float))
    except OverflowError:
        raise ValueError(f"{key} is too large") from None


def _read_texts(data: Mapping[str, object], key: str) -> tuple[str, ...]:
    texts = _read_optional(data, key, list) or []
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is not a list of strings")
    return tuple(texts)
