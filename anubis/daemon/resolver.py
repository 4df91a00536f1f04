"""From the endpoints of the files to addresses, without ever blocking the daemon.

WireGuard resolves a name once and for ever; here it is asked anew, and one bad name harms nobody
else. The C library looks names up and cannot be interrupted, so each name has a thread of its own.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from ipaddress import ip_address
from math import inf

from anubis.daemon.aside import Aside
from anubis.errors import LocalFailure
from anubis.files.authorized_peers import NamedEndpoint
from anubis.wireguard.types import Endpoint

__all__ = ["resolve"]

_TIMEOUT = 5.0  # seconds
_MAX_ADDRESSES = 8
_MAX_THREADS = 64  # names that are looked up at one time

_Found = tuple[Endpoint, ...]
_threads = Aside[_Found]("resolver")
_under_way: dict[NamedEndpoint, asyncio.Future[_Found]] = {}


async def resolve(endpoint: NamedEndpoint, deadline: float = inf) -> tuple[Endpoint, ...]:
    """Return the addresses of an endpoint, best first (RFC 6724). Raises LocalFailure.

    `deadline`, in the loop's time, is for whoever has less patience than this module.
    """
    try:
        return (Endpoint(ip_address(endpoint.host), endpoint.port),)
    except ValueError:
        pass
    patience = min(_TIMEOUT, max(0.0, deadline - asyncio.get_running_loop().time()))
    try:
        async with asyncio.timeout(patience):
            return await asyncio.shield(_looked_up(endpoint))
    except TimeoutError:
        raise LocalFailure(
            f"the name {endpoint.host} was not resolved within {patience:.0f} s",
            "check the name servers of this host, or use an address in Endpoint",
        ) from None
    except (OSError, UnicodeError) as error:
        # UnicodeError: Python's IDNA codec refuses the name before anybody is asked.
        raise LocalFailure(
            f"the name {endpoint.host} cannot be resolved: {getattr(error, 'strerror', error)}",
            "check the name in Endpoint and the name servers of this host",
        ) from None


def _looked_up(endpoint: NamedEndpoint) -> asyncio.Future[_Found]:
    """Return the look-up of an endpoint that is under way, or begin one."""
    loop = asyncio.get_running_loop()
    future = _under_way.get(endpoint)
    if future is not None and future.get_loop() is loop:
        return future
    if _threads.running >= _MAX_THREADS:
        raise LocalFailure(f"{_MAX_THREADS} names are being looked up already", "try again soon")
    future = _under_way[endpoint] = _threads.begin(partial(_look_up, endpoint))
    future.add_done_callback(lambda _: _under_way.pop(endpoint, None))
    return future


def _look_up(endpoint: NamedEndpoint) -> _Found:
    """Ask the C library, which may take long. Raises OSError or UnicodeError."""
    found = socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_DGRAM, flags=socket.AI_ADDRCONFIG
    )
    addresses = dict.fromkeys(ip_address(str(info[4][0])) for info in found)
    return tuple(Endpoint(address, endpoint.port) for address in list(addresses)[:_MAX_ADDRESSES])
