"""A command that runs in a host of a lab, handled from the machine.

Between us and the command stands the `nsenter` that waits for it. Owns that signals reach the
command itself; refuses to know how a host is entered (`anubis.lab.entry`).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["HostProcess"]


class HostProcess(subprocess.Popen[str]):
    """As `subprocess.Popen`; `send_signal`, `terminate` and `kill` go to the command.

    The parent-death signal of `entering` would not do: a command that gives up root, as tcpdump
    does, loses it.
    """

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command; nothing happens if it has ended."""
        if self.poll() is not None:
            return
        try:
            os.kill(self._command(), sig)
        except ProcessLookupError:
            return  # it has just ended; who waits for us will learn of it

    def _command(self) -> int:
        """Return the command's process, or nsenter's as long as that has not made it."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            children = []
        return int(children[0]) if children else self.pid
