"""One `[Peer]` stanza of the authorized-peers file: the value, and how text becomes one.

Owns the keys of a stanza and their defaults; refuses to know the other stanzas. What must hold
between entries is in `peer_checks`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from anubis.addresses import ControlAddresses, control_addresses
from anubis.errors import Location
from anubis.files import fields
from anubis.files.config import CONTROL_PORT
from anubis.files.ini import BadValue, Grammar, Key, Section, SectionGrammar, squeeze
from anubis.wireguard.keys import PresharedKey, PublicKey
from anubis.wireguard.types import IPNetwork

__all__ = ["GRAMMAR", "AuthorizedPeer", "NamedEndpoint", "Permission", "parse_stanza"]

Permission = Literal["up", "down", "status"]

GRAMMAR = Grammar(
    sections=(
        SectionGrammar(
            "Peer",
            (
                Key("Name"),
                Key("PublicKey"),
                Key("ControlPublicKey"),
                Key("PresharedKey", secret=True),
                Key("AllowedIPs", is_list=True),
                Key("Endpoint"),
                Key("ControlEndpoint"),
                Key("PersistentKeepalive"),
                Key("Lease"),
                Key("MaxLease"),
                Key("IdleTimeout"),
                Key("May", is_list=True),
                Key("OneShot"),
                Key("Group"),
            ),
            repeatable=True,
        ),
    ),
    elsewhere={
        "interface": "the interface and its key are configured in anubis.conf, under [Production]",
        "control": "this section is for anubis.conf",
        "production": "this section is for anubis.conf",
    },
)

_EVERY_VERB: frozenset[Permission] = frozenset({"up", "down", "status"})
_GATEWAY_VERBS: frozenset[Permission] = frozenset({"down", "status"})
_VERB_WORDS: dict[str, frozenset[Permission]] = {
    "up": frozenset({"up"}),
    "down": frozenset({"down"}),
    "status": frozenset({"status"}),
    "none": frozenset(),
}
# Prefix lengths of the largest private networks, 10.0.0.0/8 and fc00::/7 (RFC 1918, RFC 4193).
_LARGEST_PRIVATE = {4: 8, 6: 7}
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_MAX_HOST = 253  # characters; RFC 1035 section 2.3.4


@dataclass(frozen=True, slots=True)
class NamedEndpoint:
    """Where a peer's bearer packets go, as the administrator wrote it: a name or an address.

    `host` has no brackets. It is resolved when it is needed, and again when that did not help.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizedPeer:
    """An entry of the authorized-peers file: who it is, what it may ask for, what it gets."""

    name: str  # lower case
    public_key: PublicKey  # of its production interface
    control_public_key: PublicKey
    allowed_ips: frozenset[IPNetwork]
    location: Location = field(compare=False)  # it may move while the entry stays
    preshared_key: PresharedKey | None = None
    endpoint: NamedEndpoint | None = None
    control_endpoint: NamedEndpoint | None = None
    persistent_keepalive: int = 0  # seconds; 0 is off
    lease_seconds: int | None = None  # None: what [Production] says
    max_lease_seconds: int | None = None
    idle_timeout: int | None = None  # seconds; 0 is for ever
    may: frozenset[Permission] = _EVERY_VERB
    one_shot: bool = False  # may ask by web
    group: str | None = None

    @property
    def control(self) -> ControlAddresses:
        """Return the addresses of this peer on the control plane."""
        return control_addresses(self.control_public_key)


