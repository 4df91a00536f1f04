"""Log lines are one line each, whatever a stranger put into the values."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from anubis.daemon.log import Throttle, event, set_up


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what was logged, line by line."""
    return capsys.readouterr().err.splitlines()


@pytest.fixture
def _lines_for_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have standard error lead to the journal."""
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")


@pytest.mark.usefixtures("_lines_for_the_journal")
def test_an_event_is_a_name_and_fields(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """For the journal the priority stands in front and the time is left out."""
    set_up(debug=False, journal=tmp_path / "nobody")
    event(logging.WARNING, "refused", peer="xena", reason="no such thing", left_out=None)
    assert lines(capsys) == ['<4>refused peer=xena reason="no such thing"']


def test_for_anybody_else_the_time_and_the_level_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a parent's standard error, but not ours, goes to the journal."""
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    set_up(debug=False)
    event(logging.WARNING, "refused", peer="xena")
    (line,) = lines(capsys)
    assert line.endswith(" WARNING refused peer=xena")
    assert line[:2] == "20"


@pytest.mark.usefixtures("_lines_for_the_journal")
def test_a_value_cannot_forge_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Line breaks, quotes and escape sequences are written out, not obeyed."""
    set_up(debug=False, journal=tmp_path / "nobody")
    event(logging.INFO, "down", reason='bye"\nup connection=forged\x1b[2J')
    (line,) = lines(capsys)
    assert "\x1b" not in line
    assert line.startswith('<6>down reason="bye\\"\\n')


def test_debug_lines_need_debug(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --debug, details are left out."""
    set_up(debug=False)
    event(logging.DEBUG, "detail")
    assert lines(capsys) == []
    set_up(debug=True)
    event(logging.DEBUG, "detail")
    assert len(lines(capsys)) == 1


def test_a_flood_is_a_line_a_second() -> None:
    """Of one kind, one passes in a second, and the next one tells how many did not."""
    throttle = Throttle()
    passed = [throttle.passes("dropped", now=i / 100) for i in range(101)]
    assert [kept for kept in passed if kept is not None] == [0, 99]


def test_kinds_do_not_hide_each_other() -> None:
    """A flood of one kind keeps no other back."""
    throttle = Throttle()
    throttle.passes("dropped", 0.0)
    assert throttle.passes("refused", 0.0) == 0


def test_the_throttle_is_bounded() -> None:
    """A million kinds do not fill the memory."""
    throttle = Throttle(max_kinds=10)
    for number in range(1000):
        throttle.passes(f"kind {number}", 0.0)
        throttle.passes(f"kind {number}", 0.0)
    assert len(throttle._last) <= 10
    assert len(throttle._kept) <= 10
