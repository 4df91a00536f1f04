"""What strangers take away from a running host is put right within 100 ms, and the log names it."""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from anubis.daemon.patience import FIRST_PAUSE, TRIES
from anubis.lab.lab import Lab
from anubis.lab.observe import snapshot, wait_until
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    LEAF,
    XENA,
    Edit,
    client,
    configured,
    end_all,
    page,
    stanza_key,
)

# The promise, from the kernel's notice of the loss to that of the return. It is that of a host with
# a free processor. These tests may share theirs, so one round in three has to keep it, in whole.
RESTORED_SECONDS = 0.1
ROUNDS = 3
PATIENCE_SECONDS = 10.0  # for a test to see that nothing comes

_LINE = re.compile(r"^\[([^]]+)\] (Deleted )?(.*?)\s*$", re.M)


class Monitor:
    """`ip monitor`: what the kernel told of the host's network, each with its time."""

    def __init__(self, lab: Lab, host: str, output: Path) -> None:
        self._output = output
        with output.open("a") as file:
            self._process = lab.popen(
                host, "ip", "-ts", "monitor", "rule", "route", "link", stdout=file
            )
        wait_until(lambda: self._listens(lab, host), PATIENCE_SECONDS, "ip monitor listens")
        output.write_text("")

    def _listens(self, lab: Lab, host: str) -> bool:
        lab.run(host, "ip", "rule", "add", "priority", "1", "lookup", "1", check=True)
        lab.run(host, "ip", "rule", "del", "priority", "1", check=True)
        return "Deleted" in self._output.read_text()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()

    def gaps(self) -> list[float]:
        """Return, for all that was deleted and came back, how long it was away, in seconds."""
        gone: dict[str, float] = {}
        found = []
        for when, deleted, what in _LINE.findall(self._output.read_text()):
            at = datetime.fromisoformat(when).timestamp()
            if deleted:
                gone[what] = at
            elif what in gone:
                found.append(at - gone.pop(what))
        return found

    def await_gaps(self, number: int) -> None:
        """Wait until so many things came back."""
        wait_until(
            lambda: len(self.gaps()) >= number, PATIENCE_SECONDS, f"{number} things came back"
        )


@contextmanager
def monitored(lab: Lab, host: str, directory: Path) -> Iterator[Monitor]:
    """Listen for as long as the context is open."""
    monitor = Monitor(lab, host, directory / "monitor")
    try:
        yield monitor
    finally:
        monitor.close()


@pytest.fixture(scope="module")
def everywhere(lab: Lab) -> Iterator[str]:
    """Let xena route everything to jacinth; return the state of its network with that up.

    So there is one of everything that Anubis has: default routes, both tables, all rules.
    """
    allowed = stanza_key(lab, "xena", "jacinth", "AllowedIPs")
    with configured(
        lab, Edit("xena", AUTHORIZED_PEERS, allowed, "0.0.0.0/0, ::/0, 192.168.7.0/24")
    ):
        client(lab, "xena").up("jacinth")
        yield snapshot(lab, "xena")
        end_all(lab)


def restored(lab: Lab, before: str, host: str = "xena") -> None:
    """Wait until a host's network is as it was, to the byte."""
    wait_until(lambda: snapshot(lab, host) == before, PATIENCE_SECONDS, f"{host} is as before")


def logged(lab: Lab, text: str, host: str = "xena") -> None:
    """Wait for a line of the log: it is written when the work is done."""
    daemon = lab.daemon(host)
    pattern = re.compile(text)
    wait_until(lambda: bool(pattern.search(daemon.log)), PATIENCE_SECONDS, f"in the log: {text}")


