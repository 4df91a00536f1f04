"""From the endpoints of the files to addresses, without ever blocking the daemon.

WireGuard resolves a name once and for ever; here every `up` asks anew, and one bad name harms
nobody else.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

from anubis.errors import LocalFailure
from anubis.files.authorized_peers import NamedEndpoint
from anubis.wireguard.types import Endpoint

__all__ = ["resolve"]

_TIMEOUT = 5.0  # seconds
_MAX_ADDRESSES = 8


async def resolve(endpoint: NamedEndpoint) -> tuple[Endpoint, ...]:
    """Return the addresses of an endpoint, best first (RFC 6724). Raises LocalFailure."""
    try:
        return (Endpoint(ip_address(endpoint.host), endpoint.port),)
    except ValueError:
        pass
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_TIMEOUT):
            found = await loop.getaddrinfo(
                endpoint.host, endpoint.port, type=socket.SOCK_DGRAM, flags=socket.AI_ADDRCONFIG
            )
    except TimeoutError:
        raise LocalFailure(
            f"the name {endpoint.host} was not resolved within {_TIMEOUT:.0f} s",
            "check the name servers of this host, or use an address in Endpoint",
        ) from None
    except (OSError, UnicodeError) as error:
        # UnicodeError: Python's IDNA codec refuses the name before anybody is asked.
        raise LocalFailure(
            f"the name {endpoint.host} cannot be resolved: {getattr(error, 'strerror', error)}",
            "check the name in Endpoint and the name servers of this host",
        ) from None
    addresses = dict.fromkeys(ip_address(str(info[4][0])) for info in found)
    return tuple(Endpoint(address, endpoint.port) for address in list(addresses)[:_MAX_ADDRESSES])
