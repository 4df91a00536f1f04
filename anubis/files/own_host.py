"""The section `[Host]` of `anubis.conf`: what this host tells others of itself.

Owns its keys. Refuses to know what it is told for; what is missing is asked for where a
configuration is written for somebody else (`introduction`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from anubis.files import fields
from anubis.files.endpoints import OwnEndpoint, own_endpoint
from anubis.files.ini import BadValue, Key, Section, SectionGrammar, squeeze
from anubis.wireguard.types import IPNetwork

__all__ = ["SECTION", "Host", "dns", "parse_host"]

SECTION = SectionGrammar(
    "Host",
    (
        Key("Name"),
        Key("Endpoint"),
        Key("ControlEndpoint"),
        Key("Networks", is_list=True),
        Key("DNS", is_list=True),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What others have to know of this host beside its keys and addresses."""

    name: str | None = None  # None: its host name
    endpoint: OwnEndpoint | None = None
    control_endpoint: OwnEndpoint | None = None  # None: the host of `endpoint`
    networks: tuple[IPNetwork, ...] = ()
    dns: tuple[str, ...] = ()  # addresses of name servers, and search domains


def parse_host(section: Section) -> Host:
    """Return what the section says, adding to its problems what is wrong."""
    return Host(
        name=section.one("Name", fields.name, None),
        endpoint=section.one("Endpoint", own_endpoint, None),
        control_endpoint=section.one("ControlEndpoint", own_endpoint, None),
        networks=tuple(dict.fromkeys(section.many("Networks", fields.network))),
        dns=tuple(dict.fromkeys(section.many("DNS", dns))),
    )


def dns(text: str) -> str:
    """Parse the address of a name server, or a domain in which names are looked up."""
    text = squeeze(text)
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        found = own_endpoint(text)
    except BadValue:
        found = None
    if found is None or found.port is not None:
        raise BadValue("not a name server", "an address like 192.168.7.1, or a search domain")
    return found.host
