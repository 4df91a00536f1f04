"""The bytes of the Anubis protocol, version 1 (`docs/protocol.md`, sections 3 to 6).

Owns the layout of datagrams and bodies and the registries of types, verbs, results and TLVs.
Refuses to know keys, time, and what any of it is for. Decoding raises only `Malformed`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from anubis.protocol import tai64n
from anubis.wireguard.keys import KEY_SIZE, PublicKey

__all__ = [
    "CHALLENGE_SIZE",
    "HEADER_SIZE",
    "MAX_DATAGRAM",
    "MAX_REPLY_FACTOR",
    "MIN_DATAGRAM",
    "NONCE_SIZE",
    "REQUEST_ID_SIZE",
    "VERSION",
    "Header",
    "Malformed",
    "MessageType",
    "Option",
    "Reply",
    "Request",
    "Result",
    "State",
    "Verb",
]

VERSION = 1
NONCE_SIZE = 24  # bytes
REQUEST_ID_SIZE = 16  # bytes
CHALLENGE_SIZE = 16  # bytes
TAG_SIZE = 16  # bytes
MAX_DATAGRAM = 1232  # bytes: IPv6's minimum MTU of 1280 less the headers of IPv6 and UDP
MAX_REASON = 200  # bytes of UTF-8
MAX_REPLY_FACTOR = 4  # a reply is at most this many times as long as its request

_HEADER = struct.Struct(f">BBBB{KEY_SIZE}s{NONCE_SIZE}s")
_REQUEST = struct.Struct(f">{REQUEST_ID_SIZE}s{tai64n.SIZE}sB3s")
_REPLY = struct.Struct(f">{REQUEST_ID_SIZE}s{tai64n.SIZE}sBB2sI")
_OPTION = struct.Struct(">BB")
_U32 = struct.Struct(">I")
_TRANSFER = struct.Struct(">QQ")

HEADER_SIZE = _HEADER.size  # 60 bytes
MIN_DATAGRAM = HEADER_SIZE + _REQUEST.size + TAG_SIZE  # 108 bytes; a reply is never shorter
_CRITICAL = 0x80  # option types from here on must be understood or refused
_MAX_U32 = 0xFFFF_FFFF

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Malformed(ValueError):
    """Bytes that are no datagram of this protocol; `reason` is the name under which they count."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class MessageType(IntEnum):
    """Second byte of a datagram."""

    REQUEST = 1
    REPLY = 2


class Verb(IntEnum):
    """What a request asks for."""

    UP = 1
    DOWN = 2
    RENEW = 3
    STATUS = 4
    GONE = 5


class Result(IntEnum):
    """What became of a request. Below 16 it was granted; from 16 on it was refused."""

    DONE = 0
    UNCHANGED = 1
    STALE = 16
    KEY_MISMATCH = 17
    NOT_PERMITTED = 18
    UNSUPPORTED_VERB = 19
    UNSUPPORTED_OPTION = 20
    SUITE_REFUSED = 21
    BUSY = 22
    CONFLICT = 23
    FAILED = 24
    NO_CONNECTION = 25
    MALFORMED = 26


class State(IntEnum):
    """The state of the connection, as a reply reports it."""

    DOWN = 0
    UP = 1


class Option(IntEnum):
    """Types of the TLVs at the end of a body. 0x40-0x7f and 0xc0-0xff belong to vendors."""

    PADDING = 0x00
    LEASE = 0x01
    REASON = 0x02
    UP_FOR = 0x03
    HANDSHAKE_AGE = 0x04
    TRANSFER = 0x05
    INSTALLED = 0x06
    ENDPOINT = 0x07
    SUITES = 0x08
    CHALLENGE = 0x81


_REPEATABLE = frozenset({Option.PADDING, Option.INSTALLED})


@dataclass(frozen=True, slots=True)
class Header:
    """The clear 60 bytes in front of every datagram, and the associated data of its AEAD."""

    type: MessageType
    suite: int
    sender: PublicKey
    nonce: bytes

    def encode(self) -> bytes:
        """Return the 60 bytes."""
        return _HEADER.pack(VERSION, self.type, self.suite, 0, bytes(self.sender), self.nonce)

    @classmethod
    def decode(cls, datagram: bytes) -> Header:
        """Read the header of a whole datagram, cheapest checks first. Raises Malformed."""
        if not MIN_DATAGRAM <= len(datagram) <= MAX_DATAGRAM:
            raise Malformed("bad_size", f"{len(datagram)} bytes")
        version, kind, suite, reserved, sender, nonce = _HEADER.unpack_from(datagram)
        if version != VERSION:
            raise Malformed("unknown_version", f"version {version}")
        if kind not in (MessageType.REQUEST, MessageType.REPLY):
            raise Malformed("unknown_type", f"type {kind}")
        if reserved:
            raise Malformed("reserved_bits", f"reserved byte is {reserved:#04x}")
        return cls(MessageType(kind), suite, PublicKey(sender), nonce)


