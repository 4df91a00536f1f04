"""What strangers took away or changed is put back, one thing at a time, and named."""

from __future__ import annotations

import errno
from ipaddress import IPv6Address, ip_network

import pytest

from anubis.network.apply import Network
from anubis.network.changes import Mended
from anubis.network.errors import NetworkError
from anubis.network.plan import control_plane_state, production_state
from anubis.network.state import Route
from anubis.network.watch import Change
from tests.network.conftest import Namespace

STATE = control_plane_state("lan0", IPv6Address("fd61:6e75:6269:7300::a"), 214) | production_state(
    "wg0", 214, 0xA4B1, [ip_network("0.0.0.0/0"), ip_network("10.1.0.0/16"), ip_network("::/0")],
    [ip_network("10.1.5.0/24")],
)  # fmt: skip
THROW = "route 10.1.5.0/24 throw table 214"
CHANGES = {
    "ip rule del priority 21430": {("IPv4 rule 21430", "vanished")},
    "ip -6 rule del priority 21401": {("IPv6 rule 21401", "vanished")},
    "ip rule flush protocol 214": {
        (str(rule), "vanished") for rule in STATE.rules if rule.family == 4
    },
    "ip route flush table 214": {
        (str(route), "vanished") for route in STATE.routes if route.destination.version == 4
    },
    "ip route replace 10.1.0.0/16 dev lan0 table 214": {
        ("route 10.1.0.0/16 dev wg0 table 214", "vanished")
    },
    "ip -6 route del default table 214": {("route ::/0 dev wg0 table 214", "vanished")},
    "ip -6 route add throw fd00:5::/64 table 214 proto 214": {
        ("route fd00:5::/64 throw table 214", "appeared")
    },
    "nft delete table inet anubis": {("nftables table inet anubis", "vanished")},
    "nft flush chain inet anubis input": {("nftables table inet anubis", "changed")},
    "nft insert rule inet anubis input accept": {("nftables table inet anubis", "changed")},
    "nft add table inet anubis { flags dormant; }": {("nftables table inet anubis", "changed")},
    "nft flush ruleset": {
        ("nftables table inet anubis, nftables table inet anubis_bearer", "vanished")
    },
}


async def restore(network: Network, look: Change = Change.ANYTHING) -> tuple[Mended, ...]:
    """Look, and mend whatever there is to mend."""
    return await network.restore(STATE, look, lambda _: True)


@pytest.mark.parametrize("command", CHANGES)
async def test_what_was_changed_is_as_it_was_and_named(
    host: Namespace, network: Network, command: str
) -> None:
    """Byte for byte; a second look finds nothing to do."""
    await network.apply(STATE)
    before = host.content()
    host.run(command)
    assert host.content() != before
    mended = await restore(network)
    assert {(one.what, one.how) for one in mended} == CHANGES[command]
    assert {one.failure for one in mended} == {None}
    assert host.content() == before
    assert await restore(network) == ()


async def test_only_the_kinds_to_look_at_are_looked_at(host: Namespace, network: Network) -> None:
    """A look at rules leaves a lost route to the next one, and what is held back stays away."""
    await network.apply(STATE)
    before = host.content()
    host.run("ip route flush table 214")
    assert await restore(network, Change.RULE) == ()
    mended = await network.restore(STATE, Change.ROUTE, lambda what: what != THROW)
    assert len(mended) == 2
    assert [one.what for one in await restore(network)] == [THROW]
    assert host.content() == before


async def test_routes_that_went_with_their_link_come_back_with_it(
    host: Namespace, network: Network
) -> None:
    """While it is down they are named as failures, and the others are put back all the same."""
    await network.apply(STATE)
    host.run("ip link set wg0 down")
    host.run("ip route del throw 10.1.5.0/24 table 214")
    mended = {one.what: one.failure for one in await restore(network)}
    assert mended[THROW] is None
    assert mended["route 10.1.0.0/16 dev wg0 table 214"] is not None
    host.run("ip link set wg0 up")
    assert {one.failure for one in await restore(network, Change.LINK)} == {None}
    assert await network.netlink.routes() == STATE.routes
    assert await restore(network) == ()


async def test_a_failure_stops_nothing_and_the_belief_stays(
    host: Namespace, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One route cannot be put back: all else is, and a later change begins from what is wanted."""
    await network.apply(STATE)
    host.run("ip route flush table 214")
    host.run("ip rule del priority 21430")
    replace_route = network.netlink.replace_route

    async def failing(route: Route) -> None:
        if str(route) == THROW:
            raise NetworkError("injected", errno=errno.ENOMEM)
        await replace_route(route)

    monkeypatch.setattr(network.netlink, "replace_route", failing)
    mended = {one.what: one.failure for one in await restore(network)}
    assert len(mended) == 4
    assert {what for what, failure in mended.items() if failure} == {THROW}
    assert network.applied == STATE
    monkeypatch.undo()
    assert [one.what for one in await restore(network)] == [THROW]
