"""Files of the daemon's own that a kill or a power cut finds whole: appended to, or put in place.

Owns how they are written. Refuses to know what is in them. Every function raises OSError.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["append", "put", "sync"]


def append(path: Path, content: bytes) -> None:
    """Append to a file that is there, not yet for a power cut."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def put(path: Path, content: bytes, *, lasting: bool) -> None:
    """Write a file anew, mode 600: at any instant it is the old or the new one.

    A `lasting` one is on the disk before it has its name, so that a power cut leaves one of the two
    as well; which, is settled by a `sync` of the directory.
    """
    temporary = path.with_suffix(".new")
    # What lies there is of a killed daemon, or a trap of who owned the directory before.
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        _write_all(descriptor, content)
        if lasting:
            os.fsync(descriptor)
    except OSError:
        temporary.unlink()  # a full disk needs the room
        raise
    finally:
        os.close(descriptor)
    temporary.replace(path)


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    """Write everything: a disk that becomes full takes a part and complains only of the rest."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
