"""What the daemon says that it would do, as values and as the JSON of `docs/api.md`.

The same way as `events`: `to_json` writes, `from_json` reads, passes over keys that it does not
know, and raises ValueError with the key that is at fault. Refuses to know how it is found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TypeVar

__all__ = ["ChangedEntry", "Difference", "Obstacle", "Plan", "PlannedStep"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ChangedEntry:
    """An entry that says something else now, and the keys that do; never their values."""

    name: str
    keys: tuple[str, ...]  # as the file has them, in the order of its reference

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> ChangedEntry:
        """Read the JSON object of a changed entry. Raises ValueError."""
        return cls(_read(data, "name", str), _list(data, "keys", str))


@dataclass(frozen=True, slots=True)
class Difference:
    """What a reload would change; names of entries, sorted.

    `peers` counts the entries that there would be; `ended` are the connections that would be cut
    off; `warnings` tell what only a restart takes up.
    """

    peers: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[ChangedEntry, ...] = ()
    ended: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of this difference."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Difference:
        """Read the JSON object of a difference. Raises ValueError."""
        return cls(
            peers=_read(data, "peers", int),
            added=_list(data, "added", str),
            removed=_list(data, "removed", str),
            changed=tuple(ChangedEntry.from_json(each) for each in _list(data, "changed", dict)),
            ended=_list(data, "ended", str),
            warnings=_list(data, "warnings", str),
        )


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One thing that would be done: "add", "change" or "remove"; of what kind, in words, in detail.

    `detail` has the keys that `docs/api.md` names for the kind.
    """

    do: str
    kind: str
    text: str
    detail: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> PlannedStep:
        """Read the JSON object of a step. Raises ValueError."""
        return cls(
            do=_read(data, "do", str),
            kind=_read(data, "kind", str),
            text=_read(data, "text", str),
            detail=_read(data, "detail", dict),
        )


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why it would fail, and what to do about that."""

    message: str
    hint: str | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Obstacle:
        """Read the JSON object of an obstacle. Raises ValueError."""
        hint = None if data.get("hint") is None else _read(data, "hint", str)
        return cls(_read(data, "message", str), hint)


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` would do on this host, in its order; `lease_seconds` is what it would ask for.

    With anything `in_the_way` it would fail and undo all that. `unknown` tells what only the far
    end can say.
    """

    connection: str
    state: str  # "up" or "down", as it is now
    lease_seconds: int
    steps: tuple[PlannedStep, ...] = ()
    in_the_way: tuple[Obstacle, ...] = ()
    unknown: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of this plan."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Plan:
        """Read the JSON object of a plan. Raises ValueError."""
        return cls(
            connection=_read(data, "connection", str),
            state=_read(data, "state", str),
            lease_seconds=_read(data, "lease_seconds", int),
            steps=tuple(PlannedStep.from_json(each) for each in _list(data, "steps", dict)),
            in_the_way=tuple(Obstacle.from_json(each) for each in _list(data, "in_the_way", dict)),
            unknown=_list(data, "unknown", str),
        )


def _read(data: Mapping[str, object], key: str, kind: type[_T]) -> _T:
    value = data.get(key)
    # JSON's true is no number, though Python's True is an int.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{key} is missing or is not of type {kind.__name__}")  # noqa: TRY004 (as in `events`)
    return value


def _list(data: Mapping[str, object], key: str, kind: type[_T]) -> tuple[_T, ...]:
    found = data.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, kind) for each in found):
        raise ValueError(f"{key} is not a list of type {kind.__name__}")
    return tuple(found)
