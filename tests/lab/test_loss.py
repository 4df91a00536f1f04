"""Lost and doubled packets: every up and down ends in time, with one effect or none.

Bearer packets are dropped and doubled on the internet's switch, on both ways. WireGuard itself
throws doubled bearer packets away, so the datagrams inside the tunnel are doubled as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import pytest

from anubis.daemon.silence import QUIET_SECONDS
from anubis.errors import LocalFailure
from anubis.lab.entry import ROUTER
from anubis.lab.lab import Lab
from anubis.lab.observe import snapshot, wait_until
from tests.lab.hostile import (
    LogMark,
    Run,
    anubis,
    differences,
    has_peer,
    nft_table,
    public_key,
)

TIMEOUT = 20.0  # seconds that a command may take
GRACE = 6.0  # seconds for undoing, and for starting Python on a busy machine
SETTLED = 2 * QUIET_SECONDS  # seconds until a word that came late is forgotten
PERCENT = 30
CONTROL = "udp dport 4297"  # to jacinth's control plane; answers have it as their source port


@dataclass(slots=True)
class Tally:
    """How the commands of one test ended."""

    good: list[float] = field(default_factory=list)  # seconds
    late: list[str] = field(default_factory=list)

    def add(self, run: Run, *, good: bool) -> None:
        """Count a command."""
        if good:
            self.good.append(run.seconds)
        else:
            self.late.append(run.stderr)

    def __str__(self) -> str:
        total = len(self.good) + len(self.late)
        slowest = max(self.good, default=0.0)
        return f"{len(self.good)} of {total} succeeded, the slowest in {slowest:.1f} s"

    @property
    def share(self) -> float:
        """The share of commands that did what they were asked."""
        return len(self.good) / (len(self.good) + len(self.late))


@contextmanager
def doubling_inside(lab: Lab) -> Iterator[None]:
    """Double datagrams of the protocol where they enter the tunnel, at both ends."""
    with ExitStack() as stack:
        for host in ("xena", "jacinth"):
            chain = f"""chain output {{
                type filter hook output priority -50; policy accept;
                oifname "anubis0" udp sport 4298 numgen random mod 100 < {PERCENT} \\
                    counter dup to ip6 daddr device "anubis0"
            }}"""
            stack.enter_context(nft_table(lab, host, "ip6 doubling", chain))
        yield
        shown = [
            lab.run(host, "nft", "list", "table", "ip6", "doubling", check=True).stdout
            for host in ("xena", "jacinth")
        ]
        assert not all("counter packets 0 " in each for each in shown)


@contextmanager
def bad_internet(lab: Lab, what: str) -> Iterator[None]:
    """Lose and double IPv4 packets between hotel and jacinth; `what` matches those to jacinth."""
    dice = f"numgen random mod 100 < {PERCENT} counter"
    chains = ""
    ways = (
        ("hotel.0", "jacinth.0", what),
        ("jacinth.0", "hotel.0", what.replace("dport", "sport")),
    )
    for number, (come, go, match) in enumerate(ways):
        chains += f"""chain way{number} {{
            type filter hook ingress device "{come}" priority 0; policy accept;
            {match} {dice} dup to "{go}"
            {match} {dice} drop
        }}
        """
    with nft_table(lab, ROUTER, "netdev bad", chains):
        yield
        shown = lab.run(ROUTER, "nft", "list", "table", "netdev", "bad", check=True).stdout
        assert shown.count("counter packets") == 4
        assert "counter packets 0 " not in shown


def play(lab: Lab, rounds: int) -> Tally:
    """Bring xena's connection up and down again and again; check every single end."""
    tally = Tally()
    keys = {"xena": public_key(lab, "jacinth"), "jacinth": public_key(lab, "xena")}

    def together(*, up: bool) -> bool:
        return all(has_peer(lab, host, key) is up for host, key in keys.items())

    for number in range(rounds):
        if number % 2:
            # A new control tunnel: its handshake is lost and doubled too.
            lab.daemon("xena").stop()
            lab.daemon("xena").start()
        mark = LogMark(lab, "jacinth")
        run = anubis(lab, "xena", "up", "jacinth", "--timeout", f"{TIMEOUT:g}s", "--json")
        assert run.seconds < TIMEOUT + GRACE
        assert run.status in {0, 3}, run.stderr
        tally.add(run, good=run.status == 0)
        if run.status != 0:
            wait_until(lambda: together(up=False), GRACE, "both ends are down again")
            assert len(mark.matching("up")) == len(mark.matching("down")) <= 1, mark.lines
            continue
        assert together(up=True)
        assert (len(mark.matching("up")), len(mark.matching("down"))) == (1, 0), mark.lines
        run = anubis(lab, "xena", "down", "jacinth", "--timeout", f"{TIMEOUT:g}s", "--json")
        assert run.seconds < TIMEOUT + GRACE
        assert run.status == 0, run.stderr
        tally.add(run, good=run.result == "done")
        assert not has_peer(lab, "xena", keys["xena"])
        if run.result == "done":
            assert together(up=False)
            assert (len(mark.matching("up")), len(mark.matching("down"))) == (1, 1), mark.lines
    return tally


