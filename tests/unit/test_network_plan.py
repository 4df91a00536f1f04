"""What Anubis wants of the host's network. Where packets then go is tested on the kernel itself."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from anubis.network.plan import SERVICE_PORT, control_plane_state, production_state
from anubis.network.state import (
    NFT_TABLES,
    RULE_PRIORITIES,
    IPNetwork,
    NetworkState,
    RouteKind,
    RuleAction,
    Sysctl,
)

MARK = 0xA4B1
TABLE = 214
CONTROL = control_plane_state("anubis0", IPv6Address("fd61:6e75:6269:7300::a"), TABLE)
DEFAULTS = [ip_network("0.0.0.0/0"), ip_network("::/0")]
SRC_VALID_MARK = Sysctl("net.ipv4.conf.all.src_valid_mark", "1")

networks = st.one_of(
    st.ip_addresses(v=4).flatmap(
        lambda a: st.integers(0, 32).map(lambda n: ip_network(f"{a}/{n}", strict=False))
    ),
    st.ip_addresses(v=6).flatmap(
        lambda a: st.integers(0, 128).map(lambda n: ip_network(f"{a}/{n}", strict=False))
    ),
)


def test_with_nothing_up_nothing_is_wanted() -> None:
    """Excluded subnets alone make no routes and no rules."""
    assert production_state("wg0", TABLE, MARK, [], DEFAULTS) == NetworkState()


@given(st.sets(networks, min_size=1, max_size=8), st.sets(networks, max_size=4))
def test_every_wish_bears_our_marks(allowed: set[IPNetwork], throw: set[IPNetwork]) -> None:
    """Whatever is up: our table, our priorities, our tables, both families."""
    state = CONTROL | production_state("wg0", TABLE, MARK, allowed, throw)
    assert {route.table for route in state.routes} == {TABLE}
    assert all(rule.priority in RULE_PRIORITIES for rule in state.rules)
    assert {(table.family, table.name) for table in state.tables} <= NFT_TABLES
    assert {rule.family for rule in state.rules} == {4, 6}


@given(st.sets(networks, min_size=1, max_size=8), st.sets(networks, max_size=4))
def test_each_priority_of_a_family_has_one_rule(
    allowed: set[IPNetwork], throw: set[IPNetwork]
) -> None:
    """The kernel deletes by priority and selectors: two rules at one priority could be mixed up."""
    state = CONTROL | production_state("wg0", TABLE, MARK, allowed, throw)
    places = [(rule.family, rule.priority) for rule in state.rules]
    assert len(places) == len(set(places))


@given(st.sets(networks, min_size=1, max_size=8), st.sets(networks, max_size=4))
def test_a_marked_packet_never_looks_into_our_table(
    allowed: set[IPNetwork], throw: set[IPNetwork]
) -> None:
    """Every rule that leads there excludes the mark, all 32 bits of it."""
    for rule in production_state("wg0", TABLE, MARK, allowed, throw).rules:
        if rule.table == TABLE:
            assert rule.invert
            assert (rule.fwmark, rule.fwmask) == (MARK, 0xFFFFFFFF)


@given(st.sets(networks, min_size=1, max_size=8), st.sets(networks, max_size=4))
def test_each_network_has_one_route_and_throw_wins(
    allowed: set[IPNetwork], throw: set[IPNetwork]
) -> None:
    """A subnet that is excluded and allowed stays out."""
    routes = production_state("wg0", TABLE, MARK, allowed, throw).routes
    assert len(routes) == len(allowed | throw)
    for route in routes:
        excluded = route.destination in throw
        assert route.kind is (RouteKind.THROW if excluded else RouteKind.UNICAST)
        assert route.interface == (None if excluded else "wg0")


def test_a_split_tunnel_needs_two_rules_a_family_and_no_nftables() -> None:
    """The everyday case starts no other program."""
    state = production_state("wg0", TABLE, MARK, [ip_network("10.0.0.0/8")])
    assert len(state.rules) == 4
    assert state.tables == frozenset()
    assert state.sysctls == frozenset()


def test_a_default_route_adds_what_that_family_needs() -> None:
    """Two rules of its family, the bearer table, and for IPv4 the reverse-path parameter."""
    split = production_state("wg0", TABLE, MARK, [ip_network("10.0.0.0/8")])
    for default, sysctls in zip(DEFAULTS, ({SRC_VALID_MARK}, set()), strict=True):
        state = production_state("wg0", TABLE, MARK, [default])
        added = state.rules - split.rules
        assert len(added) == 2
        assert {rule.family for rule in added} == {default.version}
        assert [table.name for table in state.tables] == ["anubis_bearer"]
        assert state.sysctls == sysctls


def test_an_excluded_default_route_is_none() -> None:
    """Throwing 0.0.0.0/0 leaves the other routes a split tunnel."""
    allowed = [ip_network("0.0.0.0/0"), ip_network("10.0.0.0/8")]
    state = production_state("wg0", TABLE, MARK, allowed, [ip_network("0.0.0.0/0")])
    assert state.tables == frozenset()
    assert len(state.rules) == 4


def test_the_control_prefix_is_prohibited_after_the_way_into_the_control_plane() -> None:
    """Only what this host sends may look the way up; all else to the prefix is prohibited."""
    prefix = ip_network("fd61:6e75:6269:7300::/64")
    rules = sorted((r for r in CONTROL.rules if r.destination == prefix), key=lambda r: r.priority)
    assert [rule.action for rule in rules] == [RuleAction.LOOKUP, RuleAction.PROHIBIT]
    assert [rule.input_interface for rule in rules] == ["lo", None]


def test_the_control_rules_come_before_the_production_rules() -> None:
    """A tunnel's default route must not capture the control plane."""
    production = production_state("wg0", TABLE, MARK, DEFAULTS)
    assert max(r.priority for r in CONTROL.rules) < min(r.priority for r in production.rules)


def test_the_confinement_names_both_addresses_and_counts_nothing() -> None:
    """The link-local twin has the same identifier; a counter would change the ruleset by use."""
    (table,) = CONTROL.tables
    assert (table.family, table.name) == ("inet", "anubis")
    assert "{ fe80::a, fd61:6e75:6269:7300::a }" in table.body
    assert f"dport {SERVICE_PORT} accept" in table.body
    assert "counter" not in table.body
