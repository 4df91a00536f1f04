"""What strangers take away from a running host is put right within 100 ms, and the log names it."""

from __future__ import annotations

import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from anubis.daemon.patience import FIRST_PAUSE, TRIES
from anubis.errors import LocalFailure
from anubis.lab.lab import Lab
from anubis.lab.observe import snapshot, wait_until
from anubis.lab.slowness import stretched
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    LEAF,
    MAKE,
    XENA,
    Edit,
    client,
    configured,
    end_all,
    page,
    stanza_key,
    transaction,
)

# The promise, from the kernel's notice of the loss to that of the return. It is that of a host with
# a processor to spare; these tests may share theirs. So the time in which something had to wait for
# a processor, which the kernel counts, is taken off; and one round in two has to keep it, in whole.
# An emulated processor is a fraction of one.
RESTORED_SECONDS = stretched(0.1)
ROUNDS = 2
PATIENCE_SECONDS = 10.0  # for a test to see that nothing comes


@dataclass(frozen=True)
class Span:
    """A time in seconds: as the clock went, and of that without a processor to spare."""

    seconds: float
    starved: float

    def __sub__(self, other: Span) -> Span:
        return Span(self.seconds - other.seconds, self.starved - other.starved)

    @property
    def fair(self) -> float:
        """What it would have taken with a processor to spare."""
        return self.seconds - self.starved


def now() -> Span:
    """Return the time; a kernel that does not count starvation (PSI) has none."""
    with suppress(OSError):
        some, _full = Path("/proc/pressure/cpu").read_text().splitlines()
        return Span(time.monotonic(), int(some.rpartition("=")[2]) / 1e6)
    return Span(time.monotonic(), 0.0)


class Monitor:
    """What `ip monitor` or `nft monitor` told of a host's network, each line with its time."""

    def __init__(self, lab: Lab, host: str, *command: str, mark: tuple[str, str]) -> None:
        """Listen; `mark` is a harmless change and its undoing, by which it is known to listen."""
        self.lines: list[tuple[Span, str]] = []
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
            self.lines.append((now(), line.strip()))

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._reader.join()
        self._process.communicate()

    def gaps(self) -> list[Span]:
        """Return, for all that `ip` told deleted and then there, how long it was away."""
        gone: dict[str, Span] = {}
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
    with suppress(LocalFailure):
        wait_until(
            lambda: sorted(snapshot(lab, host).splitlines()) == lines, PATIENCE_SECONDS, "restored"
        )
    assert sorted(snapshot(lab, host).splitlines()) == lines


def logged(lab: Lab, text: str, host: str = "xena") -> None:
    """Wait for a line of the log: it is written when the work is done."""
    daemon = lab.daemon(host)
    pattern = re.compile(text)
    wait_until(lambda: bool(pattern.search(daemon.log)), PATIENCE_SECONDS, f"in the log: {text}")


def in_time(name: str, a_round: Callable[[], list[Span]]) -> None:
    """Print how long things were away in a round, until one keeps the promise. One must."""
    worsts = []
    for _ in range(ROUNDS):
        gaps = a_round()
        worsts.append(max(gap.fair for gap in gaps))
        times = [1000 * gap.seconds for gap in gaps]
        sys.stdout.write(
            f"{name}: {len(gaps)} put right, median {statistics.median(times):.1f} ms,"
            f" worst {max(times):.1f} ms, with a processor to spare {1000 * worsts[-1]:.1f} ms\n"
        )
        if worsts[-1] < RESTORED_SECONDS:
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

    def delete_each() -> list[Span]:
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

    def flush_all() -> list[Span]:
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
    ids=["delete-table", "flush-chain", "insert-rule", "flush-ruleset"],
)
def test_nftables_that_were_changed_are_put_back(
    lab: Lab, everywhere: str, command: str, named: str
) -> None:
    """As `nft` changes them; the whole table is replaced in one transaction."""

    def change() -> list[Span]:
        with nft_monitor(lab, "xena") as monitor:
            lab.run("xena", *command.split(), check=True)
            restored(lab, everywhere)
            first = next(at for at, line in monitor.lines if " inet anubis" in line)
            added = (at for at, line in monitor.lines if line == "add table inet anubis")
            return [next(added) - first]

    in_time(command, change)
    logged(lab, named)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("ip address del 10.66.0.10/32 dev wg0", 'vanished what="address 10.66.0.10/32 of wg0'),
        ("ip -6 address flush dev anubis0", r'vanished what="address fd61:\S+ of anubis0'),
        ("ip link set wg0 down", r'changed what="state of wg0 \(it was down\)"'),
        ("ip link set anubis0 down", r'changed what="state of anubis0 \(it was down\)"'),
        ("ip link delete wg0", 'vanished what="interface wg0, peer jacinth of wg0'),
        ("ip link delete anubis0", 'vanished what="interface anubis0'),
    ],
    ids=["address", "control-addresses", "down", "control-down", "gone", "control-gone"],
)
def test_an_interface_that_was_changed_is_put_right(
    lab: Lab, everywhere: str, command: str, named: str
) -> None:
    """Of an interface that Anubis made, everything comes back, peers and session included."""

    def change() -> list[Span]:
        with ip_monitor(lab, "xena") as monitor:
            lab.run("xena", *command.split(), check=True)
            restored(lab, everywhere)
            return [monitor.lines[-1][0] - monitor.lines[0][0]]

    in_time(command, change)
    logged(lab, named)
    assert page(lab, "xena", LEAF[4]) == f"leaf, in the house\nyou are {XENA[4]}\n"
    client(lab, "xena").up("jacinth")  # which asks jacinth through the control plane


