"""Every call that the daemon makes to its host is made to fail: nothing stays half done.

Each operation is done once to write down the calls to WireGuard, netlink, nftables and `/proc/sys`,
then once for each, which fails. The whole lab is then compared with the states that are allowed,
and what the caller was told is read. Each walk is done with calls that fail once, by default; the
last tests have them fail for as long as the operation takes, its undoing included.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import pytest

from anubis.lab.lab import Lab
from anubis.lab.scene import scene as whole_scene
from tests.lab.conftest import MakeLab, Say
from tests.lab.faults import Faults
from tests.lab.steps import AUTHORIZED_PEERS, LEAF, Ping
from tests.lab.walks import Scene

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Lab:
    """Bring up the scene; surya is the way to everywhere, which takes nftables and `/proc/sys`."""
    own = "fd66::2/128"
    return make_lab(whole_scene().edit("xena", AUTHORIZED_PEERS, own, f"{own}, 0.0.0.0/0, ::/0"))


def once(calls: Sequence[str]) -> Sequence[str]:
    """Have each call fail by itself."""
    return calls


def first(calls: Sequence[str]) -> Sequence[str]:
    """Have the first call of each name fail by itself."""
    return tuple(call for call in calls if call.endswith(" #1"))


def again_and_again(calls: Sequence[str]) -> Sequence[str]:
    """Have all calls of one name fail, also those that undo."""
    return tuple(dict.fromkeys(call.rpartition(" #")[0] for call in calls))


def walk(
    say: Say,
    one: Faults,
    chosen: Callable[[Sequence[str]], Sequence[str]] = once,
    at_least: float = 0.8,
) -> None:
    """Walk an operation; nothing may be wrong after any failure.

    Not all calls are made each time: how often the daemon polls varies, and when its guard looks.
    """
    calls = chosen(one.places())
    one.run(calls)
    say(f"{one.tried} failures at {one.victim.host}, of {one.told} the caller was told")
    assert not one.failed, "\n\n".join(f"{call}:\n{wrong}" for call, wrong in one.failed.items())
    assert one.tried >= at_least * len(calls), one.missed


def an_up(scene: Scene, victim: str, number: int = errno.ENOBUFS) -> Faults:
    """Return the failures of an `up`, of which comes a whole connection or none."""
    return Faults(
        scene.lab,
        scene.mortals[victim],
        scene.nothing,
        lambda: scene.xena.up("surya"),
        scene.of("nothing", "surya", without=("jacinth",)),
        number=number,
    )


def a_down(scene: Scene, victim: str) -> Faults:
    """Return the failures of a `down`, of which nothing remains."""
    return Faults(
        scene.lab,
        scene.mortals[victim],
        lambda: scene.connected("surya"),
        lambda: scene.xena.down("surya"),
        scene.of("nothing", without=("jacinth",)),
    )


@pytest.mark.parametrize("victim", ["xena", "surya"])
def test_up(scene: Scene, victim: str, say: Say) -> None:
    """An `up` in which a call fails is undone at both ends, or done all the same."""
    walk(say, an_up(scene, victim))


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENODEV], ids=["EPERM", "ENODEV"])
def test_up_with_another_reason(scene: Scene, number: int, say: Say) -> None:
    """So it is with the errors that are told apart: no permission, no such interface."""
    walk(say, an_up(scene, "xena", number), first)


@pytest.mark.parametrize("victim", ["xena", "surya"])
def test_down(scene: Scene, victim: str, say: Say) -> None:
    """A `down` takes away all the rest, and then what failed; both ends agree."""
    walk(say, a_down(scene, victim))


@pytest.mark.parametrize("victim", ["xena", "jacinth", "surya"])
def test_switch(scene: Scene, victim: str, say: Say) -> None:
    """A `switch` in which a call fails leaves the old connection or the new one."""
    walk(say, scene.switch(Faults, victim))


@pytest.mark.parametrize("victim", ["xena", "jacinth"])
def test_renew(scene: Scene, victim: str, say: Say) -> None:
    """A renewal in which a call fails leaves the connection up, and not a packet is lost."""
    scene.connected()
    with Ping(scene.lab, "xena", LEAF[4]) as ping:
        one = Faults(
            scene.lab,
            scene.mortals[victim],
            scene.about_to_renew,
            scene.await_renewal,
            scene.of("jacinth"),
            cut=ping.outages,
        )
        walk(say, one, at_least=0.5)


def test_start(scene: Scene, say: Say) -> None:
    """A daemon that cannot start leaves nothing behind, and says why; the next one can."""
    scene.nothing()
    walk(say, scene.start(Faults))


def test_start_with_a_connection(scene: Scene, say: Say) -> None:
    """One that cannot take up a connection leaves it up for the next, and no packet is lost."""
    scene.connected()
    with Ping(scene.lab, "xena", LEAF[4]) as ping:
        walk(say, scene.start_with_a_connection(Faults, "xena", ping.outages))


@pytest.mark.parametrize("victim", ["xena", "surya"])
def test_up_with_calls_that_fail_again_and_again(scene: Scene, victim: str, say: Say) -> None:
    """What cannot be undone either is undone as soon as it can be."""
    walk(say, an_up(scene, victim), again_and_again)


@pytest.mark.parametrize("victim", ["xena", "surya"])
def test_down_with_calls_that_fail_again_and_again(scene: Scene, victim: str, say: Say) -> None:
    """What cannot be taken away is taken away as soon as it can be, and both ends agree."""
    walk(say, a_down(scene, victim), again_and_again)


def test_the_command_line_says_it_once(scene: Scene) -> None:
    """A person who types `up` reads one line with what failed and why, and one with what to do."""
    scene.nothing()
    scene.mortals["xena"].plan(fail="netlink: add the IPv4 rule 21440", errno=errno.ENOBUFS)
    run = scene.lab.run("xena", "anubis", "up", "surya")
    scene.mortals["xena"].plan()
    assert (run.returncode, run.stdout) == (4, "")
    assert run.stderr.splitlines() == [
        "anubis: error: cannot add the IPv4 rule 21440: No buffer space available",
        "anubis: hint: this host is short of memory: free some, then try again",
    ]
