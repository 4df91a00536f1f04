"""The state directory of a lab: its lock, its marker of readiness, its logs.

Everything that a lab leaves on the machine is this one directory. Who runs the lab is told by a
POSIX lock, which the kernel drops with its holder: no process number is ever written down, so
none can be stale. The supervisor holds it for writing; who removes the directory holds it for
reading meanwhile. Refuses to know what a lab is made of.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
from pathlib import Path

__all__ = ["DEFAULT_DIRECTORY", "StateDirectory"]

DEFAULT_DIRECTORY = Path("/run/anubis-lab")
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl.h: type, whence, start, length, pid


class StateDirectory:
    """The state directory at `path`; root's alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def ready(self) -> Path:
        """The marker that stands while the lab is up and whole."""
        return self.path / "ready"

    def log(self, name: str) -> Path:
        """Return the path of a log."""
        return self.path / f"{name}.log"

    def make(self) -> None:
        """Make the directory if it is missing. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def supervisor(self) -> int | None:
        """Return the supervisor's process, as numbered in our PID namespace, or None."""
        try:
            descriptor = os.open(self._lock, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            # Would reading be in somebody's way? Only a writer's: other removers do not count.
            question = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
        finally:
            os.close(descriptor)
        kind, _, _, _, holder = _FLOCK.unpack(answer)
        return None if kind == fcntl.F_UNLCK else int(holder)

    def acquire(self) -> bool:
        """Become the supervisor for the life of this process; False if somebody is, or removes.

        Raises OSError.
        """
        return self._take(fcntl.LOCK_EX) is not None

    def remove(self) -> bool:
        """Remove the directory; False if there is a supervisor. Raises OSError."""
        if not self.path.exists():
            return True
        descriptor = self._take(fcntl.LOCK_SH)
        if descriptor is not None:
            # Two may remove at once: what the other has removed is no error.
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(descriptor)
        return not self.path.exists()

    @property
    def _lock(self) -> Path:
        return self.path / "lock"

    def _take(self, operation: int) -> int | None:
        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.lockf(descriptor, operation | fcntl.LOCK_NB)
            # A remover may have held it until now: a lock on an unlinked file guards nothing.
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                os.close(descriptor)
                raise
        os.close(descriptor)
        return None
