"""A daemon is killed at every await point of what it does; the next start mends what it left.

Each operation is done once to write down its points, then once for each, dying there. The whole lab
is then compared with the states that are allowed: everything up at both ends, or nothing anywhere.

ANUBIS_CRASHES=chains is quicker: it dies once at each chain of waiting lines, at its first
suspension.
"""

from __future__ import annotations

import os

import pytest

from anubis.wireguard.keys import PrivateKey
from tests.lab.conftest import Say
from tests.lab.crashes import Crashes
from tests.lab.steps import LEAF, Ping
from tests.lab.walks import Scene, difference

ONCE_A_CHAIN = os.environ.get("ANUBIS_CRASHES") == "chains"
pytestmark = pytest.mark.timeout(1200)


def chosen(points: list[str]) -> list[str]:
    """Return the points to die at: all, or each chain once."""
    if ONCE_A_CHAIN:
        return [p for p in points if p.endswith(" #1") and not p.startswith("resumes")]
    return points


def walk(say: Say, one: Crashes) -> None:
    """Walk an operation; nothing may be wrong after any crash.

    What a daemon does beside it, such as writing its history, comes into one run and not into the
    next: it is died of as well, if it comes again. But what two runs pass has to be met.
    """
    points = one.places()
    steady = set(chosen(points)) & set(one.places())
    one.run(chosen(points))
    say(f"{one.tried} crashes of {one.victim.host}, of {len(points)} points")
    assert not one.failed, "\n\n".join(f"{point}:\n{wrong}" for point, wrong in one.failed.items())
    assert len(steady & set(one.missed)) <= 0.2 * len(steady), one.missed
    assert steady, "no two runs have anything in common"


@pytest.mark.parametrize("victim", ["xena", "jacinth"])
def test_up(scene: Scene, victim: str, say: Say) -> None:
    """Of an `up` in which one end dies comes a whole connection or none, at both ends."""
    one = Crashes(
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
    one = Crashes(
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
    walk(say, scene.switch(Crashes, victim))


@pytest.mark.parametrize("victim", ["xena", "jacinth"])
def test_renew(scene: Scene, victim: str, say: Say) -> None:
    """A renewal in which one end dies leaves the connection up, and not a packet is lost."""
    scene.connected()
    with Ping(scene.lab, "xena", LEAF[4]) as ping:
        one = Crashes(
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
    with Ping(scene.lab, "xena", LEAF[4]) as ping:
        walk(say, scene.start_with_a_connection(Crashes, victim, ping.outages))


def test_start(scene: Scene, say: Say) -> None:
    """A daemon that dies before it is ready leaves nothing that the next start cannot use."""
    scene.nothing()
    walk(say, scene.start(Crashes))


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
