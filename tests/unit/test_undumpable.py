"""The memory of a daemon that dies is written nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_CORES_WANTED = """
import ctypes, os, resource
_, most = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
from anubis.daemon.undumpable import become_undumpable
"""
_PR_GET_DUMPABLE = 3  # linux/prctl.h


def run(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a directory, with as large a core file as it may have."""
    return subprocess.run(
        [sys.executable, "-c", _CORES_WANTED + script],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    """Where the same crash without the protection leaves one, if this machine keeps cores here."""
    died = run(tmp_path, "become_undumpable(); os.abort()")
    assert died.returncode < 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "script",
    [
        "become_undumpable(); ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)",  # PR_SET_DUMPABLE
        "resource.setrlimit = lambda *_: None; become_undumpable()",
    ],
    ids=["limit", "undumpable"],
)
def test_each_protection_suffices(tmp_path: Path, script: str) -> None:
    """Should one of the two be lost, the other one still holds."""
    died = run(tmp_path, f"{script}; os.abort()")
    assert died.returncode < 0
    assert list(tmp_path.iterdir()) == []


def test_children_inherit_the_limit(tmp_path: Path) -> None:
    """A program that the daemon starts leaves no core either, not even through a pipe."""
    limits = run(tmp_path, "become_undumpable(); os.execlp('cat', 'cat', '/proc/self/limits')")
    (line,) = [line for line in limits.stdout.splitlines() if line.startswith("Max core")]
    assert line.split()[4:6] == ["1", "1"]


def test_nobody_of_the_same_user_may_look(tmp_path: Path) -> None:
    """The process is not dumpable, which is what ptrace and /proc/PID/mem ask for."""
    asked = run(
        tmp_path,
        f"become_undumpable(); print(ctypes.CDLL(None).prctl({_PR_GET_DUMPABLE}, 0, 0, 0, 0))",
    )
    assert asked.stdout == "0\n"
