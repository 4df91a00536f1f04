"""What facts say of the links: above all those that hosts of a lab cannot come by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from anubis.daemon import far_findings, findings
from anubis.daemon.far_findings import Asked, Sounding
from anubis.daemon.findings import Lookup
from anubis.diagnosis import BROKEN, LINKS, OK, SKIPPED, UNKNOWN, Check, Diagnosis
from anubis.errors import LocalFailure, NoAnswer
from anubis.forecast import Difference
from anubis.network.firewall import Obstruction, Packet
from anubis.network.state import NetworkState, NftTable, Route, Rule, Sysctl
from anubis.network.ways import ForeignRule, Way
from anubis.protocol.wire import Reply, Result, State
from anubis.wireguard.types import Device, Endpoint, Peer
from tests.unit.test_revision import A

NOW = 1_795_694_160.0
NOW_NS = int(NOW) * 10**9
FAR = ip_address("10.66.0.1")
OWN = ip_address("10.66.0.10")
HERE = Peer(A.public_key, Endpoint(ip_address("203.0.113.1"), 4296), last_handshake=NOW - 20)
WELL = Sounding(
    interface="wg0",
    address=FAR,
    source=OWN,
    here=HERE,
    now=NOW,
    arrived=True,
    returned=True,
    answered=True,
    may_echo=True,
    mtu=1420,
    arrived_whole=True,
)
INSTALLED = (ip_network("10.66.0.10/32"),)


def reply(**fields: Any) -> Reply:
    """Return a far end's answer to `status`."""
    base = Reply(bytes(16), NOW_NS, Result.DONE, state=State.UP, lease=60)
    return replace(base, **fields)


def states(sounding: Sounding) -> list[str]:
    """Return the states of handshake, MTU and return path."""
    return [check.state for check in far_findings.tunnel(A, INSTALLED, sounding)]


def test_everything_is_well() -> None:
    """A tunnel through which packets of every size go and come."""
    assert states(WELL) == [OK, OK, OK]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"here": replace(HERE, last_handshake=0.0)}, [BROKEN, SKIPPED, SKIPPED]),
        ({"here": replace(HERE, last_handshake=NOW - 181)}, [BROKEN, SKIPPED, SKIPPED]),
        ({"here": None}, [BROKEN, SKIPPED, SKIPPED]),
        ({"arrived": False}, [BROKEN, SKIPPED, SKIPPED]),
        ({"arrived_whole": False, "passes": 1280}, [OK, BROKEN, OK]),
        ({"returned": False}, [OK, OK, BROKEN]),  # answers are lost on their way
        ({"returned": False, "answered": False}, [OK, OK, BROKEN]),
        ({"returned": False, "answered": False, "may_echo": False}, [OK, OK, UNKNOWN]),
        ({"source": ip_address("10.66.0.99"), "arrived": False}, [OK, SKIPPED, BROKEN]),
        ({"failure": "no"}, [UNKNOWN, OK, OK]),
    ],
)
def test_the_tunnel(changes: dict[str, Any], expected: list[str]) -> None:
    """Each thing that packets show breaks one link, and what depends on it is not judged."""
    assert states(replace(WELL, **changes)) == expected


@pytest.mark.parametrize(
    ("seconds", "state", "words"),
    [
        (0, OK, "0.0 s apart"),
        (300, OK, "300.0 s apart"),
        (301, BROKEN, "5m1s ahead of this one"),
        (-7200, BROKEN, "2h behind this one"),
    ],
)
def test_clocks(seconds: int, state: str, words: str) -> None:
    """Clocks may differ by five minutes; beyond that it is said which is ahead."""
    asked = Asked(reply(unix_ns=NOW_NS + seconds * 10**9), NOW_NS)
    found = far_findings.clock(A, asked)
    assert (found.state, found.finding.endswith(words)) == (state, True)
    assert (found.remedy is not None) == (state == BROKEN)
    assert far_findings.clock(A, Asked(NoAnswer("none"), NOW_NS)).state == SKIPPED


@pytest.mark.parametrize(
    ("answer", "is_up", "state"),
    [
        (reply(), True, OK),
        (reply(state=State.DOWN), False, OK),
        (reply(state=State.DOWN), True, BROKEN),
        (reply(state=State.DOWN, reason="not at this time"), False, BROKEN),
        (reply(result=Result.NOT_PERMITTED, reason="no"), True, UNKNOWN),
        (reply(result=Result.BUSY), True, BROKEN),
    ],
)
def test_policy(answer: Reply, is_up: bool, state: str) -> None:
    """What the far end would refuse is broken; what it does not tell is not known."""
    assert far_findings.policy(A, answer, is_up=is_up).state == state


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Asked(reply(), NOW_NS), (OK, OK)),
        (Asked(NoAnswer("silence"), NOW_NS, reached=True), (OK, BROKEN)),
        (Asked(NoAnswer("silence"), NOW_NS), (BROKEN, SKIPPED)),
        (Asked(NoAnswer("silence"), NOW_NS, nobody_listens=True), (BROKEN, SKIPPED)),
        (Asked(LocalFailure("no Endpoint"), NOW_NS), (UNKNOWN, SKIPPED)),
    ],
)
def test_the_control_plane(asked: Asked, expected: tuple[str, str]) -> None:
    """A far end that shakes hands and does not answer is told from one that does neither."""
    found = far_findings.control_and_far(A, asked, 4297)
    assert tuple(check.state for check in found) == expected
    assert all(check.remedy for check in found if check.state == BROKEN)


