"""Namespaces and mounts by system call, and a host's private view of the file system.

Owns what Python 3.11 lacks (`unshare`, `mount`) and the trick by which a host gets an `/etc` of
its own without anything being created in the machine's, and in which a user who is not root can run
this program wherever it is installed. Refuses to know which hosts there are.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path

from anubis.lab.topology import File

__all__ = ["Namespace", "make_mounts_private", "private_file_system", "title", "unshare"]

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace(IntFlag):
    """CLONE_NEW* of linux/sched.h."""

    MOUNT = 0x00020000
    UTS = 0x04000000
    PID = 0x20000000
    NET = 0x40000000


class _Mount(IntFlag):
    """MS_* of linux/mount.h."""

    NONE = 0
    READ_ONLY = 1
    NO_SUID = 2
    NO_DEVICES = 4
    REMOUNT = 32
    BIND = 4096
    RECURSIVE = 16384
    PRIVATE = 1 << 18


_PR_SET_NAME = 15  # linux/prctl.h
_TUN = Path("/dev/net/tun")
_EVERYBODY = 0o666
_MACHINE = Path("/run/machine")  # where a host sees the machine's own files, read-only


def unshare(namespaces: Namespace) -> None:
    """Give this process new namespaces; a PID namespace holds its next children. Raises OSError."""
    _checked(_libc.unshare(int(namespaces)), "unshare")


def title(name: str) -> None:
    """Show `name` (up to 15 bytes) as this process's command in `ps` and `top`."""
    _checked(_libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0), name)


def make_mounts_private() -> None:
    """Cut this mount namespace off from the machine's, and show /proc and /sys of the new ones.

    Raises OSError.
    """
    _mount("none", Path("/"), "", _Mount.RECURSIVE | _Mount.PRIVATE)
    _mount("proc", Path("/proc"), "proc")
    _mount("sysfs", Path("/sys"), "sysfs")


def private_file_system(files: Iterable[File]) -> None:
    """Give this mount namespace its own /run, /etc and /var/lib, and write `files` there.

    Everything else in /etc and /var/lib shows the machine's files, read-only. Raises OSError.
    """
    _mount("sysfs", Path("/sys"), "sysfs")
    _mount("tmpfs", Path("/run"), "tmpfs", _Mount.NO_SUID | _Mount.NO_DEVICES, "mode=755")
    _MACHINE.mkdir()
    # The whole root, so that relative symbolic links within /etc still lead where they did.
    _mount("/", _MACHINE, "", _Mount.BIND | _Mount.RECURSIVE)
    _mount("none", _MACHINE, "", _Mount.BIND | _Mount.REMOUNT | _Mount.READ_ONLY)
    for directory in (Path("/etc"), Path("/var/lib")):
        _cover(directory)
    for file in files:
        _write(file)
    for needed in (Path(sys.prefix), Path(sys.base_prefix), Path(__file__)):
        _open_way(needed)
    _open_tun()


def _open_way(target: Path) -> None:
    """Let everybody pass through the directories above `target`, each of which may be closed."""
    for directory in reversed(target.parents):
        if not directory.stat().st_mode & stat.S_IXOTH:
            _uncover(directory)


def _uncover(directory: Path) -> None:
    """Put an open directory in place of a closed one, with all that was there."""
    below = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _mount("tmpfs", directory, "tmpfs", _Mount.NO_SUID | _Mount.NO_DEVICES, "mode=755")
        for entry in os.scandir(below):
            there = directory / entry.name
            source = f"/proc/self/fd/{below}/{entry.name}"
            if entry.is_symlink():
                there.symlink_to(Path(source).readlink())
                continue
            if entry.is_dir():
                there.mkdir()
            else:
                there.touch()
            _mount(source, there, "", _Mount.BIND | _Mount.RECURSIVE)
    finally:
        os.close(below)


def _open_tun() -> None:
    """Let everybody open the TUN device, as udev does; without udev only root can.

    What may be done with it needs CAP_NET_ADMIN. A kernel with WireGuard may have none.
    """
    if not _TUN.exists():
        return
    status = _TUN.stat()
    if stat.S_IMODE(status.st_mode) != _EVERYBODY:
        _mount("tmpfs", _TUN.parent, "tmpfs", _Mount.NO_SUID, "mode=755")
        os.mknod(_TUN, stat.S_IFCHR, status.st_rdev)
        _TUN.chmod(_EVERYBODY)


def _cover(directory: Path) -> None:
    """Put a tmpfs over a directory, with links to what was there.

    A tmpfs and links rather than an overlay, which not every kernel has.
    """
    below = _MACHINE / directory.relative_to("/")
    _mount("tmpfs", directory, "tmpfs", _Mount.NO_SUID | _Mount.NO_DEVICES, "mode=755")
    for entry in os.scandir(below):
        # Links are copied as they are: a relative one would otherwise lead elsewhere.
        target = Path(entry.path)
        (directory / entry.name).symlink_to(target.readlink() if entry.is_symlink() else target)


def _write(file: File) -> None:
    path = Path(file.path)
    for parent in reversed(path.parents):
        if parent.is_symlink():
            parent.unlink()
        parent.mkdir(exist_ok=True)
    before = path.read_text() if file.append and path.exists() else ""
    path.unlink(missing_ok=True)
    path.touch(file.mode)
    path.chmod(file.mode)
    path.write_text(before + file.content)


def _mount(
    source: str, target: Path, kind: str, flags: _Mount = _Mount.NONE, options: str = ""
) -> None:
    result = _libc.mount(
        source.encode(),
        bytes(target),
        kind.encode() or None,
        ctypes.c_ulong(int(flags)),
        options.encode() or None,
    )
    _checked(result, f"mount {target}")


def _checked(result: int, subject: str) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), subject)
