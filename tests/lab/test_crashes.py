"""A daemon is killed at every await point of what it does; the next start mends what it left.

Each operation is done once to write down its points, then once for each, dying there. The whole lab
is then compared with the states that are allowed: everything up at both ends, or nothing anywhere.

By default each place is died at once: each chain of waiting lines, at its first suspension.
ANUBIS_CRASHES=all dies at all points: every suspension, and every resumption.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from anubis.lab.lab import Lab
from tests.lab.crashes import Mortal, Walk, World, mortal, world
from tests.lab.steps import DAEMONS, client, end_all

Say = Callable[[str], None]
ALL = os.environ.get("ANUBIS_CRASHES") == "all"


@pytest.fixture
def say(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Say:
    """Print a line though pytest captures what is printed."""

    def line(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{request.node.name}: {text} ")

    return line


@pytest.fixture(scope="module")
def mortals(lab: Lab) -> Iterator[dict[str, Mortal]]:
    """Have daemons that die where they are told."""
    with ExitStack() as stack:
        yield {host: stack.enter_context(mortal(lab, host)) for host in DAEMONS}


@pytest.fixture(scope="module")
def worlds(lab: Lab, mortals: dict[str, Mortal]) -> dict[str, World]:
    """Return how the lab looks with nothing up, and with each connection of xena."""
    xena = client(lab, "xena")
    found = {}
    for name in ("jacinth", "surya"):
        xena.up(name)
        found[name] = world(lab, DAEMONS)
        xena.down(name)
    return {"nothing": world(lab, DAEMONS), **found}


def chosen(points: list[str]) -> list[str]:
    """Return the points to die at: all, or each place once."""
    if ALL:
        return points
    return [point for point in points if point.endswith(" #1") and not point.startswith("resumes")]


def walk(say: Say, one: Walk) -> None:
    """Walk an operation; nothing may be wrong after any crash."""
    points = one.points()
    one.run(chosen(points))
    say(f"{one.survived} crashes of {one.victim.host}, of {len(points)} points")
    assert not one.failed, "\n\n".join(f"{point}:\n{wrong}" for point, wrong in one.failed.items())
    assert one.survived >= 0.8 * len(chosen(points)), one.missed


class Scene:
    """What the operations are made of."""

    def __init__(self, lab: Lab, mortals: dict[str, Mortal], worlds: dict[str, World]) -> None:
        self.lab, self.mortals, self.worlds = lab, mortals, worlds
        self.xena = client(lab, "xena")

    def nothing(self) -> None:
        """Have nothing up, and every daemon running."""
        end_all(self.lab)

    def of(self, *names: str) -> dict[str, World]:
        """Return some of the worlds."""
        return {name: self.worlds[name] for name in names}


@pytest.fixture(scope="module")
def scene(lab: Lab, mortals: dict[str, Mortal], worlds: dict[str, World]) -> Scene:
    """Return the pieces of operations."""
    return Scene(lab, mortals, worlds)


@pytest.mark.parametrize("victim", ["xena"])
def test_up(scene: Scene, victim: str, say: Say) -> None:
    """Of an `up` in which one end dies comes a whole connection or none, at both ends."""
    one = Walk(
        scene.lab,
        scene.mortals[victim],
        scene.nothing,
        lambda: scene.xena.up("jacinth"),
        scene.of("nothing", "jacinth"),
    )
    walk(say, one)
