"""The order of a change: complete, invertible, and without a moment of leak or gap."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from anubis.network.changes import Step, steps
from anubis.network.plan import control_plane_state, production_state
from anubis.network.state import NetworkState, RouteKind

_NETWORKS = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "::/0", "fd00:1::/48", "fd00:2::/48"]
_choice = st.sets(st.sampled_from([ip_network(network) for network in _NETWORKS]))

states = st.builds(
    lambda mark, allowed, throw, control: (
        production_state("wg0", 214, mark, allowed, throw)
        | (control_plane_state("anubis0", IPv6Address(control), 214) if control else NetworkState())
    ),
    st.sampled_from([1, 2]),
    _choice,
    _choice,
    st.sampled_from(["", "fd61:6e75:6269:7300::a", "fd61:6e75:6269:7300::b"]),
)


def kind(step: Step) -> str:
    """Return a word for what a step does."""
    change = step.added if step.added else step.removed
    sign = "-" if not step.added else "+"
    for part in ("tables", "sysctls", "routes", "rules"):
        if getattr(change, part):
            return sign + part
    raise AssertionError(step)


@given(states, states)
def test_the_steps_lead_from_one_state_to_the_other_and_back(
    old: NetworkState, new: NetworkState
) -> None:
    """All steps give the new state; undone from any point in reverse, the old one."""
    passed = [old]
    ordered = steps(old, new)
    for step in ordered:
        passed.append(step.after(passed[-1]))
    assert passed[-1] == new
    state = new
    for step, before in zip(reversed(ordered), reversed(passed[:-1]), strict=True):
        state = step.inverse.after(state)
        assert state == before


@given(states, states)
def test_no_step_is_taken_twice_or_for_nothing(old: NetworkState, new: NetworkState) -> None:
    """A step touches one route, rule or parameter, or the tables of one transaction."""
    for step in steps(old, new):
        parts = [
            len(getattr(step.removed, part) | getattr(step.added, part))
            for part in ("routes", "rules")
        ]
        assert sum(parts) <= 1
        assert step.removed - new == step.removed
        assert step.added - old == step.added
    assert steps(old, old) == []


@given(states, states)
def test_the_order_is_the_documented_one(old: NetworkState, new: NetworkState) -> None:
    """Confinement first and last; routes before the rules that lead to them, and after."""
    order = ["+tables", "+sysctls", "+routes", "+rules", "-rules", "-routes", "-sysctls", "-tables"]
    places = {route.destination for route in (new - old).routes}
    ordered = steps(old, new)
    displaced = [s for s in ordered if any(r.destination in places for r in s.removed.routes)]
    kinds = [order.index(kind(step)) for step in ordered if step not in displaced]
    assert kinds == sorted(kinds)
    assert kinds.count(order.index("+tables")) <= 1
    assert kinds.count(order.index("-tables")) <= 1


@given(states, states)
def test_at_no_moment_do_two_routes_claim_one_place(old: NetworkState, new: NetworkState) -> None:
    """The kernel would refuse the second; the old one leaves just before."""
    state = old
    for step in steps(old, new):
        state = step.after(state)
        places = [(route.table, route.destination) for route in state.routes]
        assert len(places) == len(set(places))


@given(states, states)
def test_rules_rise_when_they_come_and_fall_when_they_go(
    old: NetworkState, new: NetworkState
) -> None:
    """An exception (a lower number) is there before what it is excepted from, and goes after it."""
    ordered = steps(old, new)
    coming = [rule.priority for step in ordered for rule in step.added.rules]
    going = [rule.priority for step in ordered for rule in step.removed.rules]
    assert coming == sorted(coming)
    assert going == sorted(going, reverse=True)


def test_a_table_of_the_same_name_is_replaced_in_one_step() -> None:
    """Between the old and the new confinement there is no moment without one."""
    old, new = (
        control_plane_state("anubis0", IPv6Address(f"fd61:6e75:6269:7300::{n}"), 214)
        for n in (1, 2)
    )
    (step,) = steps(old, new)
    assert (step.removed.tables, step.added.tables) == (old.tables, new.tables)


def test_a_subnet_that_becomes_excluded_gives_way_first() -> None:
    """Unicast to throw: the old route is removed before the new one is added."""
    subnet = ip_network("10.1.0.0/16")
    allowed = [ip_network("10.0.0.0/8"), subnet]
    old = production_state("wg0", 214, 1, allowed)
    new = production_state("wg0", 214, 1, allowed, [subnet])
    first, second = steps(old, new)
    assert {route.kind for route in first.removed.routes} == {RouteKind.UNICAST}
    assert {route.kind for route in second.added.routes} == {RouteKind.THROW}
