"""How many times slower than a real machine this one is: one factor for all deadlines of a lab.

`ANUBIS_LAB_SLOWNESS=N` says so where all is emulated. Owns the factor; refuses to know who waits
for what. Anubis itself never asks: what it promises, it promises on every machine.
"""

from __future__ import annotations

import os

from anubis.errors import LocalFailure

__all__ = ["stretched"]

_VARIABLE = "ANUBIS_LAB_SLOWNESS"


def stretched(seconds: float) -> float:
    """Return how long to wait here for what takes up to `seconds` on a real machine.

    Raises LocalFailure if the environment names no factor of 1 or more.
    """
    text = os.environ.get(_VARIABLE, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor < float("inf"):
        raise LocalFailure(f"{_VARIABLE} is {text!r}, not a number of 1 or more")
    return seconds * factor