def parse_stanza(section: Section) -> AuthorizedPeer | None:
    """Return the entry that a stanza describes; None, and problems, if it describes none."""
    found_before = len(section.problems)
    name = section.one("Name", fields.name, None)
    public_key = section.one("PublicKey", fields.public_key, None)
    networks = frozenset(section.many("AllowedIPs", fields.network))
    endpoint = section.one("Endpoint", _endpoint, None)
    given_control = section.one("ControlEndpoint", _endpoint, None)
    derived_control = NamedEndpoint(endpoint.host, CONTROL_PORT) if endpoint else None
    _require(section)
    control_endpoint = given_control or derived_control
    if endpoint is not None and endpoint == control_endpoint:
        key = "ControlEndpoint" if given_control else "Endpoint"
        section.complain(
            key,
            f"{key} = {endpoint}: production and control cannot share a port",
            f"the control plane listens on {CONTROL_PORT}, production elsewhere",
        )
    control_public_key = section.one("ControlPublicKey", fields.public_key, None)
    preshared_key = section.one("PresharedKey", fields.preshared_key, None)
    keepalive = section.one("PersistentKeepalive", fields.persistent_keepalive, 0)
    lease = section.one("Lease", fields.duration, None)
    max_lease = section.one("MaxLease", fields.duration, None)
    idle_timeout = section.one("IdleTimeout", fields.idle_timeout, None)
    may = _may(section, networks)
    one_shot = section.one("OneShot", fields.yes_or_no, default=False)
    group = section.one("Group", fields.name, None)
    if len(section.problems) > found_before or name is None or public_key is None:
        return None
    return AuthorizedPeer(
        name=name,
        public_key=public_key,
        control_public_key=control_public_key or public_key,
        allowed_ips=networks,
        location=section.location(),
        preshared_key=preshared_key,
        endpoint=endpoint,
        control_endpoint=control_endpoint,
        persistent_keepalive=keepalive,
        lease_seconds=lease,
        max_lease_seconds=max_lease,
        idle_timeout=idle_timeout,
        may=may,
        one_shot=one_shot,
        group=group,
    )


def _require(section: Section) -> None:
    """Complain of the keys without which a stanza means nothing."""
    reasons = {
        "Name": "every entry needs one: Name = jacinth",
        "PublicKey": "the key of its production interface, from `anubis keygen` over there",
        "AllowedIPs": "its addresses and the networks behind it: AllowedIPs = 10.9.0.2/32",
    }
    for key, reason in reasons.items():
        if key not in section.values:
            section.complain(None, f"this [Peer] has no {key}", reason)


def _may(section: Section, networks: frozenset[IPNetwork]) -> frozenset[Permission]:
    if "May" not in section.values:
        # Whoever could bring such a connection up would become our gateway to the Internet.
        if any(network.prefixlen < _LARGEST_PRIVATE[network.version] for network in networks):
            return _GATEWAY_VERBS
        return _EVERY_VERB
    words = section.many("May", fields.one_of(_VERB_WORDS, "a verb"))
    if "none" in words and len(set(words)) > 1:
        section.complain("May", "May has none beside other words", "none stands alone")
    return frozenset[Permission]().union(*(_VERB_WORDS[word] for word in words))


def _endpoint(text: str) -> NamedEndpoint:
    text = squeeze(text)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise BadValue("no port", "host:port, like jacinth.example.org:4296 or [2001:db8::1]:4296")
    if host.startswith("[") and host.endswith("]"):
        host = _address(host[1:-1], IPv6Address)
    elif ":" in host:
        raise BadValue("an IPv6 address without brackets", "like [2001:db8::1]:4296")
    elif re.fullmatch(r"[0-9.]+", host):
        host = _address(host, IPv4Address)
    else:
        _check_host_name(host)
    return NamedEndpoint(host, fields.port(port))


def _address(text: str, kind: type[IPv4Address | IPv6Address]) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise BadValue("not an IP address", "like 192.0.2.1:4296 or [2001:db8::1]:4296") from None
    if not isinstance(found, kind) or found.is_unspecified or found.is_multicast:
        raise BadValue("not the address of a host", "like 192.0.2.1:4296 or [2001:db8::1]:4296")
    return str(found)


def _check_host_name(host: str) -> None:
    labels = host.removesuffix(".").split(".")
    if len(host) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadValue(
            "not a host name",
            "letters, digits and - between dots; other scripts in their xn-- form",
        )
