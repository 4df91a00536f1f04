"""Where packets go: what the kernel itself answers to `ip route get`, in both families."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_network

import pytest

from anubis.network.apply import Network
from anubis.network.plan import control_plane_state, production_state
from anubis.network.state import NetworkState
from tests.network.conftest import Namespace

MARK = 0xA4B1
TABLE = 214
SO_MARK = 36

SPLIT = production_state(
    "wg0",
    TABLE,
    MARK,
    [ip_network("10.1.0.0/16"), ip_network("fd00:1::/48")],
    [ip_network("10.1.5.0/24"), ip_network("fd00:1:0:5::/64")],
)
DEFAULT = production_state(
    "wg0",
    TABLE,
    MARK,
    [ip_network("0.0.0.0/0"), ip_network("::/0")],
    [ip_network("198.51.100.0/24"), ip_network("2001:db8:9::/48")],
)


def device(host: Namespace, target: str, *, marked: bool = False) -> str:
    """Return the interface by which the kernel would send a packet."""
    mark = f" mark {MARK}" if marked else ""
    return str(host.json(f"ip -json route get {target}{mark}")[0]["dev"])


async def test_an_allowed_network_goes_into_the_tunnel_and_nothing_else(
    host: Namespace, network: Network
) -> None:
    """Split routes take their networks only; bearer packets take none of them."""
    await network.apply(SPLIT)
    for inside, outside in (("10.1.2.3", "10.2.0.1"), ("fd00:1::3", "fd00:2::1")):
        assert device(host, inside) == "wg0"
        assert device(host, inside, marked=True) == "eth0"
        assert device(host, outside) == "eth0"


async def test_a_specific_route_of_ours_wins_over_main(host: Namespace, network: Network) -> None:
    """What main says about an allowed network does not matter."""
    host.run("ip route add 10.1.2.0/24 dev lan0")
    host.run("ip route add fd00:1:0:2::/64 dev lan0")
    await network.apply(SPLIT)
    assert device(host, "10.1.2.3") == "wg0"
    assert device(host, "fd00:1:0:2::3") == "wg0"


@pytest.mark.parametrize("state", [SPLIT, DEFAULT], ids=["split", "default"])
async def test_a_throw_route_keeps_its_subnet_out(
    host: Namespace, network: Network, state: NetworkState
) -> None:
    """An excluded subnet goes where main sends it, also by main's default route."""
    await network.apply(state)
    excluded = {SPLIT: ("10.1.5.1", "fd00:1:0:5::1"), DEFAULT: ("198.51.100.1", "2001:db8:9::1")}
    for target in excluded[state]:
        assert device(host, target) == "eth0"
        assert device(host, target, marked=True) == "eth0"


async def test_with_a_default_route_only_bearer_packets_and_the_lan_stay_out(
    host: Namespace, network: Network
) -> None:
    """Unmarked packets enter the tunnel, marked ones the uplink, and the LAN wins over both."""
    await network.apply(DEFAULT)
    for target, neighbour in (("203.0.113.9", "192.168.7.9"), ("2001:db8:1::9", "fd00:7::9")):
        assert device(host, target) == "wg0"
        assert device(host, target, marked=True) == "eth0"
        assert device(host, neighbour) == "lan0"
        assert device(host, neighbour, marked=True) == "lan0"


async def test_a_default_route_of_one_family_leaves_the_other_alone(
    host: Namespace, network: Network
) -> None:
    """An IPv6 default route does not capture IPv4."""
    await network.apply(production_state("wg0", TABLE, MARK, [ip_network("::/0")]))
    assert device(host, "203.0.113.9") == "eth0"
    assert device(host, "2001:db8:1::9") == "wg0"


@pytest.mark.parametrize("state", [SPLIT, DEFAULT], ids=["split", "default"])
async def test_a_bearer_packet_without_a_way_is_unreachable_and_never_loops(
    host: Namespace, network: Network, state: NetworkState
) -> None:
    """With main's default route gone, a marked packet has no route rather than the tunnel's."""
    await network.apply(state)
    host.run("ip -4 route del default")
    host.run("ip -6 route del default")
    for family, target in ((socket.AF_INET, "10.1.2.3"), (socket.AF_INET6, "fd00:1::3")):
        assert device(host, target) == "wg0"
        with host.socket(family, socket.SOCK_DGRAM) as bearer:
            bearer.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
            with pytest.raises(OSError, match="Network is unreachable"):
                bearer.connect((target, 4296))


async def test_answers_to_bearer_packets_pass_a_strict_reverse_path_filter(
    host: Namespace, uplink: Namespace, network: Network
) -> None:
    """With a default route in the tunnel, rp_filter=1 drops them unless the mark is restored."""
    host.sysctl("net.ipv4.conf.all.rp_filter", "1")
    uplink.run("ip address add 192.0.2.1/24 dev eth0")
    uplink.run("ip address add 203.0.113.1/32 dev lo")
    with (
        uplink.socket(socket.AF_INET, socket.SOCK_DGRAM) as gateway,
        host.socket(socket.AF_INET, socket.SOCK_DGRAM) as bearer,
    ):
        gateway.bind(("203.0.113.1", 4296))
        gateway.settimeout(5)
        bearer.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
        bearer.bind(("192.0.2.2", 4296))
        # Without the table and the parameter: proof that the filter would bite.
        bare = NetworkState(DEFAULT.routes, DEFAULT.rules)
        for state, answered in ((bare, False), (DEFAULT, True)):
            await network.apply(state)
            bearer.settimeout(5 if answered else 0.3)
            bearer.sendto(b"initiation", ("203.0.113.1", 4296))
            _, source = gateway.recvfrom(100)
            gateway.sendto(b"response", source)
            if answered:
                assert bearer.recv(100) == b"response"
            else:
                with pytest.raises(TimeoutError):
                    bearer.recv(100)


async def test_the_control_prefix_leads_to_the_control_plane_or_nowhere(
    host: Namespace, network: Network
) -> None:
    """A packet to the control prefix never leaves by the uplink, also when the link has gone."""
    address = IPv6Address("fd61:6e75:6269:7300::a")
    peer = "fd61:6e75:6269:7300::b"
    host.run("ip tuntap add anubis0 mode tun")
    await network.configure_link("anubis0", [], None)
    assert device(host, peer) == "eth0"
    await network.apply(control_plane_state("anubis0", address, TABLE) | DEFAULT)
    assert device(host, peer) == "anubis0"
    assert device(host, "fe80::b oif anubis0") == "anubis0"
    await network.delete_link("anubis0")
    with (
        host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stray,
        pytest.raises(PermissionError),
    ):
        stray.connect((peer, 4298))
