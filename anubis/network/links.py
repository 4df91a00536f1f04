"""Configure links that Anubis made, and find the MTU of a tunnel.

Owns addresses, MTU and link state over rtnetlink. Refuses to know WireGuard, routes and rules.

Addresses are added with `noprefixroute`: the kernel would otherwise put the subnet of each into
main, where nothing of Anubis belongs. What is reachable through a link is decided by AllowedIPs
and lies in Anubis's own table; with no connection up, nothing is.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from typing import Any

from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from anubis.network.errors import NetworkError, explain
from anubis.network.messages import FAMILIES
from anubis.network.rtnetlink import Netlink, link_index
from anubis.network.state import MAIN_TABLE

__all__ = ["WIREGUARD_OVERHEAD", "Links"]

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface

WIREGUARD_OVERHEAD = 80  # bytes: IPv6 header 40, UDP header 8, WireGuard header 16, tag 16

_FALLBACK_MTU = 1500  # bytes, as wg-quick
_FLAGS = {4: 0x200, 6: 0x202}  # IFA_F_NOPREFIXROUTE; IFA_F_NODAD: nobody else is on the link
_IFF_UP = 1  # linux/if.h
_ADDR_GEN_MODE_NONE = 1  # IN6_ADDR_GEN_MODE_NONE, linux/if_link.h


class Links:
    """Operations on links through one rtnetlink socket. Methods raise NetworkError."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    async def configure(
        self, interface: str, addresses: Iterable[IPInterface], mtu: int | None
    ) -> None:
        """Give a link its addresses and its MTU (bytes; None leaves it) and bring it up.

        The kernel makes no link-local address of its own. An address that is there already stays
        as it is. On failure the addresses added here are taken away again.
        """
        what = f"configure the interface {interface}"
        index = _require(what, interface)
        no_autoconfiguration = {
            "attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})]
        }
        added: list[IPInterface] = []
        try:
            await self._set(what, index, af_spec=no_autoconfiguration)
            present = {address.ip for address in await self.addresses(interface)}
            for address in addresses:
                if address.ip not in present:
                    await self._address("add", index, address)
                    added.append(address)
            if mtu is not None:
                await self.set_mtu(interface, mtu)
            await self._set(f"bring the interface {interface} up", index, state="up")
        except BaseException:
            for address in reversed(added):
                with contextlib.suppress(NetworkError):
                    await self._address("del", index, address)
            raise

    async def addresses(self, interface: str) -> frozenset[IPInterface]:
        """Return the addresses of a link."""
        what = f"list the addresses of {interface}"
        index = _require(what, interface)
        header = {"index": index}
        messages = await self._netlink.dump(what, RTM_GETADDR, ifaddrmsg, header)
        return frozenset(
            ip_interface(f"{message.get('local') or message.get('address')}/{message['prefixlen']}")
            for message in messages
            if message["index"] == index
        )

    async def is_up(self, interface: str) -> bool:
        """Tell whether a link is switched on."""
        what = f"read the state of {interface}"
        link = await self._link(what, _require(what, interface))
        return bool(link["flags"] & _IFF_UP)

    async def mtu(self, interface: str) -> int:
        """Return the MTU of a link in bytes."""
        what = f"read the MTU of {interface}"
        return await self._mtu_of(what, _require(what, interface))

    async def set_mtu(self, interface: str, mtu: int) -> None:
        """Set the MTU of a link in bytes."""
        what = f"set the MTU of {interface} to {mtu}"
        await self._set(what, _require(what, interface), mtu=mtu)

    async def alias(self, interface: str) -> str | None:
        """Return the alias of a link, the free text of `ip link set alias`; None without one."""
        what = f"read the alias of {interface}"
        alias = (await self._link(what, _require(what, interface))).get("ifalias")
        return str(alias) if alias else None

    async def set_alias(self, interface: str, alias: str) -> None:
        """Set the alias of a link."""
        what = f"set the alias of {interface}"
        await self._set(what, _require(what, interface), ifalias=alias)

    async def delete(self, interface: str) -> None:
        """Remove a link; one that is gone already is fine."""
        index = link_index(interface)
        if index is None:
            return
        what = f"remove the interface {interface}"
        try:
            await self._netlink.ask(what, self._netlink.socket.link("del", index=index))
        except NetworkError as error:
            if error.errno != errno.ENODEV:
                raise

    async def bearer_mtu(self, endpoints: Iterable[IPAddress], fwmark: int = 0) -> int:
        """Return the MTU in bytes for a tunnel to these endpoints, computed as wg-quick does.

        That is the largest MTU of the routes to the endpoints (the route's own, else its
        device's), without any the default route's, without one 1500; less 80 for WireGuard over
        IPv6. The ways are looked up with `fwmark`, as the bearer packets will go: not by a tunnel
        that is up already.
        """
        of_links: dict[int, int] = {}
        # Many peers may live behind one address, and all behind one link.
        found = [await self._route_mtu(one, fwmark, of_links) for one in set(endpoints)]
        known = [mtu for mtu in found if mtu]
        mtu = max(known) if known else await self._default_mtu(of_links) or _FALLBACK_MTU
        return mtu - WIREGUARD_OVERHEAD

    async def _route_mtu(
        self, endpoint: IPAddress, fwmark: int, of_links: dict[int, int]
    ) -> int | None:
        what = f"find the route to {endpoint}"
        header = {
            "family": FAMILIES[endpoint.version],
            "dst_len": endpoint.max_prefixlen,
            "attrs": [("RTA_DST", str(endpoint)), ("RTA_MARK", fwmark)],
        }
        try:
            route = await self._netlink.get(what, RTM_GETROUTE, rtmsg, header)
        except NetworkError:
            return None  # no way there now: as for wg-quick, this endpoint has no say
        return await self._mtu_along(route, of_links)

    async def _default_mtu(self, of_links: dict[int, int]) -> int | None:
        for family in FAMILIES.values():
            header = {"family": family, "attrs": [("RTA_TABLE", MAIN_TABLE)]}
            routes = await self._netlink.dump_routes("list the default routes", header)
            defaults = [route for route in routes if not route["dst_len"]]
            for route in sorted(defaults, key=lambda route: route.get("priority") or 0):
                mtu = await self._mtu_along(route, of_links)
                if mtu:
                    return mtu
        return None

    async def _mtu_along(self, route: Any, of_links: dict[int, int]) -> int | None:
        """Return a route's own MTU, else that of its device; None: it has neither.

        `of_links` has the MTUs that were read already, by index.
        """
        metrics = route.get("metrics")
        mtu = metrics.get("mtu") if metrics else None
        if mtu:
            return int(mtu)
        hops = route.get("multipath")
        index = hops[0]["oif"] if hops else route.get("oif")
        if not index:
            return None
        if index not in of_links:
            of_links[index] = await self._mtu_of("read the MTU of a route's device", index)
        return of_links[index]

    async def _mtu_of(self, what: str, index: int) -> int:
        return int((await self._link(what, index)).get("mtu"))

    async def _link(self, what: str, index: int) -> Any:
        return await self._netlink.get(what, RTM_GETLINK, ifinfmsg, {"index": index})

    async def _set(self, what: str, index: int, **settings: object) -> None:
        await self._netlink.ask(what, self._netlink.socket.link("set", index=index, **settings))

    async def _address(self, command: str, index: int, address: IPInterface) -> None:
        family = address.version
        request = {
            "index": index,
            "family": FAMILIES[family],
            "address": str(address.ip),
            "prefixlen": address.network.prefixlen,
            "flags": _FLAGS[family],
        }
        what = f"{command} the address {address}"
        await self._netlink.ask(what, self._netlink.socket.addr(command, **request))


def _require(what: str, interface: str) -> int:
    index = link_index(interface)
    if index is None:
        raise explain(what, errno.ENODEV, f"there is no interface {interface}")
    return index