@pytest.fixture(autouse=True)
def _unchanged(lab: Lab) -> Iterator[None]:
    """After all that, both ends are byte for byte what they were, once nobody speaks any more."""
    before = {host: snapshot(lab, host) for host in ("xena", "jacinth")}
    yield
    for host, text in before.items():
        with suppress(LocalFailure):
            wait_until(partial(_is_as, lab, host, text), SETTLED, "all is as before")
        assert differences(text, snapshot(lab, host)) == []


def _is_as(lab: Lab, host: str, text: str) -> bool:
    return not differences(text, snapshot(lab, host))


def test_a_bad_control_plane(lab: Lab) -> None:
    """30 % loss and 30 % duplication of the control plane: at least 90 % succeed within 20 s."""
    with bad_internet(lab, CONTROL), doubling_inside(lab):
        tally = play(lab, 6)
    assert tally.share >= 0.9, f"{tally}: {tally.late}"


def test_a_bad_internet(lab: Lab) -> None:
    """30 % loss and duplication of every packet, production too: at least 80 % succeed."""
    with bad_internet(lab, "ip protocol udp udp dport { 4296, 4297 }"), doubling_inside(lab):
        tally = play(lab, 4)
    assert tally.share >= 0.8, f"{tally}: {tally.late}"


@pytest.mark.parametrize("port", [4297, 4296], ids=["control", "production"])
def test_two_lost_handshakes_cost_two_seconds(lab: Lab, port: int) -> None:
    """WireGuard alone would try again after 5 s and after 10 s."""
    # An initiation is a datagram of 176 bytes; two of them are let into the quota and dropped.
    chain = f"""chain lose {{
        type filter hook ingress device "hotel.0" priority 0; policy accept;
        udp dport {port} udp length 156 quota 400 bytes counter drop
    }}"""
    with nft_table(lab, ROUTER, "netdev lost", chain):
        run = anubis(lab, "xena", "up", "jacinth", "--json")
        shown = lab.run(ROUTER, "nft", "list", "table", "netdev", "lost", check=True).stdout
    assert "counter packets 2 " in shown
    assert run.status == 0, run.stderr
    assert run.seconds < 4.5
    assert anubis(lab, "xena", "down", "jacinth", "--json").result == "done"


def test_a_lost_last_reply_leaves_no_session(lab: Lab) -> None:
    """Jacinth has forgotten the laptop by the time it asks again, and forgets it once more."""
    assert anubis(lab, "xena", "up", "jacinth", "--json").status == 0
    chain = """chain output {
        type filter hook output priority 0; policy accept;
        oifname "anubis0" udp sport 4298 quota 300 bytes counter drop
    }"""
    with nft_table(lab, "jacinth", "ip6 lost", chain):
        run = anubis(lab, "xena", "down", "jacinth", "--json")
        shown = lab.run("jacinth", "nft", "list", "table", "ip6", "lost", check=True).stdout
    assert "counter packets 0 " not in shown
    assert (run.status, run.result) == (0, "done"), run.stderr
