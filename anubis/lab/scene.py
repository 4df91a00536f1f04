"""The scene that the lab shows: a house, a cloud gateway, a hotel and its two guests.

                        internet  203.0.113.0/24, 2001:db8:0:1::/64
          .1 |                  .2 |                  .9 |
         jacinth ══ wg-house ══ surya                  hotel (NAT, firewall)
          .1 | house                                  .1 | hotel  10.9.8.0/24, 2001:db8:9::/64
             | 192.168.7.0/24                     .10 |      .11 |
          .2 | 2001:db8:7::/64                     xena        selen
           leaf (web server)                     (laptop)     (phone)

jacinth, surya and xena run Anubis. wg-house is an ordinary tunnel that Anubis must leave alone.
Owns addresses and files; refuses to know how a host is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from anubis.addresses import control_addresses
from anubis.lab.topology import File, Host, Interface, Topology
from anubis.wireguard.keys import PrivateKey

__all__ = ["scene"]

_CONTROL_PORT = 4297
_PRODUCTION_PORT = 4296
_HOUSE_PORT = 51820
_HOUSE_LAN = "192.168.7.0/24, 2001:db8:7::/64"
_INTERNET = {"jacinth": "203.0.113.1", "surya": "203.0.113.2"}
_PRODUCTION = {
    "jacinth": "10.66.0.1/32, fd66::1/128",
    "surya": "10.66.0.2/32, fd66::2/128",
    "xena": "10.66.0.10/32, fd66::10/128",
    "selen": "10.66.0.11/32, fd66::11/128",
}
_ROUTER = "internet"
_DEFAULT_ROUTES = ("default via 203.0.113.254", "default via 2001:db8:0:1::fe")
_HOTEL_ROUTES = ("default via 10.9.8.1", "default via 2001:db8:9::1")
_HOSTS_FILE = """\
127.0.0.1 localhost
::1 localhost
203.0.113.1 jacinth
2001:db8:0:1::1 jacinth
203.0.113.2 surya
2001:db8:0:1::2 surya
203.0.113.9 hotel
2001:db8:0:1::9 hotel
192.168.7.2 leaf
2001:db8:7::2 leaf
10.9.8.10 xena
2001:db8:9::10 xena
10.9.8.11 selen
2001:db8:9::11 selen
"""
_GROUP = "anubis:x:4297:\n"  # its members may change connections
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


@dataclass(frozen=True, slots=True)
class _Keys:
    production: PrivateKey
    control: PrivateKey


def scene(random: Callable[[int], bytes] = os.urandom) -> Topology:
    """Return the whole scene, daemons included, with keys from `random`."""
    keys = {name: _new_keys(random, one_key=name == "selen") for name in _PRODUCTION}
    house = {name: PrivateKey.generate(random) for name in _INTERNET}
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


def _jacinth(keys: dict[str, _Keys], house: dict[str, PrivateKey]) -> Host:
    peers = _roaming("xena", keys["xena"]) + _roaming("selen", keys["selen"])
    return Host(
        name="jacinth",
        interfaces=(
            Interface("internet", ("203.0.113.1/24", "2001:db8:0:1::1/64")),
            Interface("house", ("192.168.7.1/24", "2001:db8:7::1/64")),
        ),
        routes=(*_DEFAULT_ROUTES, "10.66.0.0/24 dev wg-house", "fd66::/64 dev wg-house"),
        forwarding=True,
        files=(
            *_anubis_files("jacinth", keys["jacinth"], peers),
            _house_tunnel(house, "jacinth", "surya", "10.66.0.0/24, fd66::/64"),
        ),
        tunnel=Interface("wg-house", ("10.77.0.1/30", "fd77::1/64")),
        daemon=True,
    )


def _leaf() -> Host:
    return Host(
        name="leaf",
        interfaces=(Interface("house", ("192.168.7.2/24", "2001:db8:7::2/64")),),
        routes=("default via 192.168.7.1", "default via 2001:db8:7::1"),
        files=_common_files("leaf"),
        page="leaf, in the house",
    )


def _surya(keys: dict[str, _Keys], house: dict[str, PrivateKey]) -> Host:
    return Host(
        name="surya",
        interfaces=(Interface("internet", ("203.0.113.2/24", "2001:db8:0:1::2/64")),),
        routes=(*_DEFAULT_ROUTES, "192.168.7.0/24 dev wg-house", "2001:db8:7::/64 dev wg-house"),
        forwarding=True,
        files=(
            *_anubis_files("surya", keys["surya"], _roaming("xena", keys["xena"])),
            _house_tunnel(house, "surya", "jacinth", _HOUSE_LAN),
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
        files=_common_files("hotel"),
    )


def _xena(keys: dict[str, _Keys]) -> Host:
    peers = _gateway("jacinth", keys["jacinth"]) + _gateway("surya", keys["surya"])
    return Host(
        name="xena",
        interfaces=(Interface("hotel", ("10.9.8.10/24", "2001:db8:9::10/64")),),
        routes=_HOTEL_ROUTES,
        files=_anubis_files("xena", keys["xena"], peers),
        daemon=True,
    )


def _selen(keys: dict[str, _Keys]) -> Host:
    return Host(
        name="selen",
        interfaces=(Interface("hotel", ("10.9.8.11/24", "2001:db8:9::11/64")),),
        routes=_HOTEL_ROUTES,
        files=(*_common_files("selen"), _phone_tunnel(keys["selen"], keys["jacinth"])),
    )


def _new_keys(random: Callable[[int], bytes], *, one_key: bool) -> _Keys:
    production = PrivateKey.generate(random)
    return _Keys(production, production if one_key else PrivateKey.generate(random))


def _common_files(name: str) -> tuple[File, ...]:
    return (
        File("/etc/hostname", f"{name}\n"),
        File("/etc/hosts", _HOSTS_FILE),
        File("/etc/resolv.conf", "# nobody to ask here\n"),
        File("/etc/group", _GROUP, append=True),
    )


def _anubis_files(name: str, keys: _Keys, peers: str) -> tuple[File, ...]:
    configuration = f"""\
