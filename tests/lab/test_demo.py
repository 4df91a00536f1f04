"""`make demo` tells the truth, or fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anubis import demo
from anubis.lab.scene import scene
from anubis.lab.topology import File, Topology


def labs_of(process: int) -> list[Path]:
    """Return what a demo of this process has left in /run."""
    return list(Path("/run").glob(f"anubis-lab-demo-{process}*"))


def test_the_story_is_true() -> None:
    """Every step of the demo comes true within a minute, and its lab is gone afterwards."""
    told = subprocess.Popen(
        [sys.executable, "-m", "anubis.demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    with told:
        story, _ = told.communicate(timeout=60)
    assert told.returncode == 0, story
    chapters = [line[0] for line in story.splitlines() if line[:1].isdigit()]
    assert chapters == ["1", "2", "3", "4", "5", "6"]
    assert "\x1b" not in story
    assert labs_of(told.pid) == []


def _deaf_surya() -> Topology:
    return scene().with_file("surya", File("/etc/anubis/authorized_peers", ""))


def _open_hotel() -> Topology:
    """Give the hotel a way into the house, so that it is in reach without a tunnel."""
    whole = scene()
    way = "192.168.7.0/24 via 203.0.113.1"
    return whole.change("hotel", routes=(*whole.host("hotel").routes, way))


@pytest.mark.parametrize(
    ("topology", "untold"),
    [(_deaf_surya, "anubis switch surya: exit status"), (_open_hotel, "IPv4: no way there")],
)
def test_a_story_that_is_not_true_fails(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    topology: Callable[[], Topology],
    untold: str,
) -> None:
    """The first step that is not as told ends the demo with its name and exit status 1."""
    monkeypatch.setattr(demo, "scene", topology)
    assert demo.main() == 1
    assert f"anubis: error: not as told: {untold}" in capfd.readouterr().err
    assert labs_of(os.getpid()) == []
