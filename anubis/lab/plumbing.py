"""The network of one host, brought about by iproute2, nftables and wireguard-tools.

Runs inside the namespaces of that host. Owns the order of the steps; refuses to know what the
addresses mean.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from anubis.errors import LocalFailure
from anubis.lab.slowness import stretched
from anubis.lab.topology import Host, Interface, Topology

__all__ = ["connect", "lay_networks", "plumb", "prepare"]

_TOOL_SECONDS = 20
_SYSCTLS = {
    # Addresses are usable at once; nobody else could have them here.
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    # Nobody advertises routes here; asking for them would only be noise in captures.
    "net.ipv6.conf.default.accept_ra": "0",
    # What systemd sets on a real host; without it reverse-path trouble would not show here.
    "net.ipv4.conf.all.rp_filter": "2",
    "net.ipv4.conf.default.rp_filter": "2",
}
_FORWARDING = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
_BRIDGE_FILTERS = ("iptables", "ip6tables", "arptables")


def prepare(host: Host) -> None:
    """Set the kernel parameters, which interfaces take over when made. Raises LocalFailure."""
    _sysctls(_SYSCTLS | (_FORWARDING if host.forwarding else {}))


def lay_networks(topology: Topology) -> None:
    """Make the networks in the router's namespace, which is this one. Raises LocalFailure."""
    prepare(topology.router)
    filters = (f"net.bridge.bridge-nf-call-{name}" for name in _BRIDGE_FILTERS)
    _sysctls({name: "0" for name in filters if _sysctl_path(name).exists()})
    networks = topology.networks()
    _ip(
        line
        for network in networks
        for line in (
            f"link add name {network} type bridge mcast_snooping 0",
            f"link set dev {network} addrgenmode none up",
        )
    )


def connect(host: Host, process: int) -> None:
    """Connect the namespaces of `process` to the host's networks. Raises LocalFailure."""
    _ip(_cables(host, process))


def _cables(host: Host, process: int) -> Iterator[str]:
    for number, network in enumerate(host.networks()):
        cable = f"{host.name}.{number}"
        yield f"link add name {cable} type veth peer name {network} netns {process}"
        yield f"link set dev {cable} master {network} addrgenmode none up"


def plumb(host: Host) -> None:
    """Set up everything inside this host's namespaces. Raises LocalFailure."""
    _ip(["link set dev lo up"])
    for interface in host.interfaces:
        _ip(_address_lines(interface))
    if host.tunnel:
        _wireguard(host.tunnel)
    _ip(f"route add {route}" for route in host.routes)
    if host.firewall:
        _tool(["nft", "-f", "-"], host.firewall)


def _address_lines(interface: Interface) -> Iterator[str]:
    yield f"link set dev {interface.network} up"
    for address in interface.addresses:
        yield f"address add {address} dev {interface.network}"


def _wireguard(tunnel: Interface) -> None:
    name = tunnel.network
    made = subprocess.run(
        ["ip", "link", "add", "dev", name, "type", "wireguard"],
        capture_output=True,
        check=False,
        timeout=stretched(_TOOL_SECONDS),
    )
    if made.returncode != 0:
        _tool(["wireguard-go", name])
    _tool(["wg", "setconf", name, f"/etc/wireguard/{name}.conf"])
    _ip([f"link set dev {name} mtu 1420", *_address_lines(tunnel)])


def _ip(lines: Iterator[str] | list[str]) -> None:
    _tool(["ip", "-batch", "-"], "\n".join(lines) + "\n")


def _tool(command: list[str], text: str = "") -> None:
    result = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=stretched(_TOOL_SECONDS),
    )
    if result.returncode != 0:
        reason = (result.stderr or result.stdout).strip() or f"exit status {result.returncode}"
        raise LocalFailure(f"{' '.join(command)}: {reason}")


def _sysctl_path(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))


def _sysctls(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        try:
            _sysctl_path(name).write_text(value)
        except OSError as error:
            raise LocalFailure(f"cannot set {name}: {error.strerror}") from None
