"""A daemon for tests: the real API over a real socket, with operations that follow a script.

What happens is told by the connection's name, so a test reads without looking here much: `jacinth`
works, `surya` was up already and cannot be told to go down, `selen` refuses, `leaf` does not
answer, `broken` fails on this host, `buggy` meets a bug, `slow` waits until it is cancelled,
`xena` is down already, `ariadne` has to be approved first.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

from anubis.daemon.api import ApiServer, Report
from anubis.daemon.audience import Audience
from anubis.daemon.calls import Terms
from anubis.diagnosis import Check, Diagnosis
from anubis.errors import (
    ConfigError,
    LocalFailure,
    NoAnswer,
    Problem,
    Refused,
    UnknownConnection,
    nearest,
)
from anubis.events import Approval, ConnectionStatus, Reloaded, Result
from anubis.exposition import Metric, expose
from anubis.forecast import ChangedEntry, Difference, Obstacle, Plan, PlannedStep
from anubis.happening import Happening

DEADLINE = 20.0  # seconds, for whatever a test waits for

NAMES = ("ariadne", "broken", "buggy", "jacinth", "leaf", "selen", "slow", "surya", "xena")


CONNECTIONS = (
    ConnectionStatus(
        "jacinth",
        "up",
        "initiator",
        "2026-11-20T11:56:00Z",
        28700,
        "203.0.113.1:4296",
        12.5,
        1_258_291,
        512,
    ),
    ConnectionStatus(
        "leaf",
        "up",
        "initiator",
        "2026-11-20T11:57:00Z",
        3600,
        "203.0.113.7:4296",
        10.0,
        1,
        2,
        pinned=True,
    ),
    ConnectionStatus("surya", "down", ended="shutdown"),
    ConnectionStatus("selen", "down", pinned=True, retry_seconds=12.5),
)


class FakeClock:
    """Stands still but where the script lets it go on."""

    def __init__(self) -> None:
        self.milliseconds = 0.0

    def __call__(self) -> float:
        return self.milliseconds / 1000


class FakeOperations:
    """The script. `calls` has what was asked, with every argument."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.calls: list[tuple[object, ...]] = []
        self.connections = list(CONNECTIONS)
        self.problems: tuple[Problem, ...] = ()  # of the files that a reload reads
        self._begun = 0.0  # milliseconds; when the change under way arrived
        self.waiting = threading.Event()  # "slow" has begun
        self.rolled_back = threading.Event()  # "slow" was cancelled, and has undone its work
        self.may_roll_back = threading.Event()  # clear it to hold the undoing up
        self.may_roll_back.set()

    async def status(self, name: str | None) -> list[ConnectionStatus]:
        self.calls.append(("status", name))
        if name == "buggy":
            raise KeyError(name)
        self._check(name or "jacinth")
        return [entry for entry in self.connections if name in {None, entry.name}]

    async def reload(self) -> Reloaded:
        self.calls.append(("reload",))
        if self.problems:
            raise ConfigError(self.problems)
        return Reloaded(3, ("leaf", "selen"), ("xena",), ("jacinth",), ("xena",))

    async def foresee(self) -> Difference:
        self.calls.append(("foresee",))
        if self.problems:
            raise ConfigError(self.problems)
        return Difference(
            3,
            ("leaf", "selen"),
            ("xena",),
            (ChangedEntry("jacinth", ("AllowedIPs", "PresharedKey")),),
            ("jacinth", "xena"),
            ("/etc/anubis/anubis.conf has changed: systemctl restart anubis takes that up",),
        )

    async def approve(self, name: str | None, at: str | None, timeout_seconds: float) -> Approval:
        self.calls.append(("approve", name, at, timeout_seconds))
        self._check(at or "jacinth")
        if at == "leaf":
            raise NoAnswer("leaf did not answer within 10 s", "is UDP port 4297 open?")
        if name not in {None, "xena"}:
            raise LocalFailure(f"{name} does not wait for an approval")
        return Approval(name, ("selen",) if name else ("selen", "xena"))

    async def plan(self, name: str) -> Plan:
        self.calls.append(("plan", name))
        self._check(name)
        unknown = (f"whether {name} agrees is known only when it is asked",)
        if name == "xena":
            return Plan(name, "up", 60, unknown=unknown)
        route = {"destination": "10.1.0.0/16", "table": 214, "interface": "wg0", "kind": "unicast"}
        steps = (
            PlannedStep("add", "peer", "KEY on wg0", {"interface": "wg0"}),
            PlannedStep("change", "mtu", "1420 on wg0", {"interface": "wg0", "mtu": 1420}),
            PlannedStep("add", "route", "10.1.0.0/16 dev wg0 table 214", route),
        )
        holder = Obstacle("10.1.0.0/16: in use by surya, which is up", "anubis switch selen")
        return Plan(name, "down", 28800, steps, (holder,) if name == "selen" else (), unknown)

    async def why(self, name: str) -> Diagnosis:
        self.calls.append(("why", name))
        self._check(name)
        checks = [
            Check("files", "ok", "the files are right, and in force"),
            Check("daemon", "ok", "it runs"),
            Check("firewall", "unknown", "nft is not installed", "apt install nftables"),
            Check("mtu", "ok", "packets of 1420 bytes arrive"),
        ]
        match name:
            case "selen":
                checks[3] = Check("policy", "broken", "selen refused: \x1b[31mno", "ask its owner")
            case "leaf":
                checks[3] = Check("control_handshake", "broken", "no answer", "open UDP port 4297")
                checks.append(Check("far_daemon", "skipped", "there is no way to ask it"))
            case "broken":
                checks[3] = Check("rules", "broken", "rule 100 comes before ours", "ip rule")
                checks.append(Check("clock", "broken", "1h ahead", "timedatectl"))
        return Diagnosis(name, "up", tuple(checks))

    async def up(self, name: str, terms: Terms, report: Report) -> Result:
        self.calls.append(("up", name, *astuple(terms)))
        await self._begin(name, report)
        return await self._up(name, terms, report)

    async def down(self, name: str, timeout_seconds: float, report: Report) -> Result:
        self.calls.append(("down", name, timeout_seconds))
        await self._begin(name, report)
        if name == "xena":
            return Result(name, "down", "unchanged")
        if name == "surya":
            self._report(report, 9.0, "removed")
            return Result(name, "down", "local_only", warnings=("surya could not be told",))
        self._report(report, 12.4, "control", "203.0.113.1:4297")
        self._report(report, 19.0, "agreed")
        self._report(report, 21.1, "removed")
        return Result(name, "down", "done")

    async def switch(self, name: str, terms: Terms, report: Report) -> Result:
        self.calls.append(("switch", name, *astuple(terms)))
        await self._begin(name, report)
        result = await self._up(name, terms, report)
        self._report(report, 40.2, "agreed", "", "surya")
        self._report(report, 41.0, "removed", "", "surya")
        return Result(
            result.connection,
            result.state,
            result.result,
            result.lease_seconds,
            result.endpoint,
            replaced=("surya",),
        )

    async def _up(self, name: str, terms: Terms, report: Report) -> Result:
        lease = terms.lease_seconds or 28800
        if name == "surya":
            return Result(name, "up", "unchanged", lease, "198.51.100.7:4296")
        self._report(report, 12.4, "control", "203.0.113.1:4297")
        self._report(report, 19.0, "agreed", "lease 8h")
        self._report(report, 21.1, "peer", "wg0")
        self._report(report, 25.3, "routes", "2 routes")
        self._report(report, 31.7, "handshake", "203.0.113.1:4296")
        self.clock.milliseconds = self._begun + 31.9
        return Result(name, "up", "done", lease, "203.0.113.1:4296")

    async def _begin(self, name: str, report: Report) -> None:
        """Do what the name says, if it says that this goes wrong."""
        self._begun = self.clock.milliseconds
        self._check(name)
        match name:
            case "selen":
                self._report(report, 12.4, "control", "203.0.113.9:4297")
                raise Refused(
                    "selen refused (not_permitted): ask \x1b[31mme\x1b[0m first",
                    "its administrator decides",
                    "not_permitted",
                )
            case "leaf":
                raise NoAnswer("leaf did not answer within 10 s", "is UDP port 4297 open?")
            case "broken":
                raise LocalFailure("wg0: the kernel said no; all is rolled back")
            case "buggy":
                raise KeyError(name)
            case "ariadne":
                self._report(report, 9.0, "pending", "120s left")
                self._report(report, 10.0, "pending", "118s left")
            case "slow":
                self._report(report, 12.4, "control", "203.0.113.8:4297")
                await self._wait()

    async def _wait(self) -> None:
        try:
            self.waiting.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(self.may_roll_back.wait, DEADLINE)
            self.rolled_back.set()

    def _check(self, name: str) -> None:
        if name not in NAMES:
            raise UnknownConnection(f"no connection is called {name!r}", nearest(name, NAMES))

    def _report(
        self,
        report: Report,
        milliseconds: float,
        step: str,
        detail: str = "",
        connection: str | None = None,
    ) -> None:
        self.clock.milliseconds = self._begun + milliseconds
        report(step, detail, connection)


