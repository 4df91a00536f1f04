"""The scene that the lab shows: a house, a cloud gateway, a hotel and its two guests.

                        internet  203.0.113.0/24, 2001:db8:0:1::/64
          .1 |                  .2 |                  .9 |
         jacinth ══ wg-house ══ surya                  hotel (NAT, firewall)
          .1 | house                                  .1 | hotel  10.9.8.0/24, 2001:db8:9::/64
             | 192.168.7.0/24                     .10 |      .11 |
          .2 | 2001:db8:7::/64                     xena        selen
           leaf (web server)                     (laptop)     (phone)

jacinth, surya and xena run Anubis. wg-house is an ordinary tunnel that Anubis must leave alone.
Owns hosts, addresses and routes; refuses to know how a host is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from anubis.lab.scene_files import (
    HOUSE_LAN,
    INTERNET,
    PRODUCTION,
    HostKeys,
    anubis_files,
    common_files,
    gateway,
    house_tunnel,
    new_keys,
    phone_tunnel,
    roaming,
)
from anubis.lab.topology import Host, Interface, Topology
from anubis.wireguard.keys import PrivateKey

__all__ = ["scene"]

_ROUTER = "internet"
_DEFAULT_ROUTES = ("default via 203.0.113.254", "default via 2001:db8:0:1::fe")
_HOTEL_ROUTES = ("default via 10.9.8.1", "default via 2001:db8:9::1")
_HOTEL_FIREWALL = """\
table inet hotel {
    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname "internet" ct state established,related accept
        iifname "internet" drop
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "internet" ip saddr 10.9.8.0/24 masquerade
    }
}
"""


def scene(random: Callable[[int], bytes] = os.urandom) -> Topology:
    """Return the whole scene, daemons included, with keys from `random`."""
    keys = {name: new_keys(random, one_key=name == "selen") for name in PRODUCTION}
    house = {name: PrivateKey.generate(random) for name in INTERNET}
    return Topology(
        router=Host(
            name=_ROUTER,
            interfaces=(Interface("internet", ("203.0.113.254/24", "2001:db8:0:1::fe/64")),),
            routes=("2001:db8:9::/64 via 2001:db8:0:1::9",),
            forwarding=True,
        ),
        hosts=(_jacinth(keys, house), _leaf(), _surya(keys, house), _hotel(), _xena(keys),
               _selen(keys)),
    )  # fmt: skip


def _jacinth(keys: dict[str, HostKeys], house: dict[str, PrivateKey]) -> Host:
    peers = roaming("xena", keys["xena"]) + roaming("selen", keys["selen"], one_shot=True)
    return Host(
        name="jacinth",
        interfaces=(
            Interface("internet", ("203.0.113.1/24", "2001:db8:0:1::1/64")),
            Interface("house", ("192.168.7.1/24", "2001:db8:7::1/64")),
        ),
        routes=(*_DEFAULT_ROUTES, "10.66.0.0/24 dev wg-house", "fd66::/64 dev wg-house"),
        forwarding=True,
        files=(
            *anubis_files("jacinth", keys["jacinth"], peers),
            house_tunnel(house, "jacinth", "surya", "10.66.0.0/24, fd66::/64"),
        ),
        tunnel=Interface("wg-house", ("10.77.0.1/30", "fd77::1/64")),
        daemon=True,
    )


def _leaf() -> Host:
    return Host(
        name="leaf",
        interfaces=(Interface("house", ("192.168.7.2/24", "2001:db8:7::2/64")),),
        routes=("default via 192.168.7.1", "default via 2001:db8:7::1"),
        files=common_files("leaf"),
        page="leaf, in the house",
    )


def _surya(keys: dict[str, HostKeys], house: dict[str, PrivateKey]) -> Host:
    return Host(
        name="surya",
        interfaces=(Interface("internet", ("203.0.113.2/24", "2001:db8:0:1::2/64")),),
        routes=(*_DEFAULT_ROUTES, "192.168.7.0/24 dev wg-house", "2001:db8:7::/64 dev wg-house"),
        forwarding=True,
        files=(
            *anubis_files("surya", keys["surya"], roaming("xena", keys["xena"])),
            house_tunnel(house, "surya", "jacinth", HOUSE_LAN),
        ),
        tunnel=Interface("wg-house", ("10.77.0.2/30", "fd77::2/64")),
        daemon=True,
    )


def _hotel() -> Host:
    return Host(
        name="hotel",
        interfaces=(
            Interface("internet", ("203.0.113.9/24", "2001:db8:0:1::9/64")),
            Interface("hotel", ("10.9.8.1/24", "2001:db8:9::1/64")),
        ),
        routes=_DEFAULT_ROUTES,
        forwarding=True,
        firewall=_HOTEL_FIREWALL,
        files=common_files("hotel"),
    )


def _xena(keys: dict[str, HostKeys]) -> Host:
    peers = gateway("jacinth", keys["jacinth"]) + gateway("surya", keys["surya"])
    return Host(
        name="xena",
        interfaces=(Interface("hotel", ("10.9.8.10/24", "2001:db8:9::10/64")),),
        routes=_HOTEL_ROUTES,
        files=anubis_files("xena", keys["xena"], peers),
        daemon=True,
    )


def _selen(keys: dict[str, HostKeys]) -> Host:
    return Host(
        name="selen",
        interfaces=(Interface("hotel", ("10.9.8.11/24", "2001:db8:9::11/64")),),
        routes=_HOTEL_ROUTES,
        files=(*common_files("selen"), phone_tunnel(keys["selen"], keys["jacinth"])),
    )