@pytest.mark.parametrize(
    ("command", "undo", "named"),
    [
        ("wg set wg0 peer {jacinth} remove", "true", 'vanished what="peer jacinth of wg0"'),
        (
            "wg set wg0 peer {thief} allowed-ips 192.168.7.0/24",
            "wg set wg0 peer {thief} remove",
            'changed what="AllowedIPs of jacinth on wg0"',
        ),
        ("ip link set wg0 alias mine", "true", 'changed what="alias of wg0"'),
        ("wg set wg0 fwmark 0", "true", 'changed what="fwmark of wg0"'),
        ("wg set anubis0 fwmark 0", "true", 'changed what="fwmark of anubis0"'),
        ("wg set anubis0 listen-port 7777", "true", 'changed what="port of anubis0"'),
        ("wg set anubis0 peer {surya} remove", "true", 'vanished what="peer surya of anubis0"'),
        (
            "wg set anubis0 peer {thief} allowed-ips 10.0.0.0/8",
            "true",
            'appeared what="peer {thief} of anubis0"',
        ),
    ],
    ids=["peer", "AllowedIPs", "alias", "mark", "control-mark", "control-port", "control-peer",
         "control-stranger"],
)  # fmt: skip
def test_what_wireguard_tells_nobody_is_found_within_seconds(
    lab: Lab, everywhere: str, command: str, undo: str, named: str
) -> None:
    """Peers, their AllowedIPs and the mark, at the next look."""
    keys = {
        "jacinth": stanza_key(lab, "xena", "jacinth"),
        "surya": stanza_key(lab, "xena", "surya", "ControlPublicKey"),
        "thief": lab.run("xena", "sh", "-c", "wg genkey | wg pubkey", check=True).stdout.strip(),
    }
    lab.run("xena", *command.format(**keys).split(), check=True)
    logged(lab, re.escape(named.format(**keys)))
    lab.run("xena", *undo.format(**keys).split(), check=True)
    restored(lab, everywhere)
    assert page(lab, "xena", LEAF[4]) == f"leaf, in the house\nyou are {XENA[4]}\n"


def test_a_mark_that_the_stranger_chose_is_followed(lab: Lab, everywhere: str) -> None:
    """Ours is lent only to an interface without one; rules and both interfaces have his."""
    lab.run("xena", "wg", "set", "wg0", "fwmark", "0x99", check=True)
    logged(lab, 'vanished what="[^"]*IPv4 rule 21430|fwmark of wg0')
    wait_until(
        lambda: lab.run("xena", "wg", "show", "anubis0", "fwmark").stdout.strip() == "0x99",
        PATIENCE_SECONDS,
        "the control plane follows",
    )
    rules = lab.run("xena", "ip", "rule", "show", check=True).stdout
    assert "fwmark 0x99 " in rules
    assert "fwmark 0xd6 " not in rules
    assert page(lab, "xena", LEAF[4]) == f"leaf, in the house\nyou are {XENA[4]}\n"
    lab.run("xena", "wg", "set", "wg0", "fwmark", "0xd6", check=True)
    restored(lab, everywhere)


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


def test_an_interface_of_the_administrator_s_is_his_to_make(lab: Lab) -> None:
    """Gone, it stays gone, and the log says so; made again, it has our peer and routes again."""
    make = (
        f"{MAKE.format('wg0')}; wg set wg0 listen-port 4296 private-key /etc/anubis/production.key;"
        f"ip address add {XENA[4]}/32 dev wg0; ip address add {XENA[6]}/128 dev wg0;"
        "ip link set wg0 up"
    )
    daemon = lab.daemon("xena")
    end_all(lab)
    with ExitStack() as undo:
        undo.callback(daemon.start)
        daemon.stop()
        undo.enter_context(transaction(lab, "xena", make, "ip link delete wg0"))
        undo.callback(daemon.stop)
        daemon.start()
        client(lab, "xena").up("jacinth")
        lab.run("xena", "ip", "link", "delete", "wg0", check=True)
        logged(lab, 'not_put_right what=wg0 reason="wg0 is gone, which Anubis did not make"')
        assert lab.run("xena", "ip", "link", "show", "wg0").returncode == 1
        lab.run("xena", "sh", "-ec", make, check=True)
        logged(lab, 'vanished what="peer jacinth of wg0, route ')
        assert page(lab, "xena", LEAF[4]) == f"leaf, in the house\nyou are {XENA[4]}\n"
