"""The next free addresses of the production networks, for somebody who is new there. Pure.

Owns what is free: no address of this host, of an entry or of an invitation. Refuses to know whom
the addresses are for.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_network

from anubis.errors import ConfigError, Location, Problem
from anubis.files.config import Config
from anubis.wireguard.types import IPNetwork

__all__ = ["free_addresses"]


def free_addresses(config: Config, taken: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """Return a free host of the first IPv4 and of the first IPv6 network under `Address`.

    Both have the same number in their networks, the lowest that is free in both. Raises
    ConfigError where there is no network, or nothing free in it.
    """
    own = config.production.addresses
    networks = list(_networks(own))
    if not networks:
        given = ", ".join(map(str, own)) or "nothing"
        raise _refusal(
            config,
            f"no free address is known: Address = {given} has no network around it",
            "give --allowed-ips, or the network of the tunnels under [Production]: "
            "Address = 10.9.0.1/24, fd00:9::1/64",
        )
    used = [ip_network(address.ip) for address in own]
    used += (network for network in taken if network.prefixlen > 0)
    number = _lowest_free([run for inside in networks for run in _runs(inside, used)])
    if any(number > _last(network) for network in networks):
        listed = ", ".join(map(str, networks))
        raise _refusal(config, f"no address is free in {listed}", "give --allowed-ips")
    return tuple(ip_network(network[number]) for network in networks)


def _networks(addresses: Sequence[IPv4Interface | IPv6Interface]) -> Iterator[IPNetwork]:
    """Yield the first network of each family that has room for others."""
    for version in (4, 6):
        for address in addresses:
            room = address.network.max_prefixlen - address.network.prefixlen
            if address.version == version and room > 1:
                yield address.network
                break


def _runs(network: IPNetwork, used: Iterable[IPNetwork]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last number in a network of what is taken in it."""
    base, size = int(network.network_address), network.num_addresses
    for other in used:
        if other.version == network.version:
            first = int(other.network_address) - base
            last = first + other.num_addresses - 1
            if last >= 0 and first < size:
                yield first, last


def _lowest_free(runs: list[tuple[int, int]]) -> int:
    number = 1  # 0 is the network itself, and of IPv6 its routers' (RFC 4291 section 2.6.1)
    heapq.heapify(runs)
    while runs and runs[0][0] <= number:
        number = max(number, heapq.heappop(runs)[1] + 1)
    return number


def _last(network: IPNetwork) -> int:
    """Return the highest number of a host; the last address of IPv4 is the broadcast's."""
    return network.num_addresses - (2 if isinstance(network, IPv4Network) else 1)


def _refusal(config: Config, message: str, hint: str) -> ConfigError:
    return ConfigError([Problem(Location(config.path), message, hint)])
