"""The options at the end of a body: type, length, value (`docs/protocol.md`, section 6).

Owns the registry of option types, how each value is written and read, and which unknown ones must
be refused. Refuses to know which body they belong to. Reading raises only `Malformed`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

__all__ = [
    "CHALLENGE_SIZE",
    "MAX_NAME",
    "MAX_REASON",
    "IPAddress",
    "IPNetwork",
    "Malformed",
    "Option",
    "clamp",
    "collect",
    "option",
    "pack_endpoint",
    "pack_name",
    "pack_network",
    "pack_text",
    "pack_transfer",
    "pack_u32",
    "read_endpoint",
    "read_exactly",
    "read_name",
    "read_network",
    "read_text",
    "read_transfer",
    "read_u32",
    "unpack",
]

CHALLENGE_SIZE = 16  # bytes
MAX_REASON = 200  # bytes of UTF-8
MAX_NAME = 63  # bytes of the name of a connection

_OPTION = struct.Struct(">BB")
_U32 = struct.Struct(">I")
_TRANSFER = struct.Struct(">QQ")
_CRITICAL = 0x80  # option types from here on must be understood or refused
_MAX_U32 = 0xFFFF_FFFF

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Malformed(ValueError):
    """Bytes that are no datagram of this protocol; `reason` is the name under which they count."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


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
    WAITING = 0x09
    CHALLENGE = 0x81
    SUBJECT = 0x82


_LISTS = frozenset({Option.INSTALLED, Option.WAITING})
_REPEATABLE = _LISTS | {Option.PADDING}


def option(kind: int, value: bytes) -> bytes:
    """Return one whole option; its value has at most 255 bytes."""
    return _OPTION.pack(kind, len(value)) + value


def clamp(seconds: int) -> int:
    """Bring a duration into 32 bits; a clock that was set can make one negative."""
    return max(0, min(seconds, _MAX_U32))


def pack_u32(seconds: int) -> bytes:
    """Write a duration in 4 bytes."""
    return _U32.pack(clamp(seconds))


def pack_text(text: str) -> bytes:
    """Cut a text to MAX_REASON bytes of whole characters; lone surrogates become `?`."""
    return text.encode(errors="replace")[:MAX_REASON].decode(errors="ignore").encode()


def pack_transfer(transfer: tuple[int, int]) -> bytes:
    """Write the bytes received and sent, 8 bytes each."""
    return _TRANSFER.pack(*transfer)


def pack_endpoint(address: IPAddress, port: int) -> bytes:
    """Write an endpoint: 2 bytes of port, 4 or 16 of address."""
    return port.to_bytes(2) + address.packed


def pack_network(network: IPNetwork) -> bytes:
    """Write a network: 1 byte of prefix length, 4 or 16 of address."""
    return bytes([network.prefixlen]) + network.network_address.packed


def pack_name(name: str) -> bytes:
    """Write the name of a connection, 1 to MAX_NAME bytes of ASCII."""
    return name.encode("ascii", errors="replace")[:MAX_NAME]


def collect(
    data: bytes,
) -> tuple[dict[int, bytes], dict[int, list[bytes]], tuple[int, ...]]:
    """Split TLVs into known values, those that make lists, and unknown critical types."""
    values: dict[int, bytes] = {}
    lists: dict[int, list[bytes]] = {}
    unknown: list[int] = []
    known = frozenset(Option)
    while data:
        kind, length = unpack(_OPTION, data)
        value, data = data[2 : 2 + length], data[2 + length :]
        if len(value) != length:
            raise Malformed("malformed", f"option {kind:#04x} is cut short")
        if kind not in known:
            if kind & _CRITICAL:
                unknown.append(kind)
        elif kind in _LISTS:
            lists.setdefault(kind, []).append(value)
        elif kind in values and kind not in _REPEATABLE:
            raise Malformed("malformed", f"option {kind:#04x} stands twice")
        else:
            values[kind] = value
    return values, lists, tuple(unknown)


def unpack(layout: struct.Struct, data: bytes) -> tuple[Any, ...]:
    """Read the beginning of `data`. Raises Malformed if it is too short."""
    if len(data) < layout.size:
        raise Malformed("malformed", f"{len(data)} bytes where {layout.size} are needed")
    return layout.unpack_from(data)


def read_exactly(value: bytes | None, size: int) -> bytes | None:
    """Return a value that has `size` bytes, or None if it is absent."""
    if value is not None and len(value) != size:
        raise Malformed("malformed", f"an option of {len(value)} bytes where {size} are needed")
    return value


def read_u32(value: bytes | None) -> int | None:
    """Read 4 bytes."""
    exact = read_exactly(value, _U32.size)
    return None if exact is None else int(_U32.unpack(exact)[0])


def read_transfer(value: bytes | None) -> tuple[int, int] | None:
    """Read the bytes received and sent."""
    exact = read_exactly(value, _TRANSFER.size)
    if exact is None:
        return None
    received, sent = _TRANSFER.unpack(exact)
    return received, sent


def read_text(value: bytes | None) -> str:
    """Read a text meant for people; what could upset a terminal is replaced."""
    if value is None:
        return ""
    if len(value) > MAX_REASON:
        raise Malformed("malformed", f"a text of {len(value)} bytes")
    text = value.decode(errors="replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def read_name(value: bytes) -> str:
    """Read the name of a connection. What no name can have becomes `?`, which finds nobody."""
    if not 1 <= len(value) <= MAX_NAME:
        raise Malformed("malformed", f"a name of {len(value)} bytes")
    return "".join(chr(byte) if 0x20 < byte < 0x7F else "?" for byte in value)


def read_endpoint(value: bytes | None) -> tuple[IPAddress, int] | None:
    """Read an address and a port."""
    if value is None:
        return None
    if len(value) not in (6, 18):
        raise Malformed("malformed", f"an endpoint of {len(value)} bytes")
    return ip_address(value[2:]), int.from_bytes(value[:2])


def read_network(value: bytes) -> IPNetwork:
    """Read a network; bits beyond its prefix must be zero."""
    if len(value) not in (5, 17) or value[0] > (len(value) - 1) * 8:
        raise Malformed("malformed", "an installed network of the wrong size")
    try:
        return ip_network((value[1:], value[0]))
    except ValueError:
        raise Malformed("malformed", "an installed network with host bits") from None