def in_time(name: str, a_round: Callable[[], list[float]]) -> None:
    """Print how long things were away in a round, until one keeps the promise. One must."""
    worsts = []
    for _ in range(ROUNDS):
        gaps = a_round()
        worsts.append(max(gaps))
        figures = f"median {statistics.median(gaps) * 1e3:.1f} ms, worst {max(gaps) * 1e3:.1f} ms"
        sys.stdout.write(f"{name}: {len(gaps)} put right, {figures}\n")
        if max(gaps) < RESTORED_SECONDS:
            return
    raise AssertionError(f"{name}: each of {ROUNDS} rounds had a worse one: {worsts} s")


def our_rules(lab: Lab) -> list[tuple[str, str]]:
    """Return family and priority of each rule of Anubis's at xena."""
    found = []
    for family in ("-4", "-6"):
        text = lab.run("xena", "ip", family, "rule", "show", check=True).stdout
        found += [(family, line.split(":")[0]) for line in text.splitlines() if "proto 214" in line]
    return found


def test_each_rule_that_is_deleted_is_put_back(lab: Lab, everywhere: str, tmp_path: Path) -> None:
    """One after the other, as `ip rule del` deletes them."""
    rules = our_rules(lab)
    assert len(rules) >= 12

    def delete_each() -> list[float]:
        with monitored(lab, "xena", tmp_path) as monitor:
            for count, (family, priority) in enumerate(rules, 1):
                lab.run("xena", "ip", family, "rule", "del", "priority", priority, check=True)
                monitor.await_gaps(count)
            return monitor.gaps()

    in_time("ip rule del", delete_each)
    restored(lab, everywhere)
    for family, priority in rules:
        logged(lab, f'vanished what="IPv{family[1]} rule {priority}" put_right_ms=')


@pytest.mark.parametrize("family", [4, 6])
def test_flushed_routes_and_rules_are_put_back(
    lab: Lab, everywhere: str, tmp_path: Path, family: int
) -> None:
    """All at once, as a restart of systemd-networkd or `ip route flush` takes them."""
    flush = f"ip -{family} route flush table 214; ip -{family} rule flush protocol 214"

    def flush_all() -> list[float]:
        with monitored(lab, "xena", tmp_path) as monitor:
            lab.run("xena", "sh", "-ec", flush, check=True)
            restored(lab, everywhere)
            monitor.await_gaps(6)
            return monitor.gaps()

    in_time(f"ip -{family} route flush and rule flush", flush_all)
    nowhere = {4: "0.0.0.0/0", 6: "::/0"}[family]
    logged(lab, f'vanished what=".*route {nowhere} dev wg0 table 214')
    assert page(lab, "xena", LEAF[family]) == f"leaf, in the house\nyou are {XENA[family]}\n"


@pytest.mark.parametrize(("family", "network"), [(4, "192.168.7.0/24"), (6, "::/0")])
def test_a_replaced_route_is_put_back(lab: Lab, everywhere: str, family: int, network: str) -> None:
    """The stranger's route that stands in its place goes."""
    command = f"ip -{family} route replace {network} dev lo table 214"
    lab.run("xena", *command.split(), check=True)
    restored(lab, everywhere)
    logged(lab, f'vanished what="route {network} dev wg0 table 214" put_right_ms=')


def test_who_deletes_again_and_again_is_met_with_patience(lab: Lab, everywhere: str) -> None:
    """After ten times it is put back later, which the log says; and it still is."""
    daemon, vanished = lab.daemon("xena"), r'vanished what="[^"]*IPv4 rule 21450'
    while "contested" not in daemon.log:
        assert len(re.findall(vanished, daemon.log)) < TRIES
        lab.run("xena", "ip", "rule", "del", "priority", "21450", check=True)
        restored(lab, everywhere)
    assert len(re.findall(vanished, daemon.log)) == TRIES
    logged(lab, 'contested what="IPv4 rule 21450" next_in=1.0')
    lab.run("xena", "ip", "rule", "del", "priority", "21450", check=True)
    at = time.monotonic()
    restored(lab, everywhere)
    assert time.monotonic() - at > 0.5 * FIRST_PAUSE
    logged(lab, 'contested what="IPv4 rule 21450" next_in=2.0')
