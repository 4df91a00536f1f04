"""The files for systemd are what systemd understands."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"


def tool(name: str) -> str:
    """Return the path of one of systemd's tools, or fail and say what is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed (package systemd)")
    return path


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing to say about the unit."""
    program = tmp_path / "usr/bin/anubisd"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    text = (UNITS / "anubis.service").read_text()
    assert "ExecStart=/usr/bin/anubisd\n" in text
    unit = tmp_path / "anubis.service"
    unit.write_text(text.replace("=/usr/bin/anubisd", f"={program}"))
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_group_is_made(tmp_path: Path) -> None:
    """`systemd-sysusers` would make the group of those who may change things."""
    done = subprocess.run(
        [
            tool("systemd-sysusers"),
            f"--root={tmp_path}",
            "--dry-run",
            "--inline",
            (UNITS / "anubis.sysusers").read_text().splitlines()[-1],
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "anubis" in done.stdout + done.stderr
