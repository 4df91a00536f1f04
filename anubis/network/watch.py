"""Hear what happens to this host's network: rtnetlink's and nftables' multicast messages.

Owns the two sockets, the filter and the merging of bursts. Refuses to know what is wanted and what
to do about a change: a notice says which kind of thing to look at, never what it is like now.

Sockets of our own, not pyroute2's: its decoder took 30 us for a foreign route where this one takes
2, and a router with a full BGP table changes thousands a second. So the kernel itself drops foreign
routes (a classic BPF program, before they take room in the socket), and of the rest only fixed
fields are read, or the bytes of a name looked for. A false alarm costs its reader one look.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from enum import Flag, auto
from types import TracebackType
from typing import Self

from anubis.network.errors import NetworkError, explain
from anubis.network.rtnetlink import link_index
from anubis.network.state import NFT_TABLES, ROUTE_PROTOCOL

__all__ = ["Change", "Sieve", "Watch"]

# linux/netlink.h, linux/rtnetlink.h, linux/netfilter/nfnetlink.h, linux/if_link.h, fib_rules.h
_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_RTNLGRP = {"LINK": 1, "IPV4_IFADDR": 5, "IPV4_ROUTE": 7, "IPV4_RULE": 8, "IPV6_IFADDR": 9,
            "IPV6_ROUTE": 11, "IPV6_RULE": 19}  # fmt: skip
_NEWLINK, _NEWADDR, _DELADDR, _GETADDR = 16, 20, 21, 22
_NEWROUTE, _DELROUTE = 24, 25
_REPLACE = 0x100  # NLM_F_REPLACE
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_IFLA_IFNAME, _NFTA_TABLE = 3, 1
_RT_TABLE_COMPAT = 252  # in the header, for a table number that does not fit there
_RTN_UNICAST = 1
_SCOPE_UNIVERSE = 0
_IFA_F_TENTATIVE = 0x40
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=8BI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type
_ADDRESS = struct.Struct("=4BI")  # ifaddrmsg: family, prefixlen, flags, scope, index
_LINK_INDEX = struct.Struct("=4xi")  # of ifinfomsg

_RECEIVE_BYTES = 65536
_BUFFER_BYTES = 1 << 20
_MAX_READS = 64  # datagrams at one wake-up; the rest waits until others had their turn
_MAX_ADDRESSES = 4096  # remembered; with more, a refreshed one passes for new
_MERGE_SECONDS = 0.005  # what belongs together arrives within


class Change(Flag):
    """What to look at; several at once where a burst was merged.

    `CONNECTIVITY`: an address of global scope or a default route that is not Anubis's came or went.
    """

    LINK = auto()
    ADDRESS = auto()
    ROUTE = auto()
    RULE = auto()
    NFTABLES = auto()
    CONNECTIVITY = auto()
    ANYTHING = LINK | ADDRESS | ROUTE | RULE | NFTABLES | CONNECTIVITY


_NOTHING = Change(0)
_Judge = Callable[[bytes], Change]


class Sieve:
    """What is told from which message; without sockets.

    `interfaces` are the links whose changes count, `table` is the routing table of connections.
    What the sockets with `own_ports` did to routes and rules is no news. (The kernel writes the
    port of whoever asked into these messages, and 0 where nobody did.)
    """

    def __init__(
        self,
        interfaces: Collection[str],
        table: int,
        nft_tables: Collection[tuple[str, str]] = NFT_TABLES,
        own_ports: Collection[int] = (),
    ) -> None:
        self._own_ports = frozenset(own_ports)
        self._links = [_named(_IFLA_IFNAME, name) for name in interfaces]
        self._indexes: set[int] = set()
        self._table = table if table < 256 else _RT_TABLE_COMPAT
        self._nft_tables = [_named(_NFTA_TABLE, name) for _family, name in nft_tables]
        self._addresses: dict[bytes, bool] = {}  # link and address: still tentative?

    def know(self, indexes: Collection[int]) -> None:
        """Take these for indexes of our links, besides those that messages tell."""
        self._indexes |= set(indexes)

    def nftables(self, datagram: bytes) -> Change:
        """Look for our tables in messages of nftables; every kind begins with its table's name."""
        ours = any(name in datagram for name in self._nft_tables)
        return Change.NFTABLES if ours else _NOTHING

    def rtnetlink(self, datagram: bytes, port: int = -1) -> Change:
        """Judge messages of rtnetlink. Answers to the socket with this `port` are only noted."""
        found = _NOTHING
        for kind, flags, sender, body in _messages(datagram):
            match kind:
                case 24 | 25 | 32 | 33 if sender in self._own_ports:
                    continue
                case 24 | 25:  # RTM_NEWROUTE, RTM_DELROUTE
                    found |= self._route(kind, flags, body)
                case 32 | 33:  # RTM_NEWRULE, RTM_DELRULE; a stranger's may stand before ours
                    found |= Change.RULE
                case 16 | 17:  # RTM_NEWLINK, RTM_DELLINK
                    found |= self._link(kind, body)
                case 20 | 21:  # RTM_NEWADDR, RTM_DELADDR
                    change = self._address(kind, body)
                    found |= _NOTHING if sender == port else change
        return found

    def _route(self, kind: int, flags: int, body: bytes) -> Change:
        if len(body) < _ROUTE.size:
            return _NOTHING
        _family, length, _src, _tos, table, protocol, _scope, route_type, _ = _ROUTE.unpack_from(
            body
        )
        if protocol == ROUTE_PROTOCOL:
            return Change.ROUTE
        found = _NOTHING
        if kind == _NEWROUTE and flags & _REPLACE and table == self._table:
            found |= Change.ROUTE  # what it replaced may have been ours; nobody tells
        if length == 0 and route_type == _RTN_UNICAST:
            found |= Change.CONNECTIVITY
        return found

    def _link(self, kind: int, body: bytes) -> Change:
        if len(body) < _LINK_INDEX.size:
            return _NOTHING
        (index,) = _LINK_INDEX.unpack_from(body)
        named = any(name in body for name in self._links)
        if not named and index not in self._indexes:
            return _NOTHING
        if kind == _NEWLINK and named:
            self._indexes.add(index)
        else:  # gone, or renamed
            self._indexes.discard(index)
        return Change.LINK

    def _address(self, kind: int, body: bytes) -> Change:
        if len(body) < _ADDRESS.size:
            return _NOTHING
        family, _length, flags, scope, index = _ADDRESS.unpack_from(body)
        if index in self._indexes:
            return Change.ADDRESS
        if scope != _SCOPE_UNIVERSE:
            return _NOTHING
        # The first attribute is the address, of 4 or 16 bytes after its header.
        size = 4 if family == socket.AF_INET else 16
        key = struct.pack("=I", index) + body[_ADDRESS.size + 4 : _ADDRESS.size + 4 + size]
        if kind == _DELADDR:
            self._addresses.pop(key, None)
            return Change.CONNECTIVITY
        tentative = bool(flags & _IFA_F_TENTATIVE)
        if self._addresses.get(key) == tentative:
            return _NOTHING  # a router refreshed its lifetime
        if len(self._addresses) < _MAX_ADDRESSES:
            self._addresses[key] = tentative
        return Change.CONNECTIVITY


