"""Packets sent to see what becomes of them: through a tunnel, and to a port beside it.

Owns the sockets. A packet into the tunnel is UDP to the discard port, and an echo request where the
kernel lets one be sent; whether it arrived is for the far end's counters to say. Refuses to judge.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from anubis.wireguard.types import Endpoint

__all__ = ["COPIES", "knock", "said", "send", "source_of"]

COPIES = 3  # of each packet, for one may be lost

_DISCARD = 9  # port, RFC 863: whoever listens there answers nothing
_KNOCKS = 4  # for one may be lost
_KNOCK_SECONDS = 0.4  # for a router, or the host itself, to say no
_UDP_HEADERS = {4: 28, 6: 48}  # bytes, IP's and UDP's
_ECHO = {4: (socket.IPPROTO_ICMP, 8), 6: (socket.IPPROTO_ICMPV6, 128)}  # type of an echo request
_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}  # linux/in.h, in6.h
# linux/in.h, in6.h: tell also what a router says, which may be gone in a moment.
_RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
_PROBE = 3  # IP_PMTUDISC_PROBE: whole or not at all, whatever is believed of the way
_SO_MARK = 36  # asm-generic/socket.h
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

IPAddress = IPv4Address | IPv6Address


def source_of(address: IPAddress) -> IPAddress | None:
    """Return the address from which this host sends there; None if there is no way."""
    with socket.socket(_FAMILIES[address.version], socket.SOCK_DGRAM) as there:
        try:
            there.connect((str(address), _DISCARD))
        except OSError:
            return None
        return ip_address(str(there.getsockname()[0]).partition("%")[0])


def send(address: IPAddress, size: int) -> bool:
    """Send packets of `size` bytes to an address; tell whether echo requests were among them.

    A size below the headers' is theirs. Raises OSError if none could be sent.
    """
    version = address.version
    body = bytes(max(0, size - _UDP_HEADERS[version]))
    with socket.socket(_FAMILIES[version], socket.SOCK_DGRAM) as there:
        there.setsockopt(*_MTU_DISCOVER[version], _PROBE)
        for copy in range(COPIES):
            try:
                there.sendto(body, (str(address), _DISCARD))
            except OSError:
                # What came back for an earlier one is told here too, and says only that it arrived.
                if copy == 0:
                    raise
    return _echo(address, body)


def _echo(address: IPAddress, body: bytes) -> bool:
    """Ask for an echo, if net.ipv4.ping_group_range lets us."""
    protocol, kind = _ECHO[address.version]
    try:
        with socket.socket(_FAMILIES[address.version], socket.SOCK_DGRAM, protocol) as there:
            there.setsockopt(*_MTU_DISCOVER[address.version], _PROBE)
            # The kernel fills in checksum and identifier.
            there.sendto(struct.pack("!BBHHH", kind, 0, 0, 0, 1) + body, (str(address), 0))
    except OSError:
        return False
    return True


async def knock(endpoint: Endpoint | None, mark: int) -> int:
    """Send bytes without meaning to a UDP port; return the errno of what was answered, or 0.

    WireGuard passes over them in silence. ECONNREFUSED: nobody listens there.
    """
    if endpoint is None:
        return 0
    address = endpoint.address
    with socket.socket(_FAMILIES[address.version], socket.SOCK_DGRAM) as there:
        there.settimeout(0)
        try:
            with suppress(PermissionError):
                there.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            there.setsockopt(*_RECVERR[address.version], 1)
            there.connect((str(address), endpoint.port))
            for _ in range(_KNOCKS):
                there.send(b"\0")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_KNOCK_SECONDS):
                        await asyncio.get_running_loop().sock_recv(there, 1)
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def said(number: int) -> str:
    """Return the words for an errno of `knock`, empty if it says nothing of the way."""
    return "" if number in {0, errno.ECONNREFUSED, errno.EPERM} else os.strerror(number).lower()
