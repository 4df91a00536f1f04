"""The files of the scene's hosts: keys, Anubis's own configuration, tunnels set up by hand.

Owns their text; refuses to know interfaces and routes (`anubis.lab.scene`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anubis.addresses import control_addresses
from anubis.lab.topology import File
from anubis.wireguard.keys import PrivateKey

__all__ = [
    "HOUSE_LAN",
    "INTERNET",
    "PRODUCTION",
    "HostKeys",
    "anubis_files",
    "common_files",
    "gateway",
    "house_tunnel",
    "new_keys",
    "phone_tunnel",
    "roaming",
]

_CONTROL_PORT = 4297
_PRODUCTION_PORT = 4296
_HOUSE_PORT = 51820
HOUSE_LAN = "192.168.7.0/24, 2001:db8:7::/64"
INTERNET = {"jacinth": "203.0.113.1", "surya": "203.0.113.2"}
PRODUCTION = {
    "jacinth": "10.66.0.1/32, fd66::1/128",
    "surya": "10.66.0.2/32, fd66::2/128",
    "xena": "10.66.0.10/32, fd66::10/128",
    "selen": "10.66.0.11/32, fd66::11/128",
}
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
_GROUPS = "anubis:x:4297:\nanubisd:x:4298:\n"  # who may change connections; the daemon's own
_USER = "anubisd:x:4298:4298:Anubis daemon:/:/usr/sbin/nologin\n"


@dataclass(frozen=True, slots=True)
class HostKeys:
    """The private keys of one host."""

    production: PrivateKey
    control: PrivateKey


def new_keys(random: Callable[[int], bytes], *, one_key: bool) -> HostKeys:
    """Make a host's keys; a phone has one for both planes."""
    production = PrivateKey.generate(random)
    return HostKeys(production, production if one_key else PrivateKey.generate(random))


def common_files(name: str) -> tuple[File, ...]:
    """Return what every host has: its name, the others' names, Anubis's groups and user."""
    return (
        File("/etc/hostname", f"{name}\n"),
        File("/etc/hosts", _HOSTS_FILE),
        File("/etc/resolv.conf", "# nobody to ask here\n"),
        File("/etc/group", _GROUPS, append=True),
        File("/etc/passwd", _USER, append=True),
    )


def anubis_files(name: str, keys: HostKeys, peers: str) -> tuple[File, ...]:
    """Return all files of a host that runs Anubis."""
    configuration = f"""\
[Control]
PrivateKeyFile = /etc/anubis/control.key

[Production]
PrivateKeyFile = /etc/anubis/production.key
Address = {PRODUCTION[name]}
"""
    return (
        *common_files(name),
        File("/etc/anubis/anubis.conf", configuration),
        File("/etc/anubis/authorized_peers", peers),
        File("/etc/anubis/control.key", f"{keys.control.base64()}\n", 0o600),
        File("/etc/anubis/production.key", f"{keys.production.base64()}\n", 0o600),
    )


def gateway(name: str, keys: HostKeys) -> str:
    """Return the stanza by which a laptop knows a gateway to the house."""
    return f"""\
[Peer]
Name = {name}
PublicKey = {keys.production.public_key()}
ControlPublicKey = {keys.control.public_key()}
AllowedIPs = {HOUSE_LAN}, {PRODUCTION[name]}
Endpoint = {INTERNET[name]}:{_PRODUCTION_PORT}
ControlEndpoint = {INTERNET[name]}:{_CONTROL_PORT}
Group = home

"""


def roaming(name: str, keys: HostKeys, *, one_shot: bool = False) -> str:
    """Return the stanza by which a gateway knows a guest of the hotel; one may ask by web."""
    by_web = "OneShot = yes\n" if one_shot else ""
    return f"""\
[Peer]
Name = {name}
PublicKey = {keys.production.public_key()}
ControlPublicKey = {keys.control.public_key()}
AllowedIPs = {PRODUCTION[name]}
{by_web}
"""


def house_tunnel(house: dict[str, PrivateKey], here: str, there: str, allowed_ips: str) -> File:
    """Return one end's configuration of the ordinary tunnel between the gateways."""
    content = f"""\
[Interface]
PrivateKey = {house[here].base64()}
ListenPort = {_HOUSE_PORT}

[Peer]
PublicKey = {house[there].public_key()}
AllowedIPs = 10.77.0.0/30, fd77::/64, {allowed_ips}
Endpoint = {INTERNET[there]}:{_HOUSE_PORT}
"""
    return File("/etc/wireguard/wg-house.conf", content, 0o600)


def phone_tunnel(phone: HostKeys, gateway: HostKeys) -> File:
    """Return one tunnel with two peers, as WireGuard's app has it: control plane and production."""
    own = control_addresses(phone.control.public_key())
    there = control_addresses(gateway.control.public_key())
    content = f"""\
[Interface]
PrivateKey = {phone.control.base64()}
Address = {own.routable}/128, {PRODUCTION["selen"]}

[Peer]
# Name = jacinth
PublicKey = {gateway.control.public_key()}
AllowedIPs = {there.routable}/128
Endpoint = {INTERNET["jacinth"]}:{_CONTROL_PORT}

[Peer]
# Name = jacinth
PublicKey = {gateway.production.public_key()}
AllowedIPs = {HOUSE_LAN}
Endpoint = {INTERNET["jacinth"]}:{_PRODUCTION_PORT}
"""
    return File("/etc/wireguard/anubis.conf", content, 0o600)
