"""The daemon of one lab host: started, stopped, killed, waited for.

The daemon is an orphan that the lab's PID 1 adopts, so it dies with the lab and with nothing
else. Found among its children, so there is no process number to go stale. Refuses to know what
the daemon does.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from anubis.errors import LocalFailure
from anubis.lab.entry import entering, environment, host_process, host_processes
from anubis.lab.service import as_service
from anubis.lab.slowness import stretched
from anubis.lab.state import StateDirectory

__all__ = ["Daemon", "DaemonFailed", "end_process"]

_COMMAND = ("anubis", "daemon")
_SOCKET = "run/anubis/anubis.sock"
_READY_SECONDS = 20.0
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 1.0
_POLL_SECONDS = 0.02
_MISSES = 5  # looks in a row that do not find the process, until it is held to be dead
_LOG_LINES = 20


def end_process(process: int, signal_number: int, seconds: float) -> bool:
    """Send a signal and wait until the process has ended; False if it has not in time."""
    seconds = stretched(seconds)
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        signal.pidfd_send_signal(descriptor, signal_number)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)


class DaemonFailed(LocalFailure):
    """A daemon did not become ready. `log` holds the last lines of what it wrote."""

    def __init__(self, message: str, log: list[str]) -> None:
        super().__init__(message)
        self.log = tuple(log)


class Daemon:
    """`anubis daemon` on one host."""

    def __init__(self, state: StateDirectory, host: str) -> None:
        self._state = state
        self.host = host

    @property
    def process(self) -> int | None:
        """Its process, as numbered in our PID namespace, or None if it does not run."""
        for host, process in host_processes(self._state):
            if host == self.host and _is_daemon(process):
                return process
        return None

    @property
    def log(self) -> str:
        """Everything that it has logged since the lab came up."""
        path = self._state.log(self.host)
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def ready(self) -> bool:
        """Whether it answers on its socket."""
        process = host_process(self._state, self.host)
        return _answers(Path(f"/proc/{process}/root") / _SOCKET)

    def start(self, seconds: float = _READY_SECONDS, env: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it answers. Raises DaemonFailed, or LocalFailure if it runs."""
        self.launch(env)
        self.await_ready(seconds)

    def launch(self, env: Mapping[str, str] | None = None) -> None:
        """Start it without waiting, with `env` added to its environment.

        Raises LocalFailure if it runs already.
        """
        if self.process is not None:
            raise LocalFailure(f"the daemon of {self.host} runs already")
        with self._state.log(self.host).open("ab") as log:
            subprocess.run(
                entering(self._state, self.host, ["setsid", "--fork", *as_service(_COMMAND)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment(), **(env or {})},
                check=True,
            )

    def await_ready(self, seconds: float = _READY_SECONDS) -> None:
        """Wait until it answers. Raises DaemonFailed."""
        seconds = stretched(seconds)
        deadline = time.monotonic() + seconds
        missed = 0
        while not self.ready:
            # While a process executes its program it has no command line to be known by.
            missed = missed + 1 if self.process is None else 0
            if missed == _MISSES:
                raise self._failed("has died")
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready after {seconds:g} s")
            time.sleep(stretched(_POLL_SECONDS))

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """End it in order, with SIGTERM. Raises LocalFailure if it does not obey in time."""
        process = self.process
        if process is not None and not end_process(process, signal.SIGTERM, seconds):
            raise LocalFailure(f"the daemon of {self.host} did not stop within {seconds:g} s")

    def let_go(self, seconds: float = _STOP_SECONDS) -> None:
        """End it as a restart does, with SIGUSR2. Raises LocalFailure if it does not obey."""
        process = self.process
        if process is not None and not end_process(process, signal.SIGUSR2, seconds):
            raise LocalFailure(f"the daemon of {self.host} did not let go within {seconds:g} s")

    def kill(self) -> None:
        """End it at once, with SIGKILL. Raises LocalFailure if the kernel does not obey."""
        process = self.process
        if process is not None and not end_process(process, signal.SIGKILL, _STOP_SECONDS):
            raise LocalFailure(f"the daemon of {self.host} could not be killed")

    def _failed(self, what: str) -> DaemonFailed:
        return DaemonFailed(
            f"the daemon of {self.host} {what}", self.log.splitlines()[-_LOG_LINES:]
        )


def _is_daemon(process: int) -> bool:
    """Tell the daemon by its command line, which an interpreter may precede."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_text().rstrip("\0").split("\0")
    except OSError:
        return False
    return len(words) > 1 and (Path(words[-2]).name, words[-1]) == _COMMAND


def _answers(path: Path) -> bool:
    """Ask for the status on a unix socket; True if that succeeds."""
    request = b"GET /v1/status HTTP/1.1\r\nHost: anubis\r\nConnection: close\r\n\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(stretched(_ANSWER_SECONDS))
        try:
            connection.connect(str(path))
            connection.sendall(request)
            return connection.recv(64).startswith(b"HTTP/1.1 200 ")
        except OSError:
            return False
