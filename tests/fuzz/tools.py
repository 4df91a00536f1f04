"""What the targets have in common: taking an input apart, and looking at what was refused.

Owns no knowledge of any format. Nothing here needs atheris, because a kept input is replayed
without it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from anubis.errors import ConfigError

__all__ = ["Input", "assert_no_secret", "assert_problems_have_places", "uncommented"]

_T = TypeVar("_T")
_SECRET = re.compile(r"[0-9a-f]{64}|[A-Za-z0-9+/]{43}")


class Input:
    """The bytes of an input, taken from the front as numbers, choices and pieces.

    What is missing at the end counts as zeros, so that every input means something.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def __bool__(self) -> bool:
        return self._place < len(self._data)

    def number(self, size: int = 1) -> int:
        """Take a number of so many bytes."""
        return int.from_bytes(self.take(size).ljust(size, b"\0"))

    def choice(self, choices: Sequence[_T]) -> _T:
        """Take one of these."""
        return choices[self.number() % len(choices)]

    def take(self, size: int) -> bytes:
        """Take up to so many bytes."""
        taken = self._data[self._place : self._place + size]
        self._place += size
        return taken

    def piece(self) -> bytes:
        """Take bytes that are preceded by their number, in two bytes."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        """Take everything that is left."""
        return self.take(len(self._data))


def assert_no_secret(text: str) -> None:
    """See that a message has nothing in it that is as long as a key."""
    assert not _SECRET.search(text), text


def assert_problems_have_places(error: ConfigError, data: bytes) -> None:
    """See that each problem names a line of the file, in words for a terminal."""
    lines = data.count(b"\n") + 1
    assert error.problems
    for problem in error.problems:
        assert 1 <= problem.location.line <= lines, problem
        assert problem.message, problem
        assert str(problem).isprintable(), problem


def uncommented(example: bytes) -> bytes:
    """Return an example's settings, which stand behind a `#` each, and nothing of its prose."""
    settings = re.findall(rb"(?m)^#?(\[\w+\]|\w+ = .*)$", example)
    return b"\n".join([*settings, b""])
