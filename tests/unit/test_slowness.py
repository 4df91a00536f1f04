"""One factor stretches what a lab waits for, and nothing shrinks it."""

from __future__ import annotations

import pytest

from anubis.errors import LocalFailure
from anubis.lab.slowness import stretched


def test_a_real_machine_needs_no_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable a second is a second."""
    monkeypatch.delenv("ANUBIS_LAB_SLOWNESS", raising=False)
    assert stretched(20.0) == 20.0


def test_a_slow_machine_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is the factor."""
    monkeypatch.setenv("ANUBIS_LAB_SLOWNESS", "12")
    assert stretched(20.0) == 240.0


@pytest.mark.parametrize("text", ["", "slow", "0.5", "-1", "inf", "nan"])
def test_what_is_no_factor_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A machine is not faster than a real one, and no deadline is taken away."""
    monkeypatch.setenv("ANUBIS_LAB_SLOWNESS", text)
    with pytest.raises(LocalFailure, match=r"ANUBIS_LAB_SLOWNESS is .*, not a number of 1 or more"):
        stretched(20.0)
