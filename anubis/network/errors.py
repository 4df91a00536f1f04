"""What can go wrong while the host's network is changed, in words for its administrator.

Every netlink, nftables and file error is mapped to `NetworkError` at the edge where it arises;
nothing outside this package sees a library's exception.
"""

from __future__ import annotations

import errno as codes
import os

from anubis.errors import LocalFailure

__all__ = ["NetworkError", "explain", "remedy"]


class NetworkError(LocalFailure):
    """The network of this host could not be read or changed.

    `errno` is the system's number where it gave one. ETIMEDOUT means that nobody knows whether
    the change took place.
    """

    def __init__(self, message: str, hint: str | None = None, errno: int | None = None) -> None:
        super().__init__(message, hint)
        self.errno = errno


_HINTS = {
    codes.EPERM: "the daemon needs CAP_NET_ADMIN: start it by its unit, or as root",
    codes.EACCES: "the daemon needs CAP_NET_ADMIN: start it by its unit, or as root",
    codes.ENETDOWN: "bring the interface up first",
    codes.EAFNOSUPPORT: "this kernel was started without IPv4 or IPv6",
    codes.ENOBUFS: "this host is short of memory: free some, then try again",
    codes.ENOMEM: "this host is short of memory: free some, then try again",
    codes.EMFILE: "the daemon has no descriptors left: raise LimitNOFILE of its unit",
}
_HINT = "try again; if that does not help, the kernel's log may tell why: dmesg"


def remedy(number: int) -> str:
    """Return what to do about an errno."""
    return _HINTS.get(number, _HINT)


def explain(what: str, number: int, detail: str | None = None) -> NetworkError:
    """Make the error for "`what` failed with errno `number`"; `detail` is the kernel's own text."""
    reason = detail or os.strerror(number)
    return NetworkError(f"cannot {what}: {reason}", remedy(number), number)
