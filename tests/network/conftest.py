"""Network namespaces for these tests, and oracles that look into them from outside Anubis.

The test process itself enters a namespace (setns of its one thread), so that the code under test
runs there unchanged and faults can be injected. Namespaces live as long as a child that reads
standard input: they also end when the test process is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from anubis.network.apply import Network

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace of its own, with `lo` up and IPv6 address detection off."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.pid = self._holder.pid
        self.run("ip link set lo up")
        self.sysctl("net.ipv6.conf.default.accept_dad", "0")
        self.sysctl("net.ipv6.conf.default.addr_gen_mode", "1")

    def close(self) -> None:
        """End the namespace and all that is in it."""
        self._holder.communicate(timeout=10)

    def run(self, command: str, stdin: str = "") -> str:
        """Run a command (words split at spaces) in the namespace; return what it prints."""
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command.split()],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def json(self, command: str) -> Any:
        """Run a command that prints JSON."""
        return json.loads(self.run(command) or "[]")

    def sysctl(self, name: str, value: str) -> None:
        """Set a kernel parameter of the namespace."""
        with self.entered():
            Path("/proc/sys").joinpath(*name.split(".")).write_text(value)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in the namespace with this thread."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            _setns(inside)
            yield
        finally:
            _setns(before)
            os.close(inside)
            os.close(before)

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """Open a socket that stays in the namespace."""
        with self.entered():
            return socket.socket(family, kind)

    def connect(self, interface: str, other: Namespace, other_interface: str) -> None:
        """Lay a cable. Both ends have one MAC and no ARP, so that it is an L3 link like WireGuard.

        (With neighbour discovery, confinement would cut the link itself.)
        """
        mac = "02:00:00:00:00:01"
        self.run(
            f"ip link add {interface} netns {self.pid} address {mac} type veth"
            f" peer name {other_interface} netns {other.pid} address {mac}"
        )
        for end, name in ((self, interface), (other, other_interface)):
            end.run(f"ip link set {name} arp off up")

    def everything(self) -> str:
        """Return rules, routes, nftables and our kernel parameter, byte for byte."""
        commands = (
            "ip -json -4 rule",
            "ip -json -6 rule",
            "ip -json -4 route show table all",
            "ip -json -6 route show table all",
            "nft -j list ruleset",
            "cat /proc/sys/net/ipv4/conf/all/src_valid_mark",
        )
        return "\n".join(self.run(command) for command in commands)

    def content(self) -> tuple[str, list[str]]:
        """Return the same without nftables' handles and order, which a table made anew has not."""
        lines = self.everything().splitlines()
        kept = "\n".join(line for line in lines if '"nftables"' not in line)
        tables = self.run("nft --stateless list ruleset").split("table ")
        return kept, sorted(table.strip() for table in tables)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture
def namespaces() -> Iterator[contextlib.ExitStack]:
    """Close at the end what was pushed here, whatever happens."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def uplink(namespaces: contextlib.ExitStack) -> Namespace:
    """Make the rest of the Internet: one hop from the host."""
    return namespaces.enter_context(contextlib.closing(Namespace()))


@pytest.fixture
def host(namespaces: contextlib.ExitStack, uplink: Namespace) -> Namespace:
    """Make a host with an uplink `eth0`, a LAN `lan0` and an interface `wg0` to route into.

    `wg0` is a tun device without a reader: packets go nowhere, but the kernel's decisions are real.
    """
    host = namespaces.enter_context(contextlib.closing(Namespace()))
    host.connect("eth0", uplink, "eth0")
    host.run("ip address add 192.0.2.2/24 dev eth0")
    host.run("ip address add 2001:db8::2/64 dev eth0")
    host.run("ip route add default via 192.0.2.1")
    host.run("ip route add default via 2001:db8::1")
    for name, addresses in (
        ("lan0", ("192.168.7.1/24", "fd00:7::1/64")),
        ("wg0", ("10.66.0.2/32", "fd00:66::2/128")),
    ):
        host.run(f"ip tuntap add {name} mode tun")
        host.run(f"ip link set {name} up")
        for address in addresses:
            host.run(f"ip address add {address} dev {name}")
    return host


@pytest.fixture
async def network(host: Namespace) -> AsyncIterator[Network]:
    """Open the code under test inside the host; the whole test runs there."""
    with host.entered():
        async with Network() as network:
            yield network
