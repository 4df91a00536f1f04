"""Reading and changing WireGuard in the kernel, blocking: for a worker thread.

Owns the netlink socket, its deadline, and asking again when a read was interrupted; refuses to
know what the bytes mean. The socket is opened for each call, so that it belongs to the network
namespace of the moment.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Self

from anubis.wireguard.errors import BackendError, backend_error
from anubis.wireguard.netlink.answers import DeviceDump, acknowledged, family_number
from anubis.wireguard.netlink.requests import change_requests, device_request, family_request
from anubis.wireguard.types import Device, DeviceChange

__all__ = ["apply_change", "check_available", "read_device"]

_NETLINK_GENERIC = 16  # linux/netlink.h; the socket module does not name it
_DATAGRAM_SIZE = 1 << 16  # bytes; the kernel fills at most 32 KiB of it in a dump
_DEADLINE = 60.0  # seconds for a whole call; a dump of a million peers takes about 5
_TRIES = 10  # reads of an interface that keeps changing


def check_available(interface: str) -> None:
    """Raise BackendUnavailable, in the name of `interface`, if the kernel has no WireGuard."""
    with _Exchange(interface) as exchange:
        exchange.family()


def read_device(interface: str) -> Device:
    """Read an interface with all its peers. Raises BackendError and its subclasses."""
    with _Exchange(interface) as exchange:
        return exchange.read()


def apply_change(interface: str, change: DeviceChange) -> None:
    """Apply a change of any size. Raises BackendError and its subclasses.

    If the kernel refuses a part, what came before it stays applied.
    """
    with _Exchange(interface) as exchange:
        exchange.apply(change)


class _Exchange:
    """One socket, and the number of the WireGuard family on it."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._until = time.monotonic() + _DEADLINE
        self._sequence = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC)
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def read(self) -> Device:
        """Dump the interface, again if it changed in the middle."""
        family = self.family()
        for _try in range(_TRIES):
            self._sequence += 1
            dump = DeviceDump(self._interface, self._sequence)
            self._send(device_request(family, self._sequence, self._interface))
            self._receive_until(dump.feed)
            if not dump.interrupted:
                return dump.device()
        raise BackendError(
            f"{self._interface}: it changed during each of {_TRIES} attempts to read it",
            self._interface,
            errno.EAGAIN,
        )

    def apply(self, change: DeviceChange) -> None:
        """Send the change message by message, each after the one before was acknowledged."""
        family = self.family()
        for request in change_requests(family, self._sequence + 1, self._interface, change):
            self._sequence += 1
            self._send(request)
            self._receive_until(
                lambda datagram: acknowledged(self._interface, self._sequence, datagram)
            )

    def family(self) -> int:
        """Ask for the number under which the kernel speaks WireGuard."""
        self._sequence += 1
        self._send(family_request(self._sequence))
        found: list[int] = []

        def take(datagram: bytes) -> bool:
            number = family_number(self._interface, self._sequence, datagram)
            found.extend([] if number is None else [number])
            return bool(found)

        self._receive_until(take)
        return found[0]

    def _send(self, request: bytes) -> None:
        try:
            self._socket.send(request)
        except OSError as error:
            raise self._failed(error) from error

    def _receive_until(self, done: Callable[[bytes], bool]) -> None:
        """Hand datagrams to `done` until it says so, or the deadline has come."""
        while True:
            left = self._until - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                self._socket.settimeout(left)
                datagram = self._socket.recv(_DATAGRAM_SIZE)
            except OSError as error:
                raise self._failed(error) from error
            if done(datagram):
                return

    def _failed(self, error: OSError) -> BackendError:
        number = error.errno or errno.ETIMEDOUT  # a timeout of the socket module has no number
        return backend_error(self._interface, number, "cannot talk to the kernel")
