"""IP packets made by hand, with any source, and sent through an interface past its host's rules.

Owns headers and checksums; refuses to know what is in them.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from ipaddress import ip_address
from typing import Self

from anubis.lab.lab import Lab
from tests.lab.caller import inside

__all__ = ["ETHERTYPE", "Injector", "checksum", "ip_packet", "udp_packet"]

ETHERTYPE = {4: 0x0800, 6: 0x86DD}


def checksum(data: bytes) -> int:
    """Return the sum of RFC 1071 before it is inverted."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ip_packet(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """Return an IP packet of either family."""
    src, dst = ip_address(source), ip_address(target)
    if src.version == 6:
        head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
        return head + src.packed + dst.packed + payload
    fields = (0x45, 0, 20 + len(payload), 1, 0, 64, protocol)
    head = struct.pack(">BBHHHBBH", *fields, 0) + src.packed + dst.packed
    right = 0xFFFF ^ checksum(head)
    return head[:10] + right.to_bytes(2, "big") + head[12:] + payload


def udp_packet(source: tuple[str, int], target: tuple[str, int], payload: bytes) -> bytes:
    """Return a UDP datagram from one address and port to another, in its IP packet."""
    length = 8 + len(payload)
    head = struct.pack(">HHHH", source[1], target[1], length, 0)
    ends = ip_address(source[0]).packed + ip_address(target[0]).packed
    pseudo = ends + struct.pack(">HH", socket.IPPROTO_UDP, length)
    right = 0xFFFF ^ checksum(pseudo + head + payload + bytes(length % 2))
    filled = head[:6] + (right or 0xFFFF).to_bytes(2, "big") + payload
    return ip_packet(source[0], target[0], socket.IPPROTO_UDP, filled)


class Injector:
    """Writes packets into an interface of a host."""

    def __init__(self, lab: Lab, host: str, interface: str) -> None:
        self._interface = interface
        with inside(lab, host):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, packet: bytes | bytearray) -> None:
        """Write one packet; wait while the interface's queue is full."""
        while True:
            try:
                self._socket.sendto(packet, (self._interface, ETHERTYPE[packet[0] >> 4]))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                select.select([], [], [], 0.001)
            else:
                return