NOON = 1795694160.0  # 2026-11-26 11:56:00 UTC

HISTORY = (
    Happening("ready", NOON - 60, NOON - 60, None, {"peers": 8, "control_address": "fd61::1"}),
    Happening("up", NOON, NOON, "jacinth", {"role": "initiator", "lease": 28800}),
    Happening("renewed", NOON + 14400, NOON + 43200, "jacinth", {"lease": 28800}, 3),
    Happening("vanished", NOON + 50000, NOON + 50000, None, {"what": "IPv4 rule 21430"}),
    Happening("down", NOON + 50060, NOON + 50060, "jacinth", {"reason": "\x1b[31mshutdown"}),
)


class FakeRecords:
    """A past that is known, and an audience to which a test can tell more."""

    def __init__(self) -> None:
        self.audience = Audience()

    def log(self, name: str) -> list[Happening]:
        if name not in NAMES:
            raise UnknownConnection(f"no connection is called {name!r}", nearest(name, NAMES))
        return [each for each in HISTORY if each.connection in {None, name}]

    async def metrics(self) -> str:
        up = Metric("anubis_connection_up", "gauge", "Whether a connection is up.")
        return expose([up.add(1, connection="jacinth").add(0, connection="selen")])


class FakeDaemon:
    """A running ApiServer in a thread of its own."""

    def __init__(self, path: Path, group: str = "anubis") -> None:
        self.path = path
        self.operations = FakeOperations()
        self.records = FakeRecords()
        self.server = ApiServer(
            self.operations, self.records, path, group=group, clock=self.operations.clock
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.run(self.server.start)

    def stop_serving(self) -> None:
        """End as a daemon does that is stopped."""
        self.run(self.server.stop)

    def stop(self) -> None:
        self.stop_serving()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def tell(self, *happenings: Happening) -> None:
        """Have those who listen hear something."""

        async def tell() -> None:
            for happening in happenings:
                self.records.audience.tell(happening)

        self.run(tell)

    def dismiss(self) -> None:
        """Have those who listen told that this is all."""

        async def dismiss() -> None:
            self.records.audience.dismiss()

        self.run(dismiss)

    def run(self, what: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run a coroutine in the daemon's thread."""
        asyncio.run_coroutine_threadsafe(what(), self._loop).result(DEADLINE)


@contextmanager
def fake_daemon(path: Path, group: str = "anubis") -> Generator[FakeDaemon, None, None]:
    """Run a FakeDaemon at `path`, and leave nothing of it."""
    daemon = FakeDaemon(path, group)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
    assert not path.exists()
