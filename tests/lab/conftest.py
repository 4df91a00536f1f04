"""Labs for tests: each of its own, and gone afterwards whatever happened.

They are tethered to the test process, so that even its violent end leaves nothing.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

import pytest

from anubis.lab.lab import Lab
from anubis.lab.scene import scene as whole_scene
from anubis.lab.topology import Topology
from tests.lab.steps import DAEMONS, client, end_all, left_over, states, unwatched
from tests.lab.walks import Mortal, Scene, World, mortal, world

MakeLab = Callable[[Topology], Lab]
Say = Callable[[str], None]

_LOG_LINES = 60
_numbers = itertools.count()


def new_directory() -> Path:
    """Return a state directory that no other lab uses."""
    return Path(f"/run/anubis-lab-test-{os.getpid()}-{next(_numbers)}")


def _lab_scope(fixture_name: str, config: pytest.Config) -> Literal["session", "module"]:
    return "session" if config.getoption("--kernel") else "module"


@pytest.fixture(scope=_lab_scope)
def make_lab() -> Iterator[MakeLab]:
    """Bring up labs of any topology; all are removed at the end, usually of the module."""
    with ExitStack() as labs:

        def make(topology: Topology) -> Lab:
            lab = Lab(new_directory())
            labs.callback(lab.down)
            lab.up(topology, tethered=True)
            return lab

        yield make


@pytest.fixture(scope=_lab_scope)
def lab(make_lab: MakeLab) -> Lab:
    """Bring up the whole scene, daemons included, which reload when a test says so."""
    return make_lab(unwatched(whole_scene()))


@pytest.fixture(scope="module")
def quiet_lab(make_lab: MakeLab) -> Lab:
    """Bring up the scene without daemons."""
    return make_lab(whole_scene().without_daemons())


@pytest.fixture(autouse=True)
def no_other_wireguard(request: pytest.FixtureRequest) -> Iterator[None]:
    """See that no wireguard-go runs, where all tunnels have to be the kernel's.

    It would be there after a test that had needed it: it ends with its interface.
    """
    yield
    if request.config.getoption("--kernel"):
        assert userspace_programs() == []


def userspace_programs() -> list[int]:
    """Return all processes of this machine that are wireguard-go."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if (process / "comm").read_text() == "wireguard-go\n":
                found.append(int(process.name))
    return found


@pytest.fixture(scope="module")
def before(lab: Lab) -> dict[str, str]:
    """Return the state of every host that runs Anubis, while nothing is up."""
    return states(lab)


@pytest.fixture
def everything_as_before(lab: Lab, before: dict[str, str]) -> Iterator[None]:
    """See after the test that nothing is left of it, at any end."""
    yield
    end_all(lab)
    assert left_over(lab, before) == []


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a state directory for a lab that the test handles itself; it is removed afterwards."""
    path = new_directory()
    yield path
    Lab(path).down()


@pytest.fixture(scope="module")
def artefacts() -> Path:
    """Give the directory in which pictures are left, to be looked at."""
    directory = Path(__file__).parents[2] / ".artefacts"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture
def say(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Say:
    """Print a line though pytest captures what is printed."""

    def line(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{request.node.name}: {text} ")

    return line


@pytest.fixture(scope="module")
def mortals(lab: Lab) -> Iterator[dict[str, Mortal]]:
    """Have daemons that do to themselves what they are told (`crashing`)."""
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


@pytest.fixture(scope="module")
def scene(lab: Lab, mortals: dict[str, Mortal], worlds: dict[str, World]) -> Scene:
    """Return the pieces of the operations that are disturbed."""
    return Scene(lab, mortals, worlds)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the daemons said when a test of theirs failed."""
    report = yield
    labs = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Lab)]
    if report.failed:
        for found in labs:
            for log in sorted(found.state.path.glob("*.log")):
                lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                report.sections.append((f"log of {log.stem}", "\n".join(lines)))
    return report
