"""A process that leaves no core file: its memory holds private keys.

Owns the two settings that keep the kernel from writing memory out. Refuses to know what is in it.
"""

from __future__ import annotations

import ctypes
import os
import resource

__all__ = ["become_undumpable"]

_PR_SET_DUMPABLE = 4  # linux/prctl.h
# Not 0: a core_pattern that names a program, as systemd-coredump does, gets the core all the same.
# With 1 the kernel writes neither a file nor into a pipe (fs/coredump.c).
_NO_CORE = 1  # bytes


def become_undumpable() -> None:
    """Let neither this process nor those that it starts from now on leave a core. Raises OSError.

    Other processes of the same user can no longer read this one's memory either (ptrace(2)). The
    limit is inherited, so it holds for a wireguard-go that we start; the rest ends at execve(2).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE, _NO_CORE))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl")
