"""Who is at the other end of a unix socket, and whether they may change anything.

The kernel answers, not the caller: SO_PEERCRED and SO_PEERGROUPS (socket(7), unix(7)) give the
user and the groups that the caller had when it connected. They stay true if the process ends and
its number is given to another, which `/proc/PID` would not. Refuses to know HTTP.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import Protocol

from anubis.errors import NotPermitted

__all__ = ["Caller", "CallerSocket", "caller_of", "check_may_change"]

_SO_PEERGROUPS = 59  # asm-generic/socket.h; the socket module has no name for it
_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid
_GID = struct.Struct("I")
_OPTION_SIZE = 1024  # bytes; the socket module reads no longer option, so 256 groups


class CallerSocket(Protocol):
    """The part of a socket that is needed here; asyncio hides the rest."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """Read a socket option of at most `buflen` bytes."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A process when it connected; `groups` is None if it is in more than can be read."""

    uid: int
    gid: int
    groups: frozenset[int] | None


def caller_of(connection: CallerSocket) -> Caller:
    """Ask the kernel who connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, gid = _UCRED.unpack(credentials)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _OPTION_SIZE)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        return Caller(uid, gid, None)
    return Caller(uid, gid, frozenset(gid for (gid,) in _GID.iter_unpack(groups)))


def check_may_change(caller: Caller, group: str) -> None:
    """Raise NotPermitted unless the caller is root, the daemon's own user, or in `group`.

    Reads the user database, and so may block where that is on the network.
    """
    if caller.uid in {0, os.geteuid()}:
        return
    try:
        entry = grp.getgrnam(group)
    except KeyError:
        raise NotPermitted(
            f"only root may do this, because there is no group {group!r}",
            f"sudo groupadd --system {group}, then {_join(caller.uid, group)}; or use sudo",
        ) from None
    if entry.gr_gid == caller.gid:
        return
    if caller.groups is None:
        # So many groups that the kernel's list cannot be read: the database decides.
        member = _user_name(caller.uid) in entry.gr_mem
    else:
        member = entry.gr_gid in caller.groups
    if not member:
        raise NotPermitted(
            f"only root and members of group {group!r} may do this",
            f"{_join(caller.uid, group)} and log in again, or use sudo",
        )


def _join(uid: int, group: str) -> str:
    return f"sudo usermod -aG {group} {_user_name(uid)}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
