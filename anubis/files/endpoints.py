"""Where bearer packets go, as an administrator writes it: a name or an address, and a port.

Owns the form of both and the words that say what is wrong with them. Refuses to resolve a name: it
is resolved when it is needed, and again when that did not help.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from anubis.files import fields
from anubis.files.ini import BadValue, squeeze

__all__ = ["NamedEndpoint", "OwnEndpoint", "endpoint", "own_endpoint"]

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_MAX_HOST = 253  # characters; RFC 1035 section 2.3.4


@dataclass(frozen=True, slots=True)
class NamedEndpoint:
    """A name or an address without brackets, and a UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class OwnEndpoint:
    """Where this host is reached: the port need be given only if it is another one outside."""

    host: str
    port: int | None = None

    def at(self, port: int) -> NamedEndpoint:
        """Return the endpoint of an interface that listens on `port`."""
        return NamedEndpoint(self.host, self.port or port)


def endpoint(text: str) -> NamedEndpoint:
    """Parse `host:port`; an IPv6 address has brackets. Raises BadValue."""
    text = squeeze(text)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise BadValue("no port", "host:port, like jacinth.example.org:4296 or [2001:db8::1]:4296")
    if host.startswith("[") and host.endswith("]"):
        host = _address(host[1:-1], IPv6Address)
    elif ":" in host:
        raise BadValue("an IPv6 address without brackets", "like [2001:db8::1]:4296")
    else:
        host = _name_or_ipv4(host)
    return NamedEndpoint(host, fields.port(port))


def own_endpoint(text: str) -> OwnEndpoint:
    """Parse `host` or `host:port`; an IPv6 address without a port needs no brackets."""
    text = squeeze(text)
    if text.count(":") > 1 and not text.startswith("["):
        return OwnEndpoint(_address(text, IPv6Address))
    if text.startswith("[") and text.endswith("]"):
        return OwnEndpoint(_address(text[1:-1], IPv6Address))
    if ":" in text:
        found = endpoint(text)
        return OwnEndpoint(found.host, found.port)
    return OwnEndpoint(_name_or_ipv4(text))


def _name_or_ipv4(host: str) -> str:
    if re.fullmatch(r"[0-9.]+", host):
        return _address(host, IPv4Address)
    labels = host.removesuffix(".").split(".")
    if len(host) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadValue(
            "not a host name",
            "letters, digits and - between dots; other scripts in their xn-- form",
        )
    return host


def _address(text: str, kind: type[IPv4Address | IPv6Address]) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise BadValue("not an IP address", "like 192.0.2.1:4296 or [2001:db8::1]:4296") from None
    if not isinstance(found, kind) or found.is_unspecified or found.is_multicast:
        raise BadValue("not the address of a host", "like 192.0.2.1:4296 or [2001:db8::1]:4296")
    return str(found)
