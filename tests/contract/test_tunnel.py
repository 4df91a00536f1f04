"""A real tunnel between two hosts through the backends: handshake, ping, counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from ipaddress import IPv4Network, ip_address, ip_network

import pytest

from anubis.wireguard.backend import Backend
from anubis.wireguard.keys import PresharedKey, PrivateKey
from anubis.wireguard.types import DeviceChange, Endpoint, PeerChange
from tests.contract.conftest import BACKENDS
from tests.namespaces import Namespace, connect

SECRET = PresharedKey(bytes(range(32)))


async def bring_up(
    backend: Backend, host: Namespace, number: int, key: PrivateKey, other: PrivateKey
) -> None:
    """Make host 1 or 2 of 192.0.2.0/30 and its tunnel end 10.0.0.1 or .2."""
    far = 3 - number
    change = DeviceChange(
        private_key=key,
        listen_port=4296,
        peers=(
            PeerChange(
                other.public_key(),
                preshared_key=SECRET,
                endpoint=Endpoint(ip_address(f"192.0.2.{far}"), 4296),
                allowed_ips=frozenset({IPv4Network(f"10.0.0.{far}"), ip_network(f"fd00::{far}")}),
            ),
        ),
    )
    host.run("ip", "address", "add", f"192.0.2.{number}/30", "dev", "eth0")
    with host.entered():
        await backend.create("wg0")
        await backend.configure("wg0", change)
    host.run("ip", "address", "add", f"10.0.0.{number}/24", "dev", "wg0")
    host.run("ip", "address", "add", f"fd00::{number}/64", "dev", "wg0", "nodad")
    host.run("ip", "link", "set", "wg0", "up")


@pytest.mark.parametrize("make", [BACKENDS[name] for name in BACKENDS if name != "fake"])
async def test_a_tunnel_carries_pings(make: Callable[[], Backend]) -> None:
    """Two interfaces as configured here shake hands and carry IPv4 and IPv6, and say so."""
    began = time.time()
    one_key, two_key = (PrivateKey.generate(lambda size, n=n: bytes([n]) * size) for n in (1, 2))  # type: ignore[misc]
    with closing(Namespace()) as one, closing(Namespace()) as two:
        connect(one, "eth0", two, "eth0")
        ends = ((make(), one, 1, one_key, two_key), (make(), two, 2, two_key, one_key))
        for end in ends:
            await bring_up(*end)
        for target in ("10.0.0.2", "fd00::2"):
            await asyncio.to_thread(one.run, "ping", "-c1", "-W5", target)
        for backend, host, _number, _key, other in ends:
            with host.entered():
                device = await backend.device("wg0")
                peer = device.peer(other.public_key())
                assert peer is not None
                assert began - 1 < peer.last_handshake < time.time() + 1
                assert peer.rx_bytes >= 2 * 96  # two echoes or two answers, encrypted
                assert peer.tx_bytes >= 2 * 96
                await backend.delete("wg0")
            await backend.close()
