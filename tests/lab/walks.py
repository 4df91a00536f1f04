"""Walk through all places of an operation where something can go wrong, and see what comes of it.

Owns the walk: one operation again and again, each time disturbed at one more place, and a
comparison of the whole lab with the states that it may be in; and the pieces that operations are
made of. Refuses to know how they are disturbed (`crashes`, `failures`) and how a daemon comes to
do that to itself (`crashing`).
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from anubis.errors import LocalFailure
from anubis.lab.lab import Lab
from anubis.lab.observe import snapshot, wait_until
from tests.lab import crashing
from tests.lab.steps import client, end_all

__all__ = ["DEAD_SECONDS", "Mortal", "Scene", "Walk", "World", "difference", "mortal", "world"]

DEAD_SECONDS = 10.0
_RENEWED_SECONDS = 15.0
_NOTICE_SECONDS = 2.0  # between the start of a daemon and what it is watched at
_ROUNDS = 2  # how often a daemon polls varies, and with it what it comes to
_AGREED_SECONDS = 15.0  # longer than a session lives that nobody uses (`silence`)
World = Mapping[str, str]  # what the tools say of each host


class Mortal:
    """The daemon of one host, which dies where a plan says."""

    def __init__(self, lab: Lab, host: str, mother: subprocess.Popen[str]) -> None:
        self.host = host
        self.daemon = lab.daemon(host)
        self._mother = mother
        self._lock = lab.path(host, "/run/anubis/lock")
        self._state = lab.path(host, "/run/anubis/state.json")
        self._plan = lab.path(host, str(crashing.PLAN))
        self._points = lab.path(host, str(crashing.POINTS))

    def start(self) -> None:
        """Start it, and wait until it is ready. Raises DaemonFailed."""
        self.fork()
        self.daemon.await_ready()

    def fork(self) -> None:
        """Start it, when the one before is dead and buried."""
        self.await_end()
        assert self._mother.stdin is not None
        assert self._mother.stdout is not None
        self._mother.stdin.write("start\n")
        self._mother.stdin.flush()
        assert self._mother.stdout.readline() == "started\n"

    def await_end(self) -> None:
        """Wait until it is dead and buried."""
        wait_until(self._is_free, DEAD_SECONDS, f"the daemon of {self.host} has ended")

    def _is_free(self) -> bool:
        if self.daemon.process is not None:
            return False
        # A process that is being ended has no command line any more, and still its locks.
        with self._lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def plan(self, **plan: object) -> None:
        """Say what it does with the points that it passes from now on."""
        self._points.write_text("")
        new = self._plan.with_suffix(".new")
        new.write_text(json.dumps(plan))
        new.replace(self._plan)

    def renew_at(self, name: str) -> float:
        """Return when a connection is to be renewed, by the clock of leases."""
        (found,) = (
            c for c in json.loads(self._state.read_text())["connections"] if c["name"] == name
        )
        return float(found["renew_at"])

    def hasten(self, name: str, renew_at: float = 0.0) -> None:
        """Have a connection renewed at a time, or at once; the daemon must not run now."""
        state = json.loads(self._state.read_text())
        for connection in state["connections"]:
            if connection["name"] == name:
                connection["renew_at"] = renew_at
        self._state.write_text(json.dumps(state))

    def passed(self) -> list[str]:
        """Return the points of the plan that were passed."""
        return self._points.read_text().splitlines()


@contextmanager
def mortal(lab: Lab, host: str) -> Iterator[Mortal]:
    """Have a mortal daemon on a host instead of its own, which runs again afterwards."""
    lab.daemon(host).stop()
    with lab.state.log(host).open("a") as log:
        mother = lab.popen(
            host,
            *(sys.executable, "-m", "tests.lab.crashing", "anubis", "daemon"),
            stdin=subprocess.PIPE,
            stderr=log,
        )
    with mother:
        one = Mortal(lab, host, mother)
        one.plan()
        one.start()
        try:
            yield one
        finally:
            with suppress(LocalFailure):
                one.daemon.stop()
    lab.daemon(host).start()


def world(lab: Lab, hosts: Sequence[str]) -> World:
    """Return the state of these hosts, and of all programs that run WireGuard."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        found = dict(zip(hosts, pool.map(lambda host: snapshot(lab, host), hosts), strict=True))
    for host in hosts:
        links = json.loads(lab.run(host, "ip", "-json", "link").stdout)
        found[host] += "".join(sorted(f"mtu {each['ifname']} {each['mtu']}\n" for each in links))
    programs = lab.run(hosts[0], "ps", "-C", "wireguard-go", "-o", "args=").stdout
    found["programs"] = "\n".join(sorted(programs.splitlines()))
    return found


