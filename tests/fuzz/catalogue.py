"""Which targets there are, and the inputs that are kept for each.

Owns the places of both; refuses to know how new inputs are found.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

__all__ = ["CORPUS", "TARGETS", "Target", "inputs", "load"]

_HERE = Path(__file__).parent
CORPUS = _HERE / "corpus"
TARGETS = tuple(sorted(path.stem for path in (_HERE / "targets").glob("[a-z]*.py")))


class Target(Protocol):
    """A module of `tests.fuzz.targets`."""

    RUNS: int
    MAX_LENGTH: int
    TOKENS: tuple[bytes, ...]

    def run(self, data: bytes) -> None:
        """Try one input; raise if what the module promises does not hold."""

    def seeds(self) -> Iterator[bytes]:
        """Give inputs that are in order, or nearly."""


def load(name: str) -> Target:
    """Return a target."""
    return cast("Target", importlib.import_module(f"tests.fuzz.targets.{name}"))


def inputs(name: str) -> Iterator[tuple[str, bytes]]:
    """Yield what is kept for a target: its seeds, then the files of its corpus, by name."""
    for number, data in enumerate(load(name).seeds()):
        yield f"seed {number}", data
    for path in sorted((CORPUS / name).iterdir()):
        yield path.name, path.read_bytes()