[Control]
PrivateKeyFile = /etc/anubis/control.key

[Production]
PrivateKeyFile = /etc/anubis/production.key
Address = {_PRODUCTION[name]}
"""
    return (
        *_common_files(name),
        File("/etc/anubis/anubis.conf", configuration),
        File("/etc/anubis/authorized_peers", peers),
        File("/etc/anubis/control.key", f"{keys.control.base64()}\n", 0o600),
        File("/etc/anubis/production.key", f"{keys.production.base64()}\n", 0o600),
    )


def _gateway(name: str, keys: _Keys) -> str:
    """Return the stanza by which a laptop knows a gateway to the house."""
    return f"""\
[Peer]
Name = {name}
PublicKey = {keys.production.public_key()}
ControlPublicKey = {keys.control.public_key()}
AllowedIPs = {_HOUSE_LAN}, {_PRODUCTION[name]}
Endpoint = {_INTERNET[name]}:{_PRODUCTION_PORT}
ControlEndpoint = {_INTERNET[name]}:{_CONTROL_PORT}
Group = home

"""


def _roaming(name: str, keys: _Keys) -> str:
    """Return the stanza by which a gateway knows a guest of the hotel."""
    return f"""\
[Peer]
Name = {name}
PublicKey = {keys.production.public_key()}
ControlPublicKey = {keys.control.public_key()}
AllowedIPs = {_PRODUCTION[name]}

"""


def _house_tunnel(house: dict[str, PrivateKey], here: str, there: str, allowed_ips: str) -> File:
    content = f"""\
[Interface]
PrivateKey = {house[here].base64()}
ListenPort = {_HOUSE_PORT}

[Peer]
PublicKey = {house[there].public_key()}
AllowedIPs = 10.77.0.0/30, fd77::/64, {allowed_ips}
Endpoint = {_INTERNET[there]}:{_HOUSE_PORT}
"""
    return File("/etc/wireguard/wg-house.conf", content, 0o600)


def _phone_tunnel(phone: _Keys, gateway: _Keys) -> File:
    """Return one tunnel with two peers, as WireGuard's app has it: control plane and production."""
    own = control_addresses(phone.control.public_key())
    there = control_addresses(gateway.control.public_key())
    content = f"""\
[Interface]
PrivateKey = {phone.control.base64()}
Address = {_PRODUCTION["selen"]}, {own.routable}/128

[Peer]
PublicKey = {gateway.control.public_key()}
AllowedIPs = {there.routable}/128
Endpoint = {_INTERNET["jacinth"]}:{_CONTROL_PORT}

[Peer]
PublicKey = {gateway.production.public_key()}
AllowedIPs = {_HOUSE_LAN}
Endpoint = {_INTERNET["jacinth"]}:{_PRODUCTION_PORT}
"""
    return File("/etc/wireguard/anubis.conf", content, 0o600)
