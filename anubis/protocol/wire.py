"""The bytes of the Anubis protocol, version 1 (`docs/protocol.md`, sections 3 to 6).

Owns the layout of datagrams and bodies and the registries of types, verbs, results and states; the
options at their end are in `options`. Refuses to know keys, time, and what any of it is for.
Decoding raises only `Malformed`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from anubis.protocol import tai64n
from anubis.protocol.options import (
    CHALLENGE_SIZE,
    IPAddress,
    IPNetwork,
    Malformed,
    Option,
    clamp,
    collect,
    option,
    pack_endpoint,
    pack_name,
    pack_network,
    pack_text,
    pack_transfer,
    pack_u32,
    read_endpoint,
    read_exactly,
    read_name,
    read_network,
    read_text,
    read_transfer,
    read_u32,
    unpack,
)
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
TAG_SIZE = 16  # bytes
MAX_DATAGRAM = 1232  # bytes: IPv6's minimum MTU of 1280 less the headers of IPv6 and UDP
MAX_REPLY_FACTOR = 4  # a reply is at most this many times as long as its request

_HEADER = struct.Struct(f">BBBB{KEY_SIZE}s{NONCE_SIZE}s")
_REQUEST = struct.Struct(f">{REQUEST_ID_SIZE}s{tai64n.SIZE}sB3s")
_REPLY = struct.Struct(f">{REQUEST_ID_SIZE}s{tai64n.SIZE}sBB2sI")

HEADER_SIZE = _HEADER.size  # 60 bytes
MIN_DATAGRAM = HEADER_SIZE + _REQUEST.size + TAG_SIZE  # 108 bytes; a reply is never shorter


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
    APPROVE = 6


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
    PENDING = 27


class State(IntEnum):
    """The state of the connection, as a reply reports it."""

    DOWN = 0
    UP = 1


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
    subject: str | None = None  # the connection that is approved, as the responder calls it
    unknown_critical: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """Return the body, at least 32 bytes."""
        timestamp = tai64n.encode(self.unix_ns)
        parts = [_REQUEST.pack(self.request_id, timestamp, self.verb, bytes(3))]
        if self.lease is not None:
            parts.append(option(Option.LEASE, pack_u32(self.lease)))
        if self.reason:
            parts.append(option(Option.REASON, pack_text(self.reason)))
        if self.subject is not None:
            parts.append(option(Option.SUBJECT, pack_name(self.subject)))
        if self.challenge is not None:
            parts.append(option(Option.CHALLENGE, self.challenge))
        return b"".join(parts)

    @classmethod
    def decode(cls, body: bytes) -> Request:
        """Read a body. Raises Malformed."""
        request_id, timestamp, verb, reserved = unpack(_REQUEST, body)
        if any(reserved):
            raise Malformed("reserved_bits", "reserved bytes of the request are not zero")
        values, _, unknown = collect(body[_REQUEST.size :])
        subject = values.get(Option.SUBJECT)
        return cls(
            request_id=request_id,
            unix_ns=_timestamp(timestamp),
            verb=verb,
            lease=read_u32(values.get(Option.LEASE)),
            challenge=read_exactly(values.get(Option.CHALLENGE), CHALLENGE_SIZE),
            reason=read_text(values.get(Option.REASON)),
            subject=None if subject is None else read_name(subject),
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
    waiting: tuple[str, ...] = ()  # who waits for the approval of the initiator
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
            self.request_id, timestamp, self.result, self.state, bytes(2), clamp(self.lease)
        )
        for one in self._options():
            if len(body) + len(one) <= limit:
                body += one
        return body

    def _options(self) -> Iterator[bytes]:
        if self.challenge is not None:
            yield option(Option.CHALLENGE, self.challenge)
        if self.suites:
            yield option(Option.SUITES, bytes(self.suites))
        if self.reason:
            yield option(Option.REASON, pack_text(self.reason))
        if self.up_for is not None:
            yield option(Option.UP_FOR, pack_u32(self.up_for))
        if self.handshake_age is not None:
            yield option(Option.HANDSHAKE_AGE, pack_u32(self.handshake_age))
        if self.transfer is not None:
            yield option(Option.TRANSFER, pack_transfer(self.transfer))
        if self.endpoint is not None:
            address, port = self.endpoint
            yield option(Option.ENDPOINT, pack_endpoint(address, port))
        for name in self.waiting:
            yield option(Option.WAITING, pack_name(name))
        for network in self.installed:
            yield option(Option.INSTALLED, pack_network(network))

    @classmethod
    def decode(cls, body: bytes) -> Reply:
        """Read a body. Raises Malformed."""
        request_id, timestamp, result, state, reserved, lease = unpack(_REPLY, body)
        if any(reserved):
            raise Malformed("reserved_bits", "reserved bytes of the reply are not zero")
        if state not in (State.DOWN, State.UP):
            raise Malformed("malformed", f"state {state}")
        values, repeated, unknown = collect(body[_REPLY.size :])
        return cls(
            request_id=request_id,
            unix_ns=_timestamp(timestamp),
            result=result,
            state=State(state),
            lease=lease,
            reason=read_text(values.get(Option.REASON)),
            up_for=read_u32(values.get(Option.UP_FOR)),
            handshake_age=read_u32(values.get(Option.HANDSHAKE_AGE)),
            transfer=read_transfer(values.get(Option.TRANSFER)),
            endpoint=read_endpoint(values.get(Option.ENDPOINT)),
            suites=tuple(values.get(Option.SUITES, b"")),
            challenge=read_exactly(values.get(Option.CHALLENGE), CHALLENGE_SIZE),
            installed=tuple(map(read_network, repeated.get(Option.INSTALLED, ()))),
            waiting=tuple(map(read_name, repeated.get(Option.WAITING, ()))),
            unknown_critical=unknown,
        )


def _timestamp(label: bytes) -> int:
    try:
        return tai64n.decode(label)
    except ValueError as error:
        raise Malformed("malformed", str(error)) from None
