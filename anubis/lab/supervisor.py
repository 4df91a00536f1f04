"""The process that is the lab: PID 1 of a PID namespace in which all hosts live.

Whatever a lab consists of (processes, interfaces, mounts) exists only in namespaces that this
process keeps alive: when it dies, by whatever cause, all of it is gone. Each host has a process
here that holds its namespaces. Owns birth and death of a lab; refuses to know who asks for one
(`anubis.lab.lab`).

Run as `python -m anubis.lab.supervisor DIRECTORY`. Standard input gives the pickled topology;
when it then ends before a byte says otherwise, whoever asked for the lab has died and the lab
goes too. Standard output gets one line: `ready`, `busy`, or `failed` and why.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from anubis.errors import LocalFailure
from anubis.lab.namespaces import (
    Namespace,
    make_mounts_private,
    private_file_system,
    title,
    unshare,
)
from anubis.lab.plumbing import connect, lay_networks, plumb, prepare
from anubis.lab.state import StateDirectory
from anubis.lab.topology import Host, Topology
from anubis.lab.web import web_server

__all__ = ["DETACH", "main"]

DETACH = b"\n"  # on standard input: the lab shall outlive whoever asked for it
_DONE = b"done"
_MESSAGE_SIZE = 4096  # bytes
_FAILURES = (OSError, LocalFailure, subprocess.SubprocessError)


@dataclass(frozen=True, slots=True)
class _Holder:
    """The process that holds a host's namespaces, and our end of the talk with it."""

    host: Host
    process: int
    channel: socket.socket

    def await_step(self) -> None:
        """Wait until it has done its present step. Raises LocalFailure with its reason."""
        message = self.channel.recv(_MESSAGE_SIZE)
        if message != _DONE:
            reason = message.decode() or "its process died"
            raise LocalFailure(f"host {self.host.name}: {reason}")


def main() -> None:
    """Become PID 1 of a new lab in the background."""
    state = StateDirectory(Path(sys.argv[1]))
    topology: Topology = pickle.load(sys.stdin.buffer)  # noqa: S301  our parent wrote it
    try:
        unshare(Namespace.PID | Namespace.MOUNT | Namespace.NET | Namespace.UTS)
    except OSError as error:
        _report(f"failed cannot make namespaces: {error.strerror}")
        return
    if os.fork():
        os._exit(0)  # the lab is nobody's child: init reaps it
    # PID 1 heeds a signal from within its namespace only if it has a handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if not state.acquire():
        _report("busy")
        os._exit(0)
    try:
        _build(topology)
    except _FAILURES as failure:
        _report(f"failed {failure}")
        state.remove()
        os._exit(1)
    threading.Thread(target=_watch_creator, args=(state,), daemon=True).start()
    _report("ready")
    while True:
        os.waitpid(-1, 0)  # orphans of the lab; the holders stay


def _report(line: str) -> None:
    # Whoever asked may be dead already; the end of our standard input tells.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, " ".join(line.split()).encode() + b"\n")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _watch_creator(state: StateDirectory) -> None:
    if sys.stdin.buffer.read(1) != DETACH:
        state.remove()
        os._exit(0)


def _build(topology: Topology) -> None:
    os.chdir("/")
    make_mounts_private()
    socket.sethostname(topology.router.name)
    title("anubis-lab")
    holders = [_start_holder(host) for host in topology.hosts]
    lay_networks(topology)
    for holder in holders:
        holder.await_step()
        connect(holder.host, holder.process)
        holder.channel.send(_DONE)
    plumb(topology.router)
    for holder in holders:
        holder.await_step()
        holder.channel.close()


def _start_holder(host: Host) -> _Holder:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = os.fork()
    if process == 0:
        ours.close()
        _hold(host, theirs)
    theirs.close()
    return _Holder(host, process, ours)


def _hold(host: Host, channel: socket.socket) -> NoReturn:
    """Be the process of one host. Never returns into the supervisor's code."""
    try:
        _quietly()
        stay = _become(host, channel)
        channel.send(_DONE)
        channel.close()
        stay()
    except _FAILURES as failure:
        channel.send(str(failure).encode()[:_MESSAGE_SIZE])
    finally:
        os._exit(1)


def _quietly() -> None:
    """Let go of what belongs to the supervisor alone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _become(host: Host, channel: socket.socket) -> Callable[[], object]:
    """Make the host around this process; return what it then does for ever."""
    unshare(Namespace.MOUNT | Namespace.NET | Namespace.UTS)
    socket.sethostname(host.name)
    title(host.name)
    private_file_system(host.files)
    os.chdir("/")
    prepare(host)
    channel.send(_DONE)
    channel.recv(_MESSAGE_SIZE)
    plumb(host)
    return signal.pause if host.page is None else web_server(host.page).serve_forever


if __name__ == "__main__":
    main()
