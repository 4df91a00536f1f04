"""Ten thousand times up and down: nothing piles up, at either end.

Fifty initiators come and go at jacinth as fast as its budgets let them, each with a packet through
its tunnel; xena, with a daemon, does so beside them. What the two daemons hold is counted when they
are warm, and at the end.

ANUBIS_SOAK=100000 makes it so many times.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from anubis.lab.lab import Lab
from anubis.lab.scene import scene
from tests.lab.conftest import MakeLab
from tests.lab.crowd import Guest, Identity, crowd, with_crowd
from tests.lab.holdings import Holdings, count_holdings, counted
from tests.lab.hostile import differences
from tests.lab.steps import client

CYCLES = int(os.environ.get("ANUBIS_SOAK", "10000"))  # of the crowd, a multiple of 1,000
GUESTS = 50
# jacinth lets one peer change its connection 10 times a second, and all together 100 times. So the
# parts before and after the first count take both about as long.
OF_XENA = CYCLES // 20
# Cycles before the first count: so many that the history of each guest is full by then.
WARM = {"jacinth": CYCLES // 4, "xena": 2 * OF_XENA // 5}
MEASURED = {"jacinth": CYCLES - WARM["jacinth"], "xena": OF_XENA - WARM["xena"]}
DAEMONS = tuple(WARM)
TIMEOUT = 60.0  # seconds of one change of xena's

# What is kept of something that happens rarely, and only once.
LATE = 200  # objects
LATE_BYTES = 64 << 10  # of larger things, each of which has more than 512
MARGIN = 8 << 20  # bytes by which allocators and pages let a process grow that keeps nothing
# Twice 53 records and 1,024 superseded ones, of 48 bytes.
WATERMARKS = 48 * (2 * (GUESTS + 3) + 1024)

pytestmark = pytest.mark.timeout(300 + CYCLES // 5)

Say = Callable[[str], None]


@pytest.fixture
def say(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Say:
    """Print a line though pytest captures what is printed."""

    def line(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{request.node.name}: {text} ")

    return line


@dataclass(frozen=True, slots=True)
class Soaked:
    """What a daemon held before and after so many cycles."""

    cycles: int
    before: Holdings
    after: Holdings
    seconds: float  # from one to the other


@pytest.fixture(scope="module")
def soaked(make_lab: MakeLab) -> dict[str, Soaked]:
    """Soak both ends, and return what they hold."""
    identities = [Identity.new(number) for number in range(GUESTS)]
    lab = make_lab(with_crowd(scene(), identities))
    for host in DAEMONS:
        count_holdings(lab, host)
    return asyncio.run(soak(lab, identities))


async def soak(lab: Lab, identities: list[Identity]) -> dict[str, Soaked]:
    """Go through all cycles, and look twice."""
    idle = {host: counted(lab, host).tasks for host in DAEMONS}
    async with crowd(lab, identities) as guests:
        await cycles(lab, guests, WARM)
        before = {host: counted(lab, host, idle[host]) for host in DAEMONS}
        begin = time.monotonic()
        await cycles(lab, guests, MEASURED)
        seconds = time.monotonic() - begin
        after = {host: counted(lab, host, idle[host]) for host in DAEMONS}
    return {host: Soaked(MEASURED[host], before[host], after[host], seconds) for host in DAEMONS}


async def cycles(lab: Lab, guests: list[Guest], number: dict[str, int]) -> None:
    """Have the whole crowd, and xena beside them, go up and down so many times."""

    async def of_guest(guest: Guest) -> None:
        for _ in range(number["jacinth"] // len(guests)):
            await guest.cycle()

    def of_xena() -> None:
        xena = client(lab, "xena")
        for _ in range(number["xena"]):
            for change in (xena.up, xena.down):
                assert change("jacinth", timeout_seconds=TIMEOUT).result == "done"

    await asyncio.gather(asyncio.to_thread(of_xena), *map(of_guest, guests))


@pytest.mark.parametrize("host", DAEMONS)
def test_the_network_is_what_it_was(soaked: dict[str, Soaked], host: str, say: Say) -> None:
    """Rules, routes, links, nftables and WireGuard's peers: the same lines, and no more."""
    one = soaked[host]
    assert differences(one.before.network, one.after.network) == []
    say(", ".join(f"{count} {what}" for what, count in one.after.counts().items()))


@pytest.mark.parametrize("host", DAEMONS)
def test_no_descriptor_thread_or_task_is_left(
    soaked: dict[str, Soaked], host: str, say: Say
) -> None:
    """The daemon has as many of each as before."""
    before, after = soaked[host].before, soaked[host].after
    assert after.descriptors == before.descriptors
    assert after.threads == before.threads
    assert after.tasks == before.tasks
    say(f"{after.descriptors} descriptors, {after.threads} threads, {after.tasks} tasks")


@pytest.mark.parametrize("host", DAEMONS)
def test_memory_does_not_grow(soaked: dict[str, Soaked], host: str, say: Say) -> None:
    """Of ten cycles not one object is kept, and of each less than 100 bytes of what is larger.

    What the process has from the kernel grows no further than allocators and pages explain.
    """
    one = soaked[host]
    blocks = one.after.blocks - one.before.blocks
    allocated = one.after.allocated - one.before.allocated
    resident = one.after.resident - one.before.resident
    say(
        f"{one.cycles} cycles in {one.seconds:.0f} s: {blocks:+} objects of"
        f" {one.before.blocks}, {allocated:+} bytes of {one.before.allocated} beside them,"
        f" {resident // 1024:+} KiB resident of {one.before.resident // 1024}"
    )
    assert blocks < LATE + one.cycles / 10
    assert allocated < LATE_BYTES + 100 * one.cycles
    assert resident < MARGIN


@pytest.mark.parametrize("host", DAEMONS)
def test_wireguard_does_not_grow(soaked: dict[str, Soaked], host: str, say: Say) -> None:
    """No peer and no interface is left in the processes that serve the daemon's interfaces."""
    before, after = soaked[host].before.wireguard, soaked[host].after.wireguard
    assert after.keys() == before.keys()
    growth = {name: after[name] - before[name] for name in before}
    assert max(growth.values()) < MARGIN
    say(", ".join(f"{name} {grown // 1024:+} KiB" for name, grown in growth.items()))


@pytest.mark.parametrize("host", DAEMONS)
def test_files_do_not_grow(soaked: dict[str, Soaked], host: str, say: Say) -> None:
    """The state file says the same, and the watermarks are written anew before there are many."""
    one = soaked[host]
    assert {**json.loads(one.after.state), "heard": []} == {
        **json.loads(one.before.state),
        "heard": [],
    }
    assert one.after.watermarks <= WATERMARKS
    say(f"{len(one.after.state)} bytes of state, {one.after.watermarks} of watermarks")
