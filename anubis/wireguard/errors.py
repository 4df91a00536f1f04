"""What can go wrong with WireGuard, in this package's own words.

Every operating-system, netlink or UAPI error is mapped to one of these at the edge where it
arises; nothing outside this package sees a library's exception.

    WireGuardError
    |- KeyFormatError (also ValueError)     text or bytes that are no key
    `- BackendError(interface, errno)       an operation on an interface failed
       |- BackendUnavailable                this host cannot do WireGuard in this way
       |- DeviceNotFound                    no such WireGuard interface
       |- DeviceExists                      the name is taken
       `- BackendPermissionDenied           CAP_NET_ADMIN is missing
"""

from __future__ import annotations

import errno as codes
import os

__all__ = [
    "BackendError",
    "BackendPermissionDenied",
    "BackendUnavailable",
    "DeviceExists",
    "DeviceNotFound",
    "KeyFormatError",
    "WireGuardError",
    "backend_error",
]


class WireGuardError(Exception):
    """Base of this package's errors."""


class KeyFormatError(WireGuardError, ValueError):
    """Not a WireGuard key: 32 bytes, or their canonical base64 of 44 characters."""


class BackendError(WireGuardError):
    """An operation on an interface failed; `errno` is the system's number, where it gave one."""

    def __init__(self, message: str, interface: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.interface = interface
        self.errno = errno


class BackendUnavailable(BackendError):
    """The kernel has no WireGuard, or `wireguard-go` is not installed."""


class DeviceNotFound(BackendError):
    """No WireGuard interface of that name can be controlled here."""


class DeviceExists(BackendError):
    """An interface of that name is there already."""


class BackendPermissionDenied(BackendError):
    """The process lacks CAP_NET_ADMIN."""


_BY_ERRNO: dict[int, type[BackendError]] = {
    codes.ENODEV: DeviceNotFound,
    codes.EEXIST: DeviceExists,
    codes.EPERM: BackendPermissionDenied,
    codes.EACCES: BackendPermissionDenied,
}
_ADVICE = {
    codes.EPERM: "CAP_NET_ADMIN is needed: become root",
    codes.EADDRINUSE: "another program has the UDP port: choose another ListenPort",
}


def backend_error(interface: str, errno: int, doing: str) -> BackendError:
    """Make the error for a number of errno(3), of either sign, met while `doing` something."""
    number = abs(errno)
    # strerror takes a C int; a number beyond that came from a peer that talks nonsense.
    reason = os.strerror(number) if number < 1 << 31 else f"error {number}"
    advice = f" ({_ADVICE[number]})" if number in _ADVICE else ""
    kind = _BY_ERRNO.get(number, BackendError)
    return kind(f"{interface}: {doing}: {reason}{advice}", interface, number)
