"""The process that searches for one target: `python -m tests.fuzz.one TARGET [libFuzzer's words]`.

It ends with libFuzzer's exit status: not 0 when an input was found that breaks a promise, which
is then in a file. `tests.fuzz` starts it; by hand, with a file, it shows that input's traceback.
"""

from __future__ import annotations

import random
import shlex
import sys

import atheris

from tests.fuzz.catalogue import load
from tests.fuzz.mutation import mutated

__all__: list[str] = []


def main() -> None:
    """Load the target so that atheris sees which lines are reached, and search."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["anubis", "tests"], enable_loader_override=False):
        target = load(name)
    # For -merge libFuzzer starts itself anew, by a shell and this name.
    sys.argv[0] = shlex.join([sys.executable, "-m", "tests.fuzz.one", name])
    if target.TOKENS:
        atheris.Setup(sys.argv, target.run, custom_mutator=_mutate_text)
    else:
        atheris.Setup(sys.argv, target.run)
    atheris.Fuzz()


def _mutate_text(data: bytes, limit: int, seed: int) -> bytes:
    """Change a text as such, or as libFuzzer changes bytes and puts words in."""
    dice = random.Random(seed)
    if dice.random() < 0.5:
        return bytes(atheris.Mutate(data, limit))
    return mutated(data, dice)[:limit]


if __name__ == "__main__":
    main()
