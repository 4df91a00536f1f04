"""A program that we started and that may outlive us.

Owns starting it apart from our terminal and descriptors, what it says at its start, and reaping
it. Refuses to know what it does.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Sequence

__all__ = ["Child"]

_LOG_SIZE = 8192  # bytes kept of what it says; wireguard-go's banner takes about 1,500 of them
_BANNER = tuple("┌│└")


class Child:
    """A started program, which is ours to signal and to reap. Raises OSError if it can't start."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._log: int | None = _bounded_file()
        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=self._log,  # where wireguard-go has its errors; its banner is on the other
                stderr=self._log,
                cwd="/",
                env={"LOG_LEVEL": "error"},
                start_new_session=True,  # a Ctrl-C that ends us does not reach it
            )
        except OSError:
            self._forget_log()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def running(self) -> bool:
        """Tell whether it runs; once it has ended, reap it."""
        return self._process.poll() is None

    def settle(self) -> None:
        """Stop listening: it has started well."""
        self._forget_log()

    def terminate(self) -> None:
        """Ask it to quit."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._forget_log()

    def leave(self) -> None:
        """Let it run on without us."""
        if self.running():
            # Popen's destructor warns of a process that still runs; this one is meant to.
            self._process.returncode = 0
        self._forget_log()

    def last_words(self) -> str:
        """Return the beginning of what it said, on either output, without a banner, in one line.

        If that is nothing, its exit status, which is negative for a signal.
        """
        said = b"" if self._log is None else os.pread(self._log, _LOG_SIZE, 0)
        lines = [line.strip() for line in said.rstrip(b"\0").decode(errors="replace").splitlines()]
        words = "; ".join(line for line in lines if line and not line.startswith(_BANNER))
        return words or f"exit status {self._process.returncode}"

    def _forget_log(self) -> None:
        if self._log is not None:
            os.close(self._log)
            self._log = None


def _bounded_file() -> int:
    """Make a nameless file that cannot grow beyond _LOG_SIZE.

    Not a pipe: a Go program dies of SIGPIPE at its first word after the reader has gone, and these
    programs shall outlive us. Not a plain file either, which would grow as long as they live.
    """
    log = os.memfd_create("log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(log, _LOG_SIZE)
    fcntl.fcntl(log, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return log
