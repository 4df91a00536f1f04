"""What is done to this host's network is heard, and what is done beside it is not."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import cast

import pytest

from anubis.network.apply import Network
from anubis.network.errors import NetworkError
from anubis.network.state import NetworkState, Route, Rule
from anubis.network.watch import Change, Watch
from tests.network.conftest import Namespace

DEADLINE = 5.0  # seconds
FLOOD = 20_000
OURS = [
    ("ip route del 10.1.0.0/16 table 214 proto 214", Change.ROUTE),
    ("ip -6 route del fd00:1::/48 table 214 proto 214", Change.ROUTE),
    ("ip route replace 10.1.0.0/16 dev lan0 table 214", Change.ROUTE),
    ("ip rule del priority 21430", Change.RULE),
    ("ip -6 rule del priority 21430", Change.RULE),
    ("nft delete table inet anubis", Change.NFTABLES),
    ("nft flush chain inet anubis input", Change.NFTABLES),
    ("nft flush ruleset", Change.NFTABLES),
    ("ip link set wg0 alias other", Change.LINK),
    ("ip link set wg0 down", Change.LINK),
    ("ip link del wg0", Change.LINK),
    ("ip addr del 10.66.0.2/32 dev wg0", Change.ADDRESS),
    ("ip addr add 192.0.2.77/24 dev eth0", Change.CONNECTIVITY),
    ("ip addr del 2001:db8::2/64 dev eth0", Change.CONNECTIVITY),
    ("ip route del default", Change.CONNECTIVITY),
]
FOREIGN = [
    "ip route add 10.77.0.0/16 dev lan0",
    "ip route add 10.77.0.0/16 dev lan0 table 214 proto static",
    "ip -6 route add fd00:77::/48 dev lan0",
    "ip rule add priority 21430 lookup main",
    "ip link set lan0 alias other",
    "nft add table inet anubis_other",
    "ip addr change 192.0.2.2/24 dev eth0 valid_lft 3600 preferred_lft 3600",
]


@pytest.fixture
async def watch(host: Namespace) -> AsyncIterator[Watch]:
    """Watch a host that has something of ours of every kind."""
    host.run("ip route add 10.1.0.0/16 dev wg0 table 214 proto 214")
    host.run("ip -6 route add fd00:1::/48 dev wg0 table 214 proto 214")
    for family in ("-4", "-6"):
        host.run(f"ip {family} rule add priority 21430 lookup 214 protocol 214")
    host.run("nft -f -", "table inet anubis {\nchain input {\naccept\n}\n}\n")
    with host.entered(), Watch(("wg0",), 214) as watch:
        yield watch


async def heard(watch: Watch) -> Change:
    """Return what is told, or fail."""
    async with asyncio.timeout(DEADLINE):
        return await watch.next()


@pytest.mark.parametrize(("command", "change"), OURS, ids=[command for command, _ in OURS])
async def test_what_concerns_us_is_told_by_its_kind(
    host: Namespace, watch: Watch, command: str, change: Change
) -> None:
    """Whatever can be deleted or changed of ours, or under our connections, is told."""
    host.run(command)
    found = await heard(watch)
    while change not in found:
        found |= await heard(watch)
    assert found != Change.ANYTHING


async def test_what_is_foreign_is_not_told(host: Namespace, watch: Watch) -> None:
    """Of many foreign changes nothing is heard; the marker after them is, and alone."""
    for command in FOREIGN:
        host.run(command)
    host.run("ip rule del priority 21430 protocol 214")
    assert await heard(watch) == Change.RULE


async def test_what_we_did_ourselves_is_not_told(host: Namespace, network: Network) -> None:
    """A change by a socket of our own is no news; the same by a stranger is."""
    routes = {Route(ip_network(text), 214, "wg0") for text in ("10.1.0.0/16", "fd00:1::/48")}
    rules = {Rule(family, 21430, table=214) for family in (4, 6)}
    with Watch(("wg0",), 214, own_ports=(network.netlink.port,)) as watch:
        await network.apply(NetworkState(frozenset(routes), frozenset(rules)))
        await network.apply(NetworkState(frozenset(routes)))
        host.run("ip route del 10.1.0.0/16 table 214 proto 214")
        assert await heard(watch) == Change.ROUTE
        await network.apply(NetworkState())
        host.run("ip rule add priority 21430 lookup 214 protocol 214")
        assert await heard(watch) == Change.RULE


async def test_a_socket_that_fails_is_told(watch: Watch) -> None:
    """Who waits learns that nothing can be heard any more, instead of waiting for ever."""
    source = next(iter(watch._sockets))

    class Failing:
        def fileno(self) -> int:
            return source.fileno()

        def recv(self, _size: int) -> bytes:
            raise OSError(errno.EIO, "injected")

    watch._read(cast("socket.socket", Failing()), watch._sieve.nftables)
    with pytest.raises(NetworkError, match="cannot watch the network"):
        await heard(watch)


async def test_a_flood_of_foreign_routes_is_dropped_by_the_kernel(
    host: Namespace, watch: Watch
) -> None:
    """As many as a router has never fill the socket: nothing is lost, nothing is told of them."""
    lines = (
        f"route {verb} 10.{n >> 8}.{n & 255}.0/24 dev lan0 table 77\n"
        for verb in ("add", "del")
        for n in range(FLOOD // 2)
    )
    host.run("ip -batch -", "".join(lines))
    host.run("ip rule del priority 21430 protocol 214")
    assert await heard(watch) == Change.RULE


async def test_an_overrun_is_told_as_anything(host: Namespace, watch: Watch) -> None:
    """When more of our own kind happens than the socket holds, every kind is to be looked at."""
    lines = (
        f"route {verb} 10.{n >> 8}.{n & 255}.0/24 dev lan0 table 77 proto 214\n"
        for verb in ("add", "del")
        for n in range(FLOOD // 2)
    )
    host.run("ip -batch -", "".join(lines))
    assert await heard(watch) == Change.ANYTHING