@dataclass
class Walk(ABC):
    """One operation, at one end of which something goes wrong at every place in turn.

    `begin` brings the lab to where the operation starts, `act` does it, `may_be` are the worlds
    that may come of it. `counts` tells the places of the operation from others, `cut` how a tunnel
    was interrupted that should not be.
    """

    kind: ClassVar[str]  # what is recorded
    lab: Lab
    victim: Mortal
    begin: Callable[[], object]
    act: Callable[[], object]
    may_be: Mapping[str, World]
    counts: Callable[[str], bool] = lambda _place: True
    cut: Callable[[], Sequence[object]] = tuple
    tried: int = 0
    missed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def places(self) -> list[str]:
        """Return the places that the operation passes when nothing goes wrong."""
        self.begin()
        self.victim.plan(record=self.kind)
        self.act()
        found = self.victim.passed()
        self.victim.plan()
        return [place for place in dict.fromkeys(found) if self.counts(place)]

    def run(self, places: Sequence[str]) -> None:
        """Disturb each; what an operation does not come to this time it may the next."""
        self.missed = list(places)
        for _ in range(_ROUNDS):
            self.missed = [place for place in self.missed if not self._reached(place)]

    def _reached(self, place: str) -> bool:
        """Try one; return whether the operation came to it."""
        self.begin()
        if not self.disturb(place):
            return False
        self.tried += 1
        wrong = difference(self.lab, self.may_be)
        if not wrong and self.cut():
            wrong = f"a running tunnel was cut: {self.cut()}"
        if wrong:
            self.fail(place, wrong)
        return True

    def fail(self, place: str, wrong: str) -> None:
        """Note what is wrong after a disturbance."""
        self.failed[place] = "\n".join(filter(None, [self.failed.get(place), wrong]))

    @abstractmethod
    def disturb(self, place: str) -> bool:
        """Do the operation; return whether it came to this place, and was disturbed there."""


def difference(lab: Lab, may_be: Mapping[str, World]) -> str:
    """Return what is wrong with the lab, or nothing as soon as it is as it may be."""
    hosts = [name for name in next(iter(may_be.values())) if name != "programs"]
    now: World = {}

    def agreed() -> bool:
        nonlocal now
        now = world(lab, hosts)
        return any(now == allowed for allowed in may_be.values())

    with suppress(LocalFailure):
        wait_until(agreed, _AGREED_SECONDS, "both ends agree")
        return ""
    return _difference(now, may_be)


def _difference(now: World, may_be: Mapping[str, World]) -> str:
    """Tell how a world differs from the one that it is nearest to."""
    found = {
        name: [
            f"{host}: {sign} {line}"
            for host in allowed
            for sign, one, other in (("+", now, allowed), ("-", allowed, now))
            for line in one[host].splitlines()
            if line not in other[host].splitlines()
        ]
        for name, allowed in may_be.items()
    }
    name = min(found, key=lambda name: len(found[name]))
    return f"not as when {name}\n" + "\n".join(found[name])


AnyWalk = TypeVar("AnyWalk", bound=Walk)


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

    def switch(self, walk: type[AnyWalk], victim: str) -> AnyWalk:
        """Return the walk of a `switch`, of which comes the old connection or the new one."""
        return walk(
            self.lab,
            self.mortals[victim],
            self.connected,
            lambda: self.xena.switch("surya"),
            self.of("jacinth", "surya", without=()),
        )

    def start(self, walk: type[AnyWalk]) -> AnyWalk:
        """Return the walk of a start of xena's daemon that has nothing to take up."""
        xena = self.mortals["xena"]
        nothing = self.of("nothing", without=("jacinth", "surya"))
        return walk(self.lab, xena, xena.daemon.stop, xena.start, nothing)

    def start_with_a_connection(
        self, walk: type[AnyWalk], victim: str, cut: Callable[[], Sequence[object]]
    ) -> AnyWalk:
        """Return the walk of a start that takes a connection up, which lives on all the while."""
        one = self.mortals[victim]
        up = self.of("jacinth")
        return walk(self.lab, one, one.daemon.kill, one.start, up, cut=cut)

    def renew(self) -> None:
        """Have xena renew its connection with jacinth."""
        xena = self.mortals["xena"]
        xena.daemon.kill()
        xena.await_end()
        xena.hasten("jacinth")
        xena.start()
        wait_until(lambda: xena.renew_at("jacinth") > 0, _RENEWED_SECONDS, "it is renewed")

    def about_to_renew(self) -> None:
        """Have the same connection up, and its renewal due in a moment."""
        self.connected()
        xena = self.mortals["xena"]
        xena.daemon.kill()
        xena.await_end()
        xena.hasten("jacinth", time.clock_gettime(time.CLOCK_BOOTTIME) + _NOTICE_SECONDS)
        xena.start()

    def await_renewal(self) -> None:
        """Wait until that was done, or given up."""
        xena, due = self.mortals["xena"], self.mortals["xena"].renew_at("jacinth")
        known = xena.daemon.log.count("renew_failed")
        wait_until(
            lambda: (
                xena.renew_at("jacinth") != due or xena.daemon.log.count("renew_failed") > known
            ),
            _RENEWED_SECONDS,
            "it is renewed",
        )

    def of(self, *names: str, without: Collection[str] = ("surya",)) -> dict[str, World]:
        """Return some of the worlds, without the hosts that have no part in it."""
        return {
            name: {host: seen for host, seen in self.worlds[name].items() if host not in without}
            for name in names
        }
