"""Links get their addresses without touching main, and MTUs are those of wg-quick."""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from anubis.network.apply import Network
from anubis.network.errors import NetworkError
from tests.network.conftest import Namespace

MARK = 0xA4B1
ADDRESSES = [ip_interface("10.66.0.9/24"), ip_interface("fd00:66::9/64")]


def addresses_of(host: Namespace, interface: str) -> set[str]:
    """Return the addresses that `ip` shows."""
    entry = host.json(f"ip -json address show dev {interface}")[0]
    return {f"{address['local']}/{address['prefixlen']}" for address in entry["addr_info"]}


async def test_a_configured_link_is_up_and_main_is_untouched(
    host: Namespace, network: Network
) -> None:
    """Addresses with their prefixes, no link-local of the kernel's own, and no route in main."""
    host.sysctl("net.ipv6.conf.default.addr_gen_mode", "0")
    host.run("ip link add wg1 type veth peer name wg1peer")
    before = [host.run(f"ip -json {family} route show table main") for family in ("-4", "-6")]
    for _ in range(2):
        await network.configure_link("wg1", ADDRESSES, 1380)
    after = [host.run(f"ip -json {family} route show table main") for family in ("-4", "-6")]
    assert after == before
    assert addresses_of(host, "wg1") == {"10.66.0.9/24", "fd00:66::9/64"}
    link = host.json("ip -json -detail link show dev wg1")[0]
    assert "UP" in link["flags"]
    assert link["mtu"] == await network.mtu("wg1") == 1380
    assert link["inet6_addr_gen_mode"] == "none"
    await network.set_mtu("wg1", 1400)
    assert host.json("ip -json link show dev wg1")[0]["mtu"] == 1400


async def test_addresses_that_were_added_are_taken_back_on_failure(
    host: Namespace, network: Network
) -> None:
    """An impossible MTU is refused by the kernel; the address that was there before stays."""
    host.run("ip link add wg1 type veth peer name wg1peer")
    host.run("ip address add fd00:66::9/64 dev wg1")
    with pytest.raises(NetworkError, match="set the MTU of wg1 to 17"):
        await network.configure_link("wg1", ADDRESSES, 17)
    assert addresses_of(host, "wg1") == {"fd00:66::9/64"}


async def test_a_deleted_link_is_gone_and_deleting_it_again_is_fine(
    host: Namespace, network: Network
) -> None:
    """Deletion is idempotent; the index tells whether a link is there."""
    assert network.link_index("wg0") == host.json("ip -json link show dev wg0")[0]["ifindex"]
    await network.delete_link("wg0")
    assert network.link_index("wg0") is None
    await network.delete_link("wg0")
    with pytest.raises(NetworkError, match="there is no interface wg0"):
        await network.configure_link("wg0", [], None)


async def test_the_alias_of_a_link_can_be_set_and_read(host: Namespace, network: Network) -> None:
    """`ip link` shows the alias that was set; without one there is none."""
    assert await network.alias("wg0") is None
    await network.set_alias("wg0", "made by a test")
    assert host.json("ip -json link show dev wg0")[0]["ifalias"] == "made by a test"
    assert await network.alias("wg0") == "made by a test"


def wg_quick_mtu(host: Namespace, endpoints: list[str], directory: Path) -> int:
    """Return the MTU that wg-quick itself gives a tunnel to these endpoints.

    A private /run keeps wireguard-go's socket out of the machine's, and wireguard-go ends with its
    process namespace.
    """
    name = f"wgq{os.getpid()}"
    key = host.run("wg genkey").strip()
    peers = [
        f"[Peer]\nPublicKey = {host.run('wg pubkey', host.run('wg genkey')).strip()}\n"
        f"Endpoint = {endpoint}\n"
        for endpoint in endpoints
    ]
    configuration = directory / f"{name}.conf"
    configuration.write_text(f"[Interface]\nPrivateKey = {key}\nTable = off\n" + "".join(peers))
    configuration.chmod(0o600)
    script = directory / "script"
    script.write_text(
        f"mount -t tmpfs none /run\nwg-quick up {configuration} >&2\nip -json link show {name}\n"
    )
    links = host.json(f"unshare --mount --pid --fork --kill-child sh -e {script}")
    return int(links[0]["mtu"])


@pytest.mark.parametrize(
    "endpoints",
    [
        ["192.0.2.77"],
        ["10.5.0.1"],
        ["10.6.0.1"],
        ["2001:db8:5::1"],
        ["10.5.0.1", "10.6.0.1"],
        ["10.6.0.1", "2001:db8:5::1", "203.0.113.1"],
        ["10.255.0.1"],
        [],
    ],
    ids=str,
)
async def test_the_mtu_is_the_one_of_wg_quick(
    host: Namespace, network: Network, tmp_path: Path, endpoints: list[str]
) -> None:
    """Device's MTU, route's own MTU, several endpoints, an unreachable one, none at all."""
    host.run("ip link set eth0 mtu 1472")
    host.run("ip link set lan0 mtu 9000")
    host.run("ip route add 10.5.0.0/16 via 192.0.2.1 mtu 1399")
    host.run("ip route add 10.6.0.0/16 dev lan0")
    host.run("ip route add 2001:db8:5::/48 via 2001:db8::1 mtu 1444")
    host.run("ip route add unreachable 10.255.0.0/16")
    with_ports = [f"[{e}]:4296" if ":" in e else f"{e}:4296" for e in endpoints]
    theirs = wg_quick_mtu(host, with_ports, tmp_path)
    assert await network.bearer_mtu([ip_address(e) for e in endpoints], MARK) == theirs


async def test_without_any_route_the_mtu_is_that_of_ethernet(
    host: Namespace, network: Network
) -> None:
    """1500 less WireGuard's 80."""
    host.run("ip link set eth0 mtu 1472")
    host.run("ip -4 route del default")
    host.run("ip -6 route del default")
    assert await network.bearer_mtu([]) == 1420


async def test_what_was_asked_leaves_no_answer_behind(host: Namespace, network: Network) -> None:
    """Every datagram from the kernel is taken out of the library's queues: nothing piles up."""
    for _ in range(3):
        await network.mtu("wg0")
        await network.alias("wg0")
        await network.link_is_up("wg0")
        await network.link_addresses("wg0")
        await network.bearer_mtu([ip_address("192.0.2.77"), ip_address("10.255.0.1")], MARK)
        await network.netlink.rules()
        await network.netlink.routes()
    waiting = network.netlink.socket.msg_queue.queues
    assert {tag: queue.qsize() for tag, queue in waiting.items()} == {0: 0}