class Watch:
    """The changes of the network namespace that the process is in at the entry; a context manager.

    `async for change in watch` or `await watch.next()`. One reader only; another opens a watch of
    its own. Memory does not grow with what happens: unread notices are merged into one.
    """

    def __init__(
        self,
        interfaces: Collection[str],
        table: int,
        nft_tables: Collection[tuple[str, str]] = NFT_TABLES,
        own_ports: Collection[int] = (),
    ) -> None:
        self._interfaces = tuple(interfaces)
        self._table = table
        self._sieve = Sieve(interfaces, table, nft_tables, own_ports)
        self._pending = _NOTHING
        self._heard = asyncio.Event()
        self._failure: OSError | None = None
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        """Subscribe; what happens from here on is told. Raises NetworkError."""
        try:
            route = _subscribed(socket.NETLINK_ROUTE, _RTNLGRP.values(), _program(self._table))
            self._sockets.append(route)
            nft = _subscribed(_NETLINK_NETFILTER, [_NFNLGRP_NFTABLES], b"")
            self._sockets.append(nft)
            found = (link_index(name) for name in self._interfaces)
            self._sieve.know([index for index in found if index is not None])
            request = _HEADER.pack(_HEADER.size + 8, _GETADDR, _REQUEST_DUMP, 1, 0) + bytes(8)
            route.send(request)  # the addresses that are there already are no news
        except OSError as error:
            self._close()
            raise explain("watch the network", error.errno or errno.EIO) from error
        except NetworkError:
            self._close()
            raise
        loop = asyncio.get_running_loop()
        port = int(route.getsockname()[0])
        loop.add_reader(route, self._read, route, lambda data: self._sieve.rtnetlink(data, port))
        loop.add_reader(nft, self._read, nft, self._sieve.nftables)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for one in self._sockets:
            asyncio.get_running_loop().remove_reader(one)
        self._close()

    async def next(self) -> Change:
        """Wait for a change; return it with all that came since the last call and just after it.

        After an overrun, when messages were lost, that is `Change.ANYTHING`. Raises NetworkError
        when nothing can be heard any more.
        """
        await self._heard.wait()
        if self._failure is not None:
            number = self._failure.errno or errno.EIO
            raise explain("watch the network", number) from self._failure
        await asyncio.sleep(_MERGE_SECONDS)
        found, self._pending = self._pending, _NOTHING
        self._heard.clear()
        return found

    def nudge(self) -> None:
        """Let `next` return, with `Change(0)` if there is nothing."""
        self._heard.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        return await self.next()

    def _read(self, source: socket.socket, judge: _Judge) -> None:
        for _ in range(_MAX_READS):
            try:
                change = judge(source.recv(_RECEIVE_BYTES))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    self._failure = error
                    asyncio.get_running_loop().remove_reader(source)
                    self._heard.set()
                    return
                change = Change.ANYTHING  # messages were lost, nobody knows which
            if change:
                self._pending |= change
                self._heard.set()

    def _close(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets.clear()


def _named(attribute: int, name: str) -> bytes:
    """Return a netlink attribute that holds a name, without its padding."""
    value = name.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), attribute) + value


