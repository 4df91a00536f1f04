"""What the daemon says that it would do, as values and as the JSON of `docs/api.md`.

The same way as `events`: `to_json` writes, `from_json` reads, passes over keys that it does not
know, and raises ValueError with the key that is at fault. Refuses to know how it is found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

__all__ = ["ChangedEntry", "Difference"]

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


def _read(data: Mapping[str, object], key: str, kind: type[_T]) -> _T:
    value = data.get(key)
    # JSON's true is no number, though Python's True is an int.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key} is missing or is not of type {kind.__name__}")
    return value


def _list(data: Mapping[str, object], key: str, kind: type[_T]) -> tuple[_T, ...]:
    found = data.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, kind) for each in found):
        raise ValueError(f"{key} is not a list of type {kind.__name__}")
    return tuple(found)
