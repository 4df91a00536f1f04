"""Which way the kernel would send a packet now, and by which route and rule.

Owns the question to the kernel's routing, and what its answer says. Changes nothing, and refuses to
know which way is right.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from pyroute2.netlink.rtnl import RTM_GETROUTE, RTM_GETRULE
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from anubis.network.messages import FAMILIES, is_our_rule
from anubis.network.rtnetlink import Netlink
from anubis.network.state import IPNetwork

__all__ = ["ForeignRule", "Way", "foreign_rules", "way_to"]

# RTM_F_FIB_MATCH of linux/rtnetlink.h: the route that was found, not what became of it. IPv4 says
# its table only with RTM_F_LOOKUP_TABLE, of which IPv6, which always does, will not hear.
_AS_FOUND = {4: 0x2000 | 0x1000, 6: 0x2000}
_LOCAL = 2  # RTN_LOCAL

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Way:
    """Where a packet goes: out by an interface, or into this host, by a route of a table."""

    interface: str | None
    table: int
    route: IPNetwork
    is_local: bool


@dataclass(frozen=True, slots=True)
class ForeignRule:
    """A policy rule that is not Anubis's; `table` 0: it looks up none."""

    priority: int
    table: int


async def way_to(netlink: Netlink, address: IPAddress, mark: int = 0) -> Way:
    """Return the way of a packet to an address. Raises NetworkError, also if there is none."""
    header = {
        "family": FAMILIES[address.version],
        "dst_len": address.max_prefixlen,
        "flags": _AS_FOUND[address.version],
        "attrs": [("RTA_DST", str(address)), ("RTA_MARK", mark)],
    }
    found = await netlink.get(f"find a way to {address}", RTM_GETROUTE, rtmsg, header)
    names = dict(socket.if_nameindex())
    hops = found.get("multipath")
    nowhere = "0.0.0.0" if address.version == 4 else "::"  # noqa: S104 (no socket)
    return Way(
        interface=names.get(hops[0]["oif"] if hops else found.get("oif")),
        table=found.get("table") or found["table"],
        route=ip_network(f"{found.get('dst') or nowhere}/{found['dst_len']}"),
        is_local=found["type"] == _LOCAL,
    )


async def foreign_rules(netlink: Netlink, version: int) -> Sequence[ForeignRule]:
    """Return the rules of a family that are not ours, in their order. Raises NetworkError."""
    header = {"family": FAMILIES[version]}
    messages = await netlink.dump("list the rules", RTM_GETRULE, fibmsg, header)
    return [
        ForeignRule(each.get("priority") or 0, each.get("table") or each["table"])
        for each in messages
        if not is_our_rule(each)
    ]
