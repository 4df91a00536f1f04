"""Where our rules stand: before strangers' that take everything, and as ever without these."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.network.plan import control_plane_state, production_state
from anubis.network.precedence import LEADING, actual, block_before, in_place, is_ours, split
from anubis.network.state import RULE_PRIORITIES, Rule


@pytest.mark.parametrize(
    ("strangers", "block"),
    [
        ([], 0),
        ([32766], 0),
        ([21440], 0),
        ([21439], 1),
        ([21399, 21398], 1),
        ([21340], 1),
        ([21339], 2),
        ([32000, 21298], 2),
        ([140], 213),
        ([139], 0),
        ([1], 0),
    ],
)
def test_the_first_block_before_all_strangers(strangers: list[int], block: int) -> None:
    """No further than need be; where there is no room, all stays as it is."""
    assert block_before(strangers) == block


@given(st.integers(1, 2**32 - 1))
def test_every_rule_of_ours_is_before_every_stranger_in_the_way(stranger: int) -> None:
    """Whatever its priority, if there is room at all."""
    block = block_before([stranger])
    last = actual(LEADING.stop - 1, block)
    assert last < stranger or (block == 0 and stranger < 140)
    assert actual(LEADING.start, block) > 0


@given(st.sampled_from(RULE_PRIORITIES), st.integers(0, 213))
def test_a_rule_is_known_again_wherever_it_stands(priority: int, block: int) -> None:
    """By its priority in the kernel alone: which it is, and in which block."""
    stands_at = actual(priority, block)
    assert is_ours(stands_at)
    assert split(stands_at) == (priority, block if priority in LEADING else 0)
    astray = Rule(4, stands_at, astray=True)
    assert in_place(astray) == Rule(4, priority)


def test_what_leads_to_networks_goes_ahead_and_default_routes_do_not() -> None:
    """Of two default routes the later one is to win."""
    from ipaddress import IPv6Address, ip_network  # noqa: PLC0415

    control = control_plane_state("anubis0", IPv6Address("fd61:6e75:6269:7300::1"), 214)
    split_tunnel = production_state("wg0", 214, 0xD6, [ip_network("10.0.0.0/8")])
    everything = production_state("wg0", 214, 0xD6, [ip_network("0.0.0.0/0")])
    leading = {rule.priority for rule in (control | split_tunnel).rules}
    assert all(priority in LEADING for priority in leading)
    default = {rule.priority for rule in everything.rules} - leading
    assert default
    assert not any(priority in LEADING for priority in default)
