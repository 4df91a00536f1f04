"""Datagrams of the protocol over one UDP socket: sending requests, waiting for replies.

Owns the socket on the control address and the exchanges under way. Refuses to know what a request
is about and how the control plane is kept alive. A request of another host goes to `on_request`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Any

from anubis.daemon.budget import DATAGRAMS, DATAGRAMS_OF_ALL, Budget
from anubis.daemon.log import Throttle, event
from anubis.errors import LocalFailure
from anubis.network.errors import explain
from anubis.network.plan import SERVICE_PORT
from anubis.protocol.initiator import Initiator, NoReply
from anubis.protocol.wire import MAX_DATAGRAM, MessageType, Reply

__all__ = ["Courier", "Exchange"]

_MAX_WAITING = 32  # datagrams kept for one exchange
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_RECEIVE_BUFFER = 1 << 20  # bytes: some 1300 datagrams that come while we do something else


class Exchange:
    """One request under way. `resend` may be called when the way was just repaired."""

    def __init__(self, initiator: Initiator, send: Callable[[bytes], None]) -> None:
        self._initiator = initiator
        self._send = send
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue(_MAX_WAITING)

    def resend(self) -> None:
        """Send the request again now."""
        datagram = self._initiator.again(asyncio.get_running_loop().time())
        if datagram is not None:
            self._send(datagram)

    async def run(self) -> Reply | NoReply:
        """Drive the machine until it has an outcome."""
        loop = asyncio.get_running_loop()
        initiator = self._initiator
        self._send(initiator.start(loop.time()))
        while initiator.outcome is None:
            try:
                async with asyncio.timeout_at(initiator.timer):
                    received = await self.inbox.get()
            except TimeoutError:
                datagram = initiator.on_timer(loop.time())
            else:
                datagram = initiator.on_datagram(received, loop.time())
            if datagram is not None:
                self._send(datagram)
        return initiator.outcome


class Courier(asyncio.DatagramProtocol):
    """The socket: bound to the control address and to the interface, so to nothing else."""

    def __init__(self) -> None:
        self.over_budget = 0  # datagrams that were not looked at
        self._on_request: Callable[[bytes, IPv6Address, int], None] | None = None
        self._exchanges: dict[IPv6Address, set[Exchange]] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._budget = Budget(DATAGRAMS, DATAGRAMS_OF_ALL)
        self._throttle = Throttle()

    async def open(
        self,
        interface: str,
        address: IPv6Address,
        on_request: Callable[[bytes, IPv6Address, int], None],
    ) -> None:
        """Bind the socket; hand requests to `on_request`. Raises LocalFailure."""
        self._on_request = on_request
        where = f"[{address}]:{SERVICE_PORT}"
        try:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise explain(f"listen on {where}", error.errno or errno.EIO) from error
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
            with suppress(PermissionError):  # beyond net.core.rmem_max only with CAP_NET_ADMIN
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            sock.bind((str(address), SERVICE_PORT))
        except OSError as error:
            sock.close()
            raise LocalFailure(
                f"cannot listen on {where}: {error.strerror}",
                f"ss -lunp sport = :{SERVICE_PORT} shows who else does",
            ) from error
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=sock)

    def close(self) -> None:
        """Close the socket; exchanges under way end by their deadlines."""
        if self._transport is not None:
            self._transport.close()

    def send(self, datagram: bytes, address: IPv6Address, port: int = SERVICE_PORT) -> None:
        """Send a datagram; like every datagram it may be lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(datagram, (str(address), port))

    def exchange(self, initiator: Initiator, address: IPv6Address) -> Exchange:
        """Begin an exchange with the host at this control address; `finish` must follow."""
        exchange = Exchange(initiator, lambda datagram: self.send(datagram, address))
        self._exchanges.setdefault(address, set()).add(exchange)
        return exchange

    def finish(self, exchange: Exchange, address: IPv6Address) -> None:
        """Forget an exchange."""
        waiting = self._exchanges.get(address, set())
        waiting.discard(exchange)
        if not waiting:
            self._exchanges.pop(address, None)

    def is_waiting_for(self, address: IPv6Address) -> bool:
        """Tell whether an exchange with the host at this control address is under way."""
        return address in self._exchanges

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Hand a reply to its exchange, anything else to the responder.

        More than its budget of one source is not even looked at: on the control plane the source
        address is proven, so nobody can use up another's.
        """
        now = asyncio.get_running_loop().time()
        if not self._budget.allows(addr[0], now):
            self.over_budget += 1
            kept = self._throttle.passes(str(addr[0]), now)
            if kept is not None:
                fields = {"reason": "over_budget", "source": addr[0], "not_shown": kept or None}
                event(logging.WARNING, "dropped", **fields)
            return
        source = IPv6Address(str(addr[0]).partition("%")[0])
        if 2 <= len(data) <= MAX_DATAGRAM and data[1] == MessageType.REPLY:
            for exchange in self._exchanges.get(source, ()):
                if not exchange.inbox.full():
                    exchange.inbox.put_nowait(data)
        elif self._on_request is not None:
            self._on_request(data, source, int(addr[1]))

    def error_received(self, exc: Exception) -> None:
        """Log what the kernel says of a datagram that could not be sent."""
        event(logging.DEBUG, "datagram_not_sent", reason=exc)
