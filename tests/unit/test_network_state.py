"""The values of the host's network behave as sets, and the marks of ownership hold together."""

from __future__ import annotations

from ipaddress import ip_network

from anubis.network.state import (
    NFT_TABLES,
    ROUTE_PROTOCOL,
    RULE_PRIORITIES,
    NetworkState,
    NftTable,
    Route,
    Rule,
    Sysctl,
)

FIRST = NetworkState(
    frozenset({Route(ip_network("10.0.0.0/8"), 214, "wg0")}),
    frozenset({Rule(4, 21420, table=254)}),
    frozenset({NftTable("inet", "anubis", "a")}),
    frozenset({Sysctl("net.ipv4.ip_forward", "1")}),
)
SECOND = NetworkState(
    frozenset({Route(ip_network("fd00::/8"), 214, "wg0")}),
    frozenset({Rule(6, 21420, table=254)}),
    frozenset({NftTable("inet", "anubis", "b")}),
    frozenset({Sysctl("net.ipv4.ip_forward", "0")}),
)


def test_union_and_difference_work_on_every_part() -> None:
    """Each of routes, rules, tables and sysctls is joined and subtracted."""
    both = FIRST | SECOND
    for part in ("routes", "rules", "tables", "sysctls"):
        assert getattr(both, part) == getattr(FIRST, part) | getattr(SECOND, part)
        assert len(getattr(both, part)) == 2
    assert both - FIRST == SECOND
    assert both - both == NetworkState()


def test_only_the_empty_state_is_false() -> None:
    """A state with a single thing of any kind in it is true."""
    assert not NetworkState()
    for part in ("routes", "rules", "tables", "sysctls"):
        assert NetworkState(**{part: getattr(FIRST, part)})


def test_the_marks_of_ownership_are_possible() -> None:
    """Protocol numbers have 8 bits and the lowest are the kernel's; our rules precede main's."""
    assert 4 < ROUTE_PROTOCOL < 256
    assert 0 < RULE_PRIORITIES.start < RULE_PRIORITIES.stop <= 32766
    assert all(name.startswith("anubis") for _, name in NFT_TABLES)