def test_what_is_gone_and_not_put_back() -> None:
    """A route, a rule and a table of ours that the guard cannot put back each break their link."""
    network = ip_network("10.0.0.0/8")
    table = NftTable("inet", "anubis", "")
    missing = NetworkState(
        frozenset({Route(network, 214, "wg0")}), frozenset({Rule(4, 21430)}), frozenset({table})
    )
    routes, rules = findings.routes_and_rules(missing, [], {}, 214, {})
    assert "route 10.0.0.0/8 dev wg0 table 214" in routes.finding
    assert "IPv4 rule 21430" in rules.finding
    firewall = findings.firewall(missing, [], None)
    assert {routes.state, rules.state, firewall.state} == {BROKEN}


def test_a_rule_among_several_is_not_guessed() -> None:
    """With two suspects the remedy shows the rules, and deletes none."""
    lookup = Lookup(FAR, "wg0", Way("eth0", 254, ip_network("0.0.0.0/0"), is_local=False))
    one = [ForeignRule(0, 255), ForeignRule(100, 254), ForeignRule(32766, 254)]
    for foreign, remedy in (
        (one, "ip -4 rule delete priority 100"),
        ([*one, ForeignRule(200, 254)], "ip -4 rule; ip route get 10.66.0.1"),
    ):
        _, rules = findings.routes_and_rules(
            NetworkState(), [lookup], {4: foreign}, 214, {4: 21430}
        )
        assert (rules.state, rules.remedy) == (BROKEN, remedy)


def test_an_address_of_the_far_end_that_is_ours() -> None:
    """The network here has the same addresses as the one behind the tunnel."""
    way = Way("lo", 255, ip_network("10.66.0.1/32"), is_local=True)
    _, rules = findings.routes_and_rules(
        NetworkState(), [Lookup(FAR, "wg0", way)], {}, 214, {4: 21430}
    )
    assert "one of this host's own" in rules.finding


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({"net.ipv4.conf.all.src_valid_mark": "1", "net.ipv4.conf.eth0.rp_filter": "1"}, OK),
        ({"net.ipv4.conf.all.src_valid_mark": "0", "net.ipv4.conf.eth0.rp_filter": "2"}, OK),
        ({"net.ipv4.conf.all.src_valid_mark": "0", "net.ipv4.conf.eth0.rp_filter": "1"}, BROKEN),
        ({"net.ipv4.conf.all.src_valid_mark": "0", "net.ipv4.conf.all.rp_filter": "1"}, BROKEN),
    ],
)
def test_rp_filter(values: dict[str, str], state: str) -> None:
    """It matters where it is strict, a default route is ours, and marks do not count."""
    wanted = NetworkState(sysctls=frozenset({Sysctl("net.ipv4.conf.all.src_valid_mark", "1")}))
    assert findings.reverse_path(wanted, values, "eth0").state == state
    assert findings.reverse_path(NetworkState(), values, "eth0").state == OK


def test_the_firewall_names_the_certain_first() -> None:
    """A chain that may drop is not told where another surely does."""
    packet = Packet("output", "eth0", 4, dport=4297)
    maybe = ("one", packet, Obstruction("inet a b", None, is_certain=False))
    surely = ("two", packet, Obstruction("inet t c", 7, is_certain=True))
    found = findings.firewall(NetworkState(), [maybe, surely], None)
    assert (found.state, found.finding) == (BROKEN, "nftables chain inet t c drops two")
    assert findings.firewall(NetworkState(), [maybe], None).state == UNKNOWN
    assert findings.firewall(NetworkState(), [], NoAnswer("no nft")).state == UNKNOWN


def test_the_peer() -> None:
    """A peer that is not there, and one without all of its networks."""
    full = Peer(A.public_key, allowed_ips=A.allowed_ips)
    for peers, state in (((full,), OK), ((), BROKEN), ((Peer(A.public_key),), BROKEN)):
        device = Device("wg0", None, 4296, 0, peers)
        assert findings.peer(A, device, [], is_up=True).state == state


def test_the_files() -> None:
    """An edit of another entry is no reason."""
    assert findings.files("a", Difference(1, added=("b",))).state == OK
    assert findings.files("a", Difference(1, removed=("a",))).state == BROKEN
    assert findings.files("a", LocalFailure("busy")).state == UNKNOWN


def test_reachability() -> None:
    """No way, a circle, and what the network said."""
    by = Lookup(FAR, "", Way("eth0", 254, ip_network("0.0.0.0/0"), is_local=False))
    cases: list[tuple[Sequence[Lookup | LocalFailure], str, str]] = [
        ([by], "", OK),
        ([by], "no route to host", BROKEN),
        ([replace(by, way=None, failure="unreachable")], "", BROKEN),
        ([replace(by, way=Way("wg0", 214, ip_network("0.0.0.0/0"), is_local=False))], "", BROKEN),
        ([LocalFailure("the name is not resolved")], "", BROKEN),
        ([], "", UNKNOWN),
    ]
    for lookups, knock, state in cases:
        assert findings.reachability(A, lookups, ("anubis0", "wg0"), knock).state == state


def test_the_exit_status_is_that_of_the_first_broken_link() -> None:
    """Whatever else is broken after it; without any it is 0."""
    checks = tuple(Check(name, OK, "") for name in LINKS)
    assert Diagnosis("a", "up", checks).exit_status == 0
    for number, (name, status) in enumerate(LINKS.items()):
        broken = Check(name, BROKEN, "")
        found = Diagnosis("a", "up", (*checks[:number], broken, Check("clock", BROKEN, "")))
        assert (found.broken, found.exit_status) == (broken, status)
        assert Diagnosis.from_json(json.loads(json.dumps(found.to_json()))) == found
