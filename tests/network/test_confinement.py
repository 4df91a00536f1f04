"""Through the control plane nothing can be reached but the service port, from either end.

Real sockets listen on all addresses of all hosts; each probe is first seen to work without the
confinement, so that its silence later means something.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_interface

import pytest

from anubis.network.apply import Network
from anubis.network.plan import SERVICE_PORT, control_plane_state
from anubis.network.state import NetworkState
from tests.network.conftest import Namespace

PREFIX = "fd61:6e75:6269:7300"
OURS, THEIRS = f"{PREFIX}::a", f"{PREFIX}::b"
STATE = control_plane_state("anubis0", IPv6Address(OURS), 214)
PORTS = (22, 53, 80, 4296, 4297, 4298, 51820, 65535)
QUIET = 0.25  # seconds of silence after which nothing more is expected

Reached = set[tuple[str, str, int]]  # address, "udp" or "tcp", port


class Services:
    """Listeners on every address of a namespace, on each of PORTS, UDP and TCP, both families."""

    def __init__(self, where: Namespace, stack: contextlib.ExitStack) -> None:
        self.udp: list[socket.socket] = []
        for port in PORTS:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                listener = stack.enter_context(where.socket(socket.AF_INET6, kind))
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                listener.bind(("::", port))
                if kind is socket.SOCK_STREAM:
                    listener.listen(64)
                else:
                    self.udp.append(listener)

    def heard(self) -> Reached:
        """Return what the UDP listeners received, once they are quiet."""
        heard: Reached = set()
        while ready := select.select(self.udp, [], [], QUIET)[0]:
            for listener in ready:
                address, port = listener.recv(200).decode().split()
                assert listener.getsockname()[1] == int(port)
                heard.add((address, "udp", int(port)))
        return heard


def probe(
    source: Namespace,
    services: Services,
    addresses: Iterable[str],
    *,
    bind: tuple[str, int] | None = None,
) -> Reached:
    """Try all ports of all addresses, UDP and TCP, from a namespace; return what was reached.

    `bind` is the source address and port of the UDP probes.
    """
    with contextlib.ExitStack() as stack:
        connecting = {}
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            for port in PORTS:
                with source.entered():
                    target = socket.getaddrinfo(address, port, family)[0][4]
                datagram = stack.enter_context(source.socket(family, socket.SOCK_DGRAM))
                if bind is not None and family == socket.AF_INET6:
                    datagram.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    datagram.bind(bind)
                # A refusal by the sender's own kernel is as good as silence.
                with contextlib.suppress(OSError):
                    datagram.sendto(f"{address} {port}".encode(), target)
                stream = stack.enter_context(source.socket(family, socket.SOCK_STREAM))
                stream.settimeout(0)
                with contextlib.suppress(OSError):
                    stream.connect(target)
                connecting[stream] = (address, "tcp", port)
        return services.heard() | _connected(connecting)


def _connected(connecting: dict[socket.socket, tuple[str, str, int]]) -> Reached:
    """Return the connections that come to stand before all is quiet."""
    connected: Reached = set()
    deadline = time.monotonic() + QUIET
    pending = set(connecting)
    while pending and (left := deadline - time.monotonic()) > 0:
        for stream in select.select([], pending, [], left)[1]:
            pending.discard(stream)
            with contextlib.suppress(OSError):
                stream.getpeername()
                connected.add(connecting[stream])
    return connected


def everything(addresses: Iterable[str]) -> Reached:
    """Return what a probe reaches that nothing stops."""
    return {(a, kind, port) for a in addresses for kind in ("udp", "tcp") for port in PORTS}


def service_only(addresses: Iterable[str]) -> Reached:
    """Return what a probe may reach."""
    return {(address, kind, SERVICE_PORT) for address in addresses for kind in ("udp", "tcp")}


@pytest.fixture
async def peer(
    namespaces: contextlib.ExitStack, host: Namespace, uplink: Namespace, network: Network
) -> Namespace:
    """Make the far end of the control plane: a host with routes for everything through it.

    The host forwards, all have IPv4 too, and an administrator accepts all, early and late.
    """
    peer = namespaces.enter_context(contextlib.closing(Namespace()))
    host.connect("anubis0", peer, "anubis0")
    await network.configure_link("anubis0", [ip_interface(OURS), ip_interface("fe80::a")], None)
    host.run("ip address add 10.99.0.1/24 dev anubis0")
    for address in ("10.99.0.2/24", f"{THEIRS}/64", "fe80::b/64"):
        peer.run(f"ip address add {address} dev anubis0")
    host.run(f"ip route add {PREFIX}::/64 dev anubis0 metric 5")
    for family in ("-4", "-6"):
        peer.run(f"ip {family} route add default dev anubis0")
    for address in ("192.0.2.1/24", "2001:db8::1/64"):
        uplink.run(f"ip address add {address} dev eth0")
    uplink.run("ip route add 10.99.0.0/24 via 192.0.2.2")
    uplink.run(f"ip route add {PREFIX}::/64 via 2001:db8::2")
    host.sysctl("net.ipv4.ip_forward", "1")
    host.sysctl("net.ipv6.conf.all.forwarding", "1")
    for hook in ("input", "forward", "output"):
        for name, priority in (("early", -200), ("late", 200)):
            chain = f"chain {hook}_{name} {{ type filter hook {hook} priority {priority};"
            host.run("nft -f -", f"table inet administrator {{ {chain} accept; }}\n}}\n")
    return peer


OUR_ADDRESSES = (OURS, "10.99.0.1", "192.0.2.2", "2001:db8::2", "192.168.7.1", "fd00:66::2")


async def test_the_peer_reaches_the_service_port_only(
    host: Namespace, peer: Namespace, network: Network, namespaces: contextlib.ExitStack
) -> None:
    """Whatever listens, on whatever address of this host, by IPv4 or IPv6, from whatever port."""
    services = Services(host, namespaces)
    assert probe(peer, services, OUR_ADDRESSES) == everything(OUR_ADDRESSES)
    await network.apply(STATE)
    targets = (*OUR_ADDRESSES, "fe80::a%anubis0")
    allowed = service_only((OURS, "fe80::a%anubis0"))
    assert probe(peer, services, targets) == allowed
    assert probe(peer, services, [OURS], bind=(THEIRS, SERVICE_PORT)) == service_only([OURS])
    await network.apply(NetworkState())
    assert probe(peer, services, OUR_ADDRESSES) == everything(OUR_ADDRESSES)


async def test_this_host_reaches_the_peers_service_port_only(
    host: Namespace, peer: Namespace, network: Network, namespaces: contextlib.ExitStack
) -> None:
    """The far end is protected from us just the same, and its answers come back."""
    services = Services(peer, namespaces)
    addresses = (THEIRS, "10.99.0.2")
    assert probe(host, services, addresses) == everything(addresses)
    await network.apply(STATE)
    targets = (*addresses, "fe80::b%anubis0")
    assert probe(host, services, targets) == service_only((THEIRS, "fe80::b%anubis0"))


@pytest.mark.parametrize(
    "state",
    [STATE, NetworkState(tables=STATE.tables), NetworkState(STATE.routes, STATE.rules)],
    ids=["both", "nftables alone", "rules alone"],
)
async def test_nobody_is_forwarded_from_the_control_plane(
    uplink: Namespace,
    peer: Namespace,
    network: Network,
    namespaces: contextlib.ExitStack,
    state: NetworkState,
) -> None:
    """A peer does not get through this host to a third one; table and rules each see to it."""
    services = Services(uplink, namespaces)
    addresses = ("192.0.2.1", "2001:db8::1")
    assert probe(peer, services, addresses) == everything(addresses)
    await network.apply(state)
    assert probe(peer, services, addresses) == set()


async def test_nobody_is_forwarded_into_the_control_plane(
    uplink: Namespace, peer: Namespace, network: Network, namespaces: contextlib.ExitStack
) -> None:
    """A third host does not get through this one to a peer, not even to the service port."""
    services = Services(peer, namespaces)
    addresses = (THEIRS, "10.99.0.2")
    assert probe(uplink, services, addresses) == everything(addresses)
    await network.apply(STATE)
    assert probe(uplink, services, addresses) == set()


async def test_a_control_address_cannot_be_spoofed_from_another_interface(
    host: Namespace,
    uplink: Namespace,
    peer: Namespace,
    network: Network,
    namespaces: contextlib.ExitStack,
) -> None:
    """A packet with a peer's source address is dropped unless it came through the tunnel."""
    services = Services(host, namespaces)
    uplink.run(f"ip address add {THEIRS}/128 dev lo")
    addresses = (OURS, "2001:db8::2")
    forged = {(address, "udp", port) for address in addresses for port in PORTS}
    assert probe(uplink, services, addresses, bind=(THEIRS, 0)) >= forged
    await network.apply(STATE)
    assert forged.isdisjoint(probe(uplink, services, addresses, bind=(THEIRS, 0)))
    assert probe(uplink, services, [OURS]) == set()
    assert probe(peer, services, [OURS]) == service_only([OURS])


async def test_use_leaves_no_mark_on_the_ruleset(
    host: Namespace, peer: Namespace, network: Network, namespaces: contextlib.ExitStack
) -> None:
    """Traffic, allowed or dropped, does not change a byte of what `nft` shows."""
    services = Services(host, namespaces)
    await network.apply(STATE)
    before = host.everything()
    assert probe(peer, services, [OURS]) == service_only([OURS])
    assert host.everything() == before