def _messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, port and body of each message; what is cut short ends the walk."""
    offset = 0
    while len(datagram) - offset >= _HEADER.size:
        length, kind, flags, _sequence, port = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            return
        yield kind, flags, port, datagram[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _subscribed(protocol: int, groups: Collection[int], program: bytes) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    found = socket.socket(socket.AF_NETLINK, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        if program:
            held = ctypes.create_string_buffer(program, len(program))
            fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
            found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
        found.bind((0, sum(1 << (group - 1) for group in groups)))
    except OSError:
        found.close()
        raise
    return found


def _program(table: int) -> bytes:
    """Return the filter that drops foreign routes, as instructions of linux/filter.h.

    Ours by protocol, default routes, and all in our table pass, and whatever is no route. A load
    of two bytes is in network order, whatever the kernel wrote them in.
    """
    low = table if table < 256 else _RT_TABLE_COMPAT
    load_type, load_byte, equal, accept = 0x28, 0x30, 0x15, 0x06
    code = [
        (load_type, 0, 0, 4),
        (equal, 1, 0, socket.htons(_NEWROUTE)),
        (equal, 0, 6, socket.htons(_DELROUTE)),
        (load_byte, 0, 0, _HEADER.size + 5),
        (equal, 4, 0, ROUTE_PROTOCOL),
        (load_byte, 0, 0, _HEADER.size + 1),
        (equal, 2, 0, 0),
        (load_byte, 0, 0, _HEADER.size + 4),
        (equal, 0, 1, low),
        (accept, 0, 0, 0xFFFFFFFF),
        (accept, 0, 0, 0),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
