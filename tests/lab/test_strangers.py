"""What strangers take away from a running host is put right within 100 ms, and the log names it."""

from __future__ import annotations

import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

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


class Monitor:
    """What `ip monitor` or `nft monitor` told of a host's network, each line with its time."""

    def __init__(self, lab: Lab, host: str, *command: str, mark: tuple[str, str]) -> None:
        """Listen; `mark` is a harmless change and its undoing, by which it is known to listen."""
        self.lines: list[tuple[float, str]] = []
        self._process = lab.popen(host, *command)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

        def listens() -> bool:
            for change in mark:
                lab.run(host, *change.split(), check=True)
            return any("elete" in line for _at, line in self.lines)

        try:
            wait_until(listens, PATIENCE_SECONDS, f"{command} listens")
        except BaseException:
            self.close()
            raise
        self.lines.clear()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append((time.monotonic(), line.strip()))

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._reader.join()
        self._process.communicate()

    def gaps(self) -> list[float]:
        """Return, for all that `ip` told deleted and then there, how long it was away, in s."""
        gone: dict[str, float] = {}
        found = []
        for at, line in self.lines:
            what = line.removeprefix("Deleted ")
            if what != line:
                gone[what] = at
            elif what in gone:
                found.append(at - gone.pop(what))
        return found

    def await_gaps(self, number: int) -> None:
        """Wait until so many things came back."""
        wait_until(
            lambda: len(self.gaps()) >= number, PATIENCE_SECONDS, f"{number} things came back"
        )


def ip_monitor(lab: Lab, host: str) -> closing[Monitor]:
    """Listen to rules, routes, addresses and links."""
    mark = ("ip rule add priority 1 lookup 1", "ip rule del priority 1")
    command = ("ip", "monitor", "rule", "route", "address", "link")
    return closing(Monitor(lab, host, *command, mark=mark))


def nft_monitor(lab: Lab, host: str) -> closing[Monitor]:
    """Listen to nftables."""
    mark = ("nft add table ip listens", "nft delete table ip listens")
    return closing(Monitor(lab, host, "nft", "monitor", mark=mark))


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
    """Wait until a host's network is as it was, line by line.

    Not byte by byte: a table or a route that came back stands behind those that never left.
    """
    lines = sorted(before.splitlines())
    wait_until(
        lambda: sorted(snapshot(lab, host).splitlines()) == lines,
        PATIENCE_SECONDS,
        f"{host} is as before",
    )


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


def test_each_rule_that_is_deleted_is_put_back(lab: Lab, everywhere: str) -> None:
    """One after the other, as `ip rule del` deletes them."""
    rules = our_rules(lab)
    assert len(rules) >= 12

    def delete_each() -> list[float]:
        with ip_monitor(lab, "xena") as monitor:
            for count, (family, priority) in enumerate(rules, 1):
                lab.run("xena", "ip", family, "rule", "del", "priority", priority, check=True)
                monitor.await_gaps(count)
            return monitor.gaps()

    in_time("ip rule del", delete_each)
    restored(lab, everywhere)
    for family, priority in rules:
        logged(lab, f'vanished what="IPv{family[1]} rule {priority}" put_right_ms=')


@pytest.mark.parametrize("family", [4, 6])
def test_flushed_routes_and_rules_are_put_back(lab: Lab, everywhere: str, family: int) -> None:
    """All at once, as a restart of systemd-networkd or `ip route flush` takes them."""
    flush = f"ip -{family} route flush table 214; ip -{family} rule flush protocol 214"

    def flush_all() -> list[float]:
        with ip_monitor(lab, "xena") as monitor:
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


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("nft delete table inet anubis", 'vanished what="nftables table inet anubis"'),
        ("nft flush chain inet anubis input", 'changed what="nftables table inet anubis"'),
        ("nft insert rule inet anubis input accept", 'changed what="nftables table inet anubis"'),
        ("nft flush ruleset", 'vanished what="nftables table inet anubis, nftables table inet'),
    ],
)
def test_nftables_that_were_changed_are_put_back(
    lab: Lab, everywhere: str, command: str, named: str
) -> None:
    """As `nft` changes them; the whole table is replaced in one transaction."""

    def change() -> list[float]:
        with nft_monitor(lab, "xena") as monitor:
            lab.run("xena", *command.split(), check=True)
            restored(lab, everywhere)
            first = next(at for at, line in monitor.lines if " inet anubis" in line)
            added = (at for at, line in monitor.lines if line == "add table inet anubis")
            return [next(added) - first]

    in_time(command, change)
    logged(lab, named)


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
