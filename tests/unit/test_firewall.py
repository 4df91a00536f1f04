"""What nftables does to a packet, as far as its rules tell, in the JSON that `nft -j` prints."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from anubis.network.firewall import Obstruction, Packet, obstruction

OUT = Packet(
    "output", "eth0", 4, None, ip_address("203.0.113.1"), sport=4297, dport=4297, mark=0xD6
)
BACK = Packet("input", "eth0", 4, ip_address("203.0.113.1"), None, sport=4297, dport=4297)
DROP: dict[str, Any] = {"drop": None}
ACCEPT: dict[str, Any] = {"accept": None}


def match(left: dict[str, Any], right: object, op: str = "==") -> dict[str, Any]:
    """Return a condition."""
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str, right: object, op: str = "==") -> dict[str, Any]:
    """Return a condition on a packet's meta data."""
    return match({"meta": {"key": key}}, right, op)


def payload(protocol: str, name: str, right: object, op: str = "==") -> dict[str, Any]:
    """Return a condition on a header."""
    return match({"payload": {"protocol": protocol, "field": name}}, right, op)


def ruleset(
    *rules: list[dict[str, Any]], hook: str = "output", policy: str = "accept", table: str = "t"
) -> list[dict[str, Any]]:
    """Return a ruleset of one base chain, with handles from 1."""
    place = {"family": "inet", "table": table}
    chain = {**place, "name": "c", "type": "filter", "hook": hook, "prio": 0, "policy": policy}
    numbered = [
        {"rule": {**place, "chain": "c", "handle": number, "expr": expr}}
        for number, expr in enumerate(rules, 1)
    ]
    return [{"metainfo": {}}, {"table": place}, {"chain": chain}, *numbered]


@pytest.mark.parametrize(
    "condition",
    [
        meta("oifname", "eth0"),
        meta("oifname", "eth*"),
        meta("oifname", "eth1", "!="),
        meta("iifname", "", "=="),
        meta("mark", 0xD6),
        meta("l4proto", {"set": ["tcp", "udp"]}),
        payload("udp", "dport", 4297),
        payload("th", "dport", {"set": [1, {"range": [4000, 5000]}]}),
        payload("ip", "daddr", {"prefix": {"addr": "203.0.113.0", "len": 24}}),
        payload("ip", "daddr", "203.0.113.1"),
        payload("ip6", "daddr", "203.0.113.1", "!="),
        match({"ct": {"key": "state"}}, ["established", "related"], "in"),
    ],
)
def test_a_rule_that_holds_drops(condition: dict[str, Any]) -> None:
    """Each condition that surely holds lets the drop through, and is named by its handle."""
    found = obstruction(ruleset([condition, {"counter": {}}, DROP]), OUT)
    assert found == Obstruction("inet t c", 1, is_certain=True)


@pytest.mark.parametrize(
    "condition",
    [
        meta("oifname", "wg0"),
        meta("iifname", "eth0"),
        meta("l4proto", "tcp"),
        payload("tcp", "dport", 4297),
        payload("udp", "dport", 53),
        payload("udp", "dport", {"range": [1, 1024]}),
        payload("ip", "daddr", {"prefix": {"addr": "10.0.0.0", "len": 8}}),
        payload("ip6", "daddr", "2001:db8::1"),
        match({"ct": {"key": "state"}}, "invalid"),
    ],
)
def test_a_rule_that_does_not_hold_is_passed_over(condition: dict[str, Any]) -> None:
    """What is about other packets stops nothing."""
    assert obstruction(ruleset([condition, DROP]), OUT) is None


@pytest.mark.parametrize(
    "condition",
    [
        payload("ip", "saddr", "10.0.0.1"),
        payload("udp", "dport", "@ports"),
        {"limit": {"rate": 1}},
        match({"socket": {"key": "mark"}}, 1),
    ],
)
def test_what_cannot_be_told_is_not_guessed(condition: dict[str, Any]) -> None:
    """A condition on what nobody knows leaves it open, also where a later rule drops."""
    open_question = Obstruction("inet t c", None, is_certain=False)
    assert obstruction(ruleset([condition, DROP]), OUT) == open_question
    assert obstruction(ruleset([condition, ACCEPT], [DROP]), OUT) == open_question


def test_extensions_of_iptables_are_unknown() -> None:
    """Of them nft shows no more than that they are there."""
    found = obstruction(ruleset([{"xt": None}]), OUT)
    assert found == Obstruction("inet t c", None, is_certain=False)


def test_the_first_verdict_counts() -> None:
    """What is accepted before is not dropped, and the policy is the last word."""
    accepted = [payload("udp", "dport", 4297), ACCEPT]
    assert obstruction(ruleset(accepted, [DROP], policy="drop"), OUT) is None
    by_policy = Obstruction("inet t c", None, is_certain=True)
    assert obstruction(ruleset([meta("l4proto", "tcp"), ACCEPT], policy="drop"), OUT) == by_policy


def test_only_the_hooks_of_the_packet() -> None:
    """A chain for what comes in does not stop what goes out, nor do Anubis's own tables."""
    assert obstruction(ruleset([DROP], hook="input"), OUT) is None
    assert obstruction(ruleset([DROP], hook="input"), BACK) is not None
    assert obstruction(ruleset([DROP], hook="forward"), OUT) is None
    assert obstruction(ruleset([DROP], table="anubis"), OUT) is None


def test_jumps() -> None:
    """A rule in another chain is named with its own chain; one that returns goes on."""
    other = {"family": "inet", "table": "t", "name": "other"}
    rule = {"family": "inet", "table": "t", "chain": "other", "handle": 9}
    rules = ruleset([{"jump": {"target": "other"}}], [ACCEPT], policy="drop")
    drops = [*rules, {"chain": other}, {"rule": {**rule, "expr": [DROP]}}]
    assert obstruction(drops, OUT) == Obstruction("inet t other", 9, is_certain=True)
    returns = [*rules, {"chain": other}, {"rule": {**rule, "expr": [{"return": None}, DROP]}}]
    assert obstruction(returns, OUT) is None


def test_chains_that_jump_to_each_other_end() -> None:
    """The kernel refuses them; a crafted listing must not hang the daemon."""
    rules = ruleset([{"jump": {"target": "c"}}])
    assert obstruction(rules, OUT) == Obstruction("inet t c", None, is_certain=False)
