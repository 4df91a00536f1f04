"""The bytes that all generic-netlink messages for WireGuard are made of.

Owns the numbers of linux/netlink.h, linux/genetlink.h and linux/wireguard.h and the two
containers, message and attribute; refuses to know what is asked or answered with them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag

__all__ = [
    "ERRNO",
    "SOCKADDR_IN",
    "SOCKADDR_IN6",
    "TIMESPEC",
    "U8",
    "U16",
    "U32",
    "U64",
    "AllowedIPAttribute",
    "Control",
    "DeviceAttribute",
    "Malformed",
    "Message",
    "MessageFlag",
    "MessageType",
    "PeerAttribute",
    "PeerFlag",
    "WireGuard",
    "attribute",
    "attributes",
    "messages",
    "nest",
]

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
_GENERIC = struct.Struct("=BBH")  # struct genlmsghdr: command, version, reserved
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length with this header, type
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF  # two flags in the type

ERRNO = struct.Struct("=i")  # the first field of struct nlmsgerr, and the body of NLMSG_DONE
U8, U16, U32, U64 = (struct.Struct("=" + code) for code in "BHIQ")
TIMESPEC = struct.Struct("=qq")  # struct __kernel_timespec: seconds, nanoseconds
# Ports are big-endian in an otherwise native structure, so they are taken as bytes.
SOCKADDR_IN = struct.Struct("=H2s4s8x")  # family, port, address, padding
SOCKADDR_IN6 = struct.Struct("=H2s4x16sI")  # family, port, flow information, address, scope id


class MessageType(IntEnum):
    """NLMSG_* of linux/netlink.h."""

    ERROR = 2
    DONE = 3


class MessageFlag(IntFlag):
    """NLM_F_* of linux/netlink.h."""

    REQUEST = 0x1
    ACK = 0x4
    DUMP_INTR = 0x10
    DUMP = 0x300


class Control(IntEnum):
    """GENL_ID_CTRL, CTRL_CMD_* and CTRL_ATTR_* of linux/genetlink.h."""

    FAMILY = 0x10
    VERSION = 2
    GETFAMILY = 3
    ATTR_FAMILY_ID = 1
    ATTR_FAMILY_NAME = 2


class WireGuard(IntEnum):
    """WG_GENL_VERSION, WG_CMD_* and WGDEVICE_F_* of linux/wireguard.h."""

    VERSION = 1
    GET_DEVICE = 0
    SET_DEVICE = 1
    REPLACE_PEERS = 1


class DeviceAttribute(IntEnum):
    """WGDEVICE_A_* of linux/wireguard.h."""

    IFNAME = 2
    PRIVATE_KEY = 3
    PUBLIC_KEY = 4
    FLAGS = 5
    LISTEN_PORT = 6
    FWMARK = 7
    PEERS = 8


class PeerAttribute(IntEnum):
    """WGPEER_A_* of linux/wireguard.h."""

    PUBLIC_KEY = 1
    PRESHARED_KEY = 2
    FLAGS = 3
    ENDPOINT = 4
    PERSISTENT_KEEPALIVE_INTERVAL = 5
    LAST_HANDSHAKE_TIME = 6
    RX_BYTES = 7
    TX_BYTES = 8
    ALLOWEDIPS = 9


class PeerFlag(IntFlag):
    """WGPEER_F_* of linux/wireguard.h."""

    REMOVE_ME = 1
    REPLACE_ALLOWEDIPS = 2
    UPDATE_ONLY = 4


class AllowedIPAttribute(IntEnum):
    """WGALLOWEDIP_A_* of linux/wireguard.h."""

    FAMILY = 1
    IPADDR = 2
    CIDR_MASK = 3


class Malformed(Exception):
    """Bytes that are not what the kernel headers say."""


@dataclass(frozen=True, slots=True)
class Message:
    """One generic-netlink message, or the end or failure of an exchange.

    `body` are attributes; for ERROR and DONE it begins with an error number instead.
    """

    type: int
    flags: int
    sequence: int
    body: bytes
    command: int = 0
    version: int = 0

    def encode(self) -> bytes:
        """Return the message with both headers."""
        content = _GENERIC.pack(self.command, self.version, 0) + self.body
        length = _HEADER.size + len(content)
        return _HEADER.pack(length, self.type, self.flags, self.sequence, 0) + content


def messages(datagram: bytes) -> Iterator[Message]:
    """Take a datagram from the kernel apart. Raises Malformed."""
    offset = 0
    while offset < len(datagram):
        if len(datagram) - offset < _HEADER.size:
            raise Malformed("a message without a header")
        length, kind, flags, sequence, _port = _HEADER.unpack_from(datagram, offset)
        if not _HEADER.size <= length <= len(datagram) - offset:
            raise Malformed("a message that is longer than its datagram")
        body = datagram[offset + _HEADER.size : offset + length]
        if kind in (MessageType.ERROR, MessageType.DONE):
            yield Message(kind, flags, sequence, body)
        elif len(body) < _GENERIC.size:
            raise Malformed("a message without a command")
        else:
            command, version, _reserved = _GENERIC.unpack_from(body)
            yield Message(kind, flags, sequence, body[_GENERIC.size :], command, version)
        offset += length + -length % 4


def attribute(kind: int, value: bytes) -> bytes:
    """Encode an attribute, padded to 4 bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nest(kind: int, parts: Iterable[bytes]) -> bytes:
    """Encode an attribute that is made of attributes: at most 65,531 bytes of them."""
    return attribute(kind | _NLA_F_NESTED, b"".join(parts))


def attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Take the attributes of a message or nest apart, as (type, value). Raises Malformed."""
    offset, end = 0, len(body)
    while offset < end:
        if end - offset < _ATTRIBUTE.size:
            raise Malformed("an attribute without a header")
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if not _ATTRIBUTE.size <= length <= end - offset:
            raise Malformed("an attribute that is longer than its container")
        yield kind & _NLA_TYPE_MASK, body[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4
