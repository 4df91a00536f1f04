"""What somebody has to know of this host to reach it: name, keys, where it is, what is behind it.

Owns where that comes from (the section `[Host]`, the two interfaces, or what was given for once)
and what is to be written where if it is missing. Refuses to know who is told, and in which form.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from ipaddress import ip_network

from anubis.errors import ConfigError, Location, Problem
from anubis.files import fields
from anubis.files.authorized_peers import HostFiles
from anubis.files.config import Config
from anubis.files.endpoints import NamedEndpoint
from anubis.files.ini import BadValue
from anubis.files.own_host import Host
from anubis.files.peer_checks import OwnKeys
from anubis.wireguard.types import IPNetwork

__all__ = ["Introduction", "introduce"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """This host, as others see it."""

    name: str
    keys: OwnKeys
    endpoint: NamedEndpoint  # of production
    control_endpoint: NamedEndpoint
    networks: tuple[IPNetwork, ...]  # its own addresses, and what is behind it
    dns: tuple[str, ...]
    mtu: int | None  # bytes


def introduce(host: HostFiles, given: Host) -> Introduction:
    """Return what others have to know; `given` goes before what the file says.

    Raises ConfigError if something is missing.
    """
    config, own = host.config, host.config.host
    endpoint = given.endpoint or own.endpoint
    if endpoint is None:
        raise _refusal(
            config,
            "nothing says under which name or address others reach this host",
            "write it under [Host]: Endpoint = jacinth.example.org; or give --gateway-endpoint",
        )
    control = given.endpoint or own.control_endpoint or endpoint
    if control is endpoint and endpoint.port is not None:
        control = type(endpoint)(endpoint.host)  # the port that was given is production's
    addresses = [ip_network(address.ip) for address in config.production.addresses]
    networks = tuple(dict.fromkeys([*addresses, *(given.networks or own.networks)]))
    if not networks:
        raise _refusal(
            config,
            "this host has no address in the tunnels, and no networks behind it",
            "write Address under [Production], or Networks under [Host]",
        )
    return Introduction(
        name=given.name or own.name or _host_name(config),
        keys=host.own_keys(),
        endpoint=endpoint.at(config.production.listen_port),
        control_endpoint=control.at(config.control.listen_port),
        networks=networks,
        dns=given.dns or own.dns,
        mtu=config.production.mtu,
    )


def _host_name(config: Config) -> str:
    text = platform.node().partition(".")[0]
    try:
        return fields.name(text)
    except BadValue as error:
        raise _refusal(
            config,
            f"the host name {text!r} is {error.message}",
            "write under [Host] how others shall call it: Name = jacinth; or give --gateway-name",
        ) from None


def _refusal(config: Config, message: str, hint: str) -> ConfigError:
    return ConfigError([Problem(Location(config.path), message, hint)])
