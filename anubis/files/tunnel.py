"""A tunnel with two peers of each gateway, as WireGuard's own apps have it, read for its keys.

Owns how the configuration that a phone imports tells which peer is a gateway's control plane and
which its production interface: the first has the control address of its key among its AllowedIPs,
and a comment `# Name = jacinth` in both says whose they are. Refuses to know how a tunnel is made.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from pathlib import Path

from anubis.addresses import CONTROL_PREFIX, control_addresses
from anubis.errors import ConfigError, Location, Problem
from anubis.files import fields
from anubis.files.ini import BadValue, Grammar, Key, Section, SectionGrammar, parse, squeeze
from anubis.wireguard.keys import PrivateKey, PublicKey
from anubis.wireguard.types import IPNetwork

__all__ = ["Gateway", "Tunnel", "load_tunnel", "parse_tunnel"]

_MAX_FILE = 2**20  # bytes

# The keys of wg(8) and wg-quick(8); what is not needed here is only passed over.
_GRAMMAR = Grammar(
    sections=(
        SectionGrammar(
            "Interface",
            (
                Key("PrivateKey", secret=True),
                *(
                    Key(name, is_list=True)
                    for name in ("Address", "DNS", "PreUp", "PostUp", "PreDown", "PostDown")
                ),
                *(Key(name) for name in ("ListenPort", "FwMark", "MTU", "Table", "SaveConfig")),
            ),
        ),
        SectionGrammar(
            "Peer",
            (
                Key("Name"),
                Key("PublicKey"),
                Key("PresharedKey", secret=True),
                Key("AllowedIPs", is_list=True),
                Key("Endpoint"),
                Key("PersistentKeepalive"),
            ),
            repeatable=True,
        ),
    )
)
_NAME = re.compile(rb"^[ \t]*#[ \t]*(?=Name[ \t]*=)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A far end of the tunnel: its production key, and where its control plane is."""

    name: str
    public_key: PublicKey
    control: IPv6Address


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What a phone has: one key for both planes, and its gateways."""

    private_key: PrivateKey
    gateways: tuple[Gateway, ...]

    @property
    def control(self) -> IPv6Address:
        """The phone's own address on the control plane."""
        return control_addresses(self.private_key.public_key()).routable


@dataclass(frozen=True, slots=True)
class _Peer:
    name: str
    public_key: PublicKey
    location: Location
    is_control: bool


def load_tunnel(path: Path) -> Tunnel:
    """Read the configuration of a tunnel. Raises ConfigError with every problem.

    It holds a private key, so nobody else may read it. Otherwise than a daemon's files it may lie
    anywhere: on a phone no directory belongs to us.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise _refusal(path, "others can read the private key in it", f"chmod 600 {path}")
    if len(data) > _MAX_FILE:
        raise _refusal(path, f"more than {_MAX_FILE} bytes", "this cannot be the right file")
    return parse_tunnel(data, path)


def parse_tunnel(data: bytes, path: Path) -> Tunnel:
    """Understand the configuration of a tunnel. Raises ConfigError with every problem."""
    problems: list[Problem] = []
    private_key: PrivateKey | None = None
    peers: list[_Peer] = []
    for section in parse(_NAME.sub(b"", data), path, _GRAMMAR, problems):
        if section.grammar.name == "Interface":
            private_key = section.one("PrivateKey", fields.private_key, None)
        else:
            peers += _read(section)
    if private_key is None and not problems:
        problems.append(Problem(Location(path), "no [Interface] with a PrivateKey"))
    gateways = tuple(_paired(peers, path, problems))
    if problems or private_key is None:
        raise ConfigError(problems)
    return Tunnel(private_key, gateways)


def _read(section: Section) -> Iterator[_Peer]:
    key = section.one("PublicKey", fields.public_key, None)
    networks = section.many("AllowedIPs", _network)
    name = section.one("Name", fields.name, "")
    if key is None:
        section.complain(None, "this [Peer] has no PublicKey")
        return
    own = control_addresses(key).networks()
    for network in networks:
        if network.version == 6 and network.subnet_of(CONTROL_PREFIX) and network not in own:
            section.complain("AllowedIPs", f"{network} is not the control address of this key")
    yield _Peer(name, key, section.location(), is_control=not own.isdisjoint(networks))


def _network(text: str) -> IPNetwork:
    """Parse any network: other than in Anubis's own files, the control plane is one here."""
    try:
        return ip_network(squeeze(text), strict=False)
    except ValueError:
        raise BadValue("not a network", "like 192.168.7.0/24 or fd00::/64") from None


def _paired(peers: list[_Peer], path: Path, problems: list[Problem]) -> Iterator[Gateway]:
    """Find both peers of each gateway."""
    for control in peers:
        if not control.is_control:
            continue
        others = [p for p in peers if not p.is_control and p.name == control.name]
        if len(others) == 1:
            name = control.name or path.stem
            yield Gateway(
                name, others[0].public_key, control_addresses(control.public_key).routable
            )
        else:
            message = f"{len(others)} production peers belong to this control plane"
            hint = "write # Name = NAME into both peers of a gateway"
            problems.append(Problem(control.location, message, hint))
    if not any(peer.is_control for peer in peers) and not problems:
        hint = "a control peer has the control address of its key in AllowedIPs"
        problems.append(Problem(Location(path), "no peer is a control plane of Anubis", hint))


def _refusal(path: Path, message: str, hint: str | None = None) -> ConfigError:
    return ConfigError([Problem(Location(path), message, hint)])
