"""Changes that make sense in a text: another number, a line twice, missing, or elsewhere.

libFuzzer's own changes of single bytes seldom leave a text in order. Owns no format: numbers and
lines are what all of them are made of.
"""

from __future__ import annotations

import random
import re

__all__ = ["mutated"]

_NUMBER = re.compile(rb"(?<![A-Za-z0-9+/])[0-9]+")  # not the digits within a key
_NUMBERS = (1, 15, 16, 31, 32, 33, 59, 60, 61, 127, 128, 129, 255, 256, 1279, 65535, 65536,
            2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64, 10**20, 10**400)  # fmt: skip


def mutated(text: bytes, dice: random.Random) -> bytes:
    """Return the text with one or two such changes."""
    for _ in range(dice.randint(1, 2)):
        change = dice.choice((_other_number, _other_number, _other_lines))
        text = change(text, dice)
    return text


def _other_number(text: bytes, dice: random.Random) -> bytes:
    """Put another number in the place of one: none, a border of something, or one as long."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return text
    old = dice.choice(numbers)
    as_long = b"%0*d" % (len(old[0]), dice.randrange(10 ** len(old[0])))
    new = dice.choice((b"0", b"%d" % dice.choice(_NUMBERS), as_long))
    return text[: old.start()] + new + text[old.end() :]


def _other_lines(text: bytes, dice: random.Random) -> bytes:
    """Repeat, move or drop a line, or let two of them change places."""
    lines = text.split(b"\n")
    here, there = dice.randrange(len(lines)), dice.randrange(len(lines))
    match dice.randrange(4):
        case 0:
            lines.insert(there, lines[here])
        case 1:
            lines.insert(there, lines.pop(here))
        case 2:
            del lines[here]
        case _:
            lines[here], lines[there] = lines[there], lines[here]
    return b"\n".join(lines)