@dataclass(frozen=True, slots=True)
class Request:
    """The sealed body of a request.

    `verb` stays a number where it is unknown; `unknown_critical` lists options that must be
    refused because they were not understood.
    """

    request_id: bytes
    unix_ns: int
    verb: int
    lease: int | None = None  # seconds
    challenge: bytes | None = None
    reason: str = ""
    unknown_critical: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """Return the body, at least 32 bytes."""
        timestamp = tai64n.encode(self.unix_ns)
        parts = [_REQUEST.pack(self.request_id, timestamp, self.verb, bytes(3))]
        if self.lease is not None:
            parts.append(_option(Option.LEASE, _pack_u32(self.lease)))
        if self.reason:
            parts.append(_option(Option.REASON, _clip(self.reason)))
        if self.challenge is not None:
            parts.append(_option(Option.CHALLENGE, self.challenge))
        return b"".join(parts)

    @classmethod
    def decode(cls, body: bytes) -> Request:
        """Read a body. Raises Malformed."""
        request_id, timestamp, verb, reserved = _unpack(_REQUEST, body)
        if any(reserved):
            raise Malformed("reserved_bits", "reserved bytes of the request are not zero")
        values, _, unknown = _collect(body[_REQUEST.size :])
        return cls(
            request_id=request_id,
            unix_ns=_timestamp(timestamp),
            verb=verb,
            lease=_u32(values.get(Option.LEASE)),
            challenge=_exactly(values.get(Option.CHALLENGE), CHALLENGE_SIZE),
            reason=_text(values.get(Option.REASON)),
            unknown_critical=unknown,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """The sealed body of a reply. `result` stays a number where it is unknown."""

    request_id: bytes
    unix_ns: int
    result: int
    state: State = State.DOWN
    lease: int = 0  # seconds left; 0 while down
    reason: str = ""
    up_for: int | None = None  # seconds
    handshake_age: int | None = None  # seconds
    transfer: tuple[int, int] | None = None  # bytes received, bytes sent by the responder
    endpoint: tuple[IPAddress, int] | None = None  # the initiator's, as the responder sees it
    suites: tuple[int, ...] = ()
    challenge: bytes | None = None
    installed: tuple[IPNetwork, ...] = ()
    unknown_critical: tuple[int, ...] = ()

    @property
    def granted(self) -> bool:
        """Whether the request was granted."""
        return self.result < Result.STALE

    def encode(self, limit: int = MAX_DATAGRAM - HEADER_SIZE - TAG_SIZE) -> bytes:
        """Return the body, at least 36 bytes and at most `limit`.

        An option that does not fit is left out; networks, which can be many, come last.
        """
        timestamp = tai64n.encode(self.unix_ns)
        body = _REPLY.pack(
            self.request_id, timestamp, self.result, self.state, bytes(2), _clamp(self.lease)
        )
        for option in self._options():
            if len(body) + len(option) <= limit:
                body += option
        return body

    def _options(self) -> Iterator[bytes]:
        if self.challenge is not None:
            yield _option(Option.CHALLENGE, self.challenge)
        if self.suites:
            yield _option(Option.SUITES, bytes(self.suites))
        if self.reason:
            yield _option(Option.REASON, _clip(self.reason))
        if self.up_for is not None:
            yield _option(Option.UP_FOR, _pack_u32(self.up_for))
        if self.handshake_age is not None:
            yield _option(Option.HANDSHAKE_AGE, _pack_u32(self.handshake_age))
        if self.transfer is not None:
            yield _option(Option.TRANSFER, _TRANSFER.pack(*self.transfer))
        if self.endpoint is not None:
            address, port = self.endpoint
            yield _option(Option.ENDPOINT, port.to_bytes(2) + address.packed)
        for network in self.installed:
            packed = bytes([network.prefixlen]) + network.network_address.packed
            yield _option(Option.INSTALLED, packed)

    @classmethod
    def decode(cls, body: bytes) -> Reply:
        """Read a body. Raises Malformed."""
        request_id, timestamp, result, state, reserved, lease = _unpack(_REPLY, body)
        if any(reserved):
            raise Malformed("reserved_bits", "reserved bytes of the reply are not zero")
        if state not in (State.DOWN, State.UP):
            raise Malformed("malformed", f"state {state}")
        values, installed, unknown = _collect(body[_REPLY.size :])
        return cls(
            request_id=request_id,
            unix_ns=_timestamp(timestamp),
            result=result,
            state=State(state),
            lease=lease,
            reason=_text(values.get(Option.REASON)),
            up_for=_u32(values.get(Option.UP_FOR)),
            handshake_age=_u32(values.get(Option.HANDSHAKE_AGE)),
            transfer=_transfer(values.get(Option.TRANSFER)),
            endpoint=_endpoint(values.get(Option.ENDPOINT)),
            suites=tuple(values.get(Option.SUITES, b"")),
            challenge=_exactly(values.get(Option.CHALLENGE), CHALLENGE_SIZE),
            installed=tuple(_network(value) for value in installed),
            unknown_critical=unknown,
        )


def _option(kind: int, value: bytes) -> bytes:
    return _OPTION.pack(kind, len(value)) + value


def _clamp(seconds: int) -> int:
    """Bring a duration into 32 bits; a clock that was set can make one negative."""
    return max(0, min(seconds, _MAX_U32))


def _pack_u32(seconds: int) -> bytes:
    return _U32.pack(_clamp(seconds))


def _clip(text: str) -> bytes:
    """Cut a text to MAX_REASON bytes of whole characters; lone surrogates become `?`."""
    return text.encode(errors="replace")[:MAX_REASON].decode(errors="ignore").encode()


def _collect(data: bytes) -> tuple[dict[int, bytes], list[bytes], tuple[int, ...]]:
    """Split TLVs into known values, the values of INSTALLED, and unknown critical types."""
    values: dict[int, bytes] = {}
    installed: list[bytes] = []
    unknown: list[int] = []
    known = frozenset(Option)
    while data:
        kind, length = _unpack(_OPTION, data)
        value, data = data[2 : 2 + length], data[2 + length :]
        if len(value) != length:
            raise Malformed("malformed", f"option {kind:#04x} is cut short")
        if kind not in known:
            if kind & _CRITICAL:
                unknown.append(kind)
        elif kind == Option.INSTALLED:
            installed.append(value)
        elif kind in values and kind not in _REPEATABLE:
            raise Malformed("malformed", f"option {kind:#04x} stands twice")
        else:
            values[kind] = value
    return values, installed, tuple(unknown)


def _unpack(layout: struct.Struct, data: bytes) -> tuple[Any, ...]:
    if len(data) < layout.size:
        raise Malformed("malformed", f"{len(data)} bytes where {layout.size} are needed")
    return layout.unpack_from(data)


def _timestamp(label: bytes) -> int:
    try:
        return tai64n.decode(label)
    except ValueError as error:
        raise Malformed("malformed", str(error)) from None


def _exactly(value: bytes | None, size: int) -> bytes | None:
    if value is not None and len(value) != size:
        raise Malformed("malformed", f"an option of {len(value)} bytes where {size} are needed")
    return value


def _u32(value: bytes | None) -> int | None:
    exact = _exactly(value, _U32.size)
    return None if exact is None else int(_U32.unpack(exact)[0])


def _transfer(value: bytes | None) -> tuple[int, int] | None:
    exact = _exactly(value, _TRANSFER.size)
    if exact is None:
        return None
    received, sent = _TRANSFER.unpack(exact)
    return received, sent


def _text(value: bytes | None) -> str:
    """Read a text meant for people; what could upset a terminal is replaced."""
    if value is None:
        return ""
    if len(value) > MAX_REASON:
        raise Malformed("malformed", f"a text of {len(value)} bytes")
    text = value.decode(errors="replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _endpoint(value: bytes | None) -> tuple[IPAddress, int] | None:
    if value is None:
        return None
    if len(value) not in (6, 18):
        raise Malformed("malformed", f"an endpoint of {len(value)} bytes")
    return ip_address(value[2:]), int.from_bytes(value[:2])


def _network(value: bytes) -> IPNetwork:
    if len(value) not in (5, 17) or value[0] > (len(value) - 1) * 8:
        raise Malformed("malformed", "an installed network of the wrong size")
    try:
        return ip_network((value[1:], value[0]))
    except ValueError:
        raise Malformed("malformed", "an installed network with host bits") from None
