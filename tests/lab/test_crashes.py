"""A daemon is killed at every await point of what it does; the next start mends what it left.

Each operation is done once to write down its points, then once for each, dying there. The whole lab
is then compared with the states that are allowed: everything up at both ends, or nothing anywhere.

By default each place is died at once: each chain of waiting lines, at its first suspension.
ANUBIS_CRASHES=all dies at all points: every suspension, and every resumption.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from anubis.wireguard.keys import PrivateKey
from tests.lab.crashes import Mortal, Walk, World, difference, mortal, world
from tests.lab.steps import DAEMONS, LEAF, Ping, client, end_all

Say = Callable[[str], None]
ALL = os.environ.get("ANUBIS_CRASHES") == "all"
pytestmark = pytest.mark.timeout(3600 if ALL else 400)
_RENEWED_SECONDS = 15


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

    def connected(self, name: str = "jacinth") -> None:
        """Have this one up, and no other."""
        up = [each.name for each in self.xena.status() if each.state == "up"]
        if up != [name]:
            end_all(self.lab)
            self.xena.up(name)

    def renew(self) -> None:
        """Have xena renew its connection with jacinth."""
        xena = self.mortals["xena"]
        xena.daemon.kill()
        xena.await_end()
        xena.hasten("jacinth")
        xena.start()
        wait_until(lambda: xena.renew_at("jacinth") > 0, _RENEWED_SECONDS, "it is renewed")

    def of(self, *names: str, without: Collection[str] = ("surya",)) -> dict[str, World]:
        """Return some of the worlds, without the hosts that have no part in it."""
        return {
            name: {host: seen for host, seen in self.worlds[name].items() if host not in without}
            for name in names
        }


@pytest.fixture(scope="module")
def scene(lab: Lab, mortals: dict[str, Mortal], worlds: dict[str, World]) -> Scene:
    """Return the pieces of operations."""
    return Scene(lab, mortals, worlds)


@pytest.mark.parametrize("victim", ["xena", "jacinth"])
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


@pytest.mark.parametrize("victim", ["xena", "jacinth"])
def test_down(scene: Scene, victim: str, say: Say) -> None:
    """Of a `down` in which one end dies comes the same."""
    one = Walk(
        scene.lab,
        scene.mortals[victim],
        scene.connected,
        lambda: scene.xena.down("jacinth"),
        scene.of("nothing", "jacinth"),
    )
    walk(say, one)


@pytest.mark.parametrize("victim", ["xena", "jacinth", "surya"])
def test_switch(scene: Scene, victim: str, say: Say) -> None:
    """Of a `switch` in which one of three dies comes the old connection, or the new one."""
    one = Walk(
        scene.lab,
        scene.mortals[victim],
        scene.connected,
        lambda: scene.xena.switch("surya"),
        scene.of("jacinth", "surya", without=()),
    )
    walk(say, one)


@pytest.mark.parametrize("victim", ["xena", "jacinth"])
def test_renew(scene: Scene, victim: str, say: Say) -> None:
    """A renewal in which one end dies leaves the connection up, and not a packet is lost."""
    scene.connected()
    with Ping(scene.lab, "xena", LEAF[4]) as ping:
        one = Walk(
            scene.lab,
            scene.mortals[victim],
            scene.connected,
            scene.renew,
            scene.of("jacinth"),
            counts=lambda point: "_renew" in point or victim != "xena",
            cut=ping.outages,
        )
        walk(say, one)


@pytest.mark.parametrize("victim", ["xena", "jacinth"])
def test_start_with_a_connection(scene: Scene, victim: str, say: Say) -> None:
    """A daemon that dies while it takes up a connection leaves it up, and not a packet is lost."""
    scene.connected()
    dying = scene.mortals[victim]
    with Ping(scene.lab, "xena", LEAF[4]) as ping:
        one = Walk(
            scene.lab, dying, dying.daemon.kill, dying.start, scene.of("jacinth"), cut=ping.outages
        )
        walk(say, one)


def test_start(scene: Scene, say: Say) -> None:
    """A daemon that dies before it is ready leaves nothing that the next start cannot use."""
    scene.nothing()
    dying = scene.mortals["xena"]
    one = Walk(
        scene.lab,
        dying,
        dying.daemon.stop,
        dying.start,
        scene.of("nothing", without=("jacinth", "surya")),
    )
    walk(say, one)


def test_a_connection_that_cannot_be_taken_up_is_let_go(scene: Scene) -> None:
    """When a stranger has its networks by then, the daemon starts all the same, and says so."""
    scene.connected()
    xena = scene.mortals["xena"]
    xena.daemon.kill()
    stranger = str(PrivateKey.generate(os.urandom).public_key())
    wg = ("wg", "set", "wg0", "peer", stranger)
    scene.lab.run("xena", *wg, "allowed-ips", "192.168.7.0/24", check=True)
    known = len(xena.daemon.log)
    xena.start()
    assert "not_taken_up connection=jacinth" in xena.daemon.log[known:]
    assert stranger in xena.daemon.log[known:]
    scene.lab.run("xena", *wg, "remove", check=True)
    assert difference(scene.lab, scene.of("nothing")) == ""
