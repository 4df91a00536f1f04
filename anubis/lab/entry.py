"""The way into a host of a lab: which process holds it, and the command that enters it.

Owns how hosts are found from outside. Imports little, because it is all that
`anubis lab exec` runs; refuses to know how a lab is made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from anubis.errors import AnubisError, NotPermitted
from anubis.lab.state import StateDirectory

__all__ = [
    "ROUTER",
    "LabDown",
    "UnknownHost",
    "demand_root",
    "entering",
    "environment",
    "host_process",
    "host_processes",
]

ROUTER = "internet"  # the router's name: where every packet of every network can be watched
_LOOKS = 20  # at a list of processes that changes while it is read
_PRIVATE = ("/run", "/var/run", "/etc", "/var/lib")  # where a host sees files of its own


class LabDown(AnubisError):
    """There is no lab to do that in."""

    def __init__(self, state: StateDirectory) -> None:
        super().__init__(f"the lab is not up ({state.path})", "start it with: anubis lab up")


class UnknownHost(AnubisError):
    """The lab has no host of that name."""

    exit_status = 2


def demand_root() -> None:
    """Raise NotPermitted unless this is root."""
    if os.geteuid() != 0:
        raise NotPermitted("a lab is made of namespaces that only root may enter", "use sudo")


def host_processes(state: StateDirectory) -> Iterator[tuple[str, int]]:
    """Yield every child of the supervisor with the name of its host, holders of hosts first.

    Daemons that were started in a host are the supervisor's children too. Raises LabDown.
    """
    supervisor = state.supervisor()
    if supervisor is None:
        raise LabDown(state)
    try:
        children = _children(supervisor)
    except (FileNotFoundError, ProcessLookupError):
        raise LabDown(state) from None
    for child in children:
        try:
            name = Path(f"/proc/{child}/root/etc/hostname").read_text().strip()
        except OSError:  # it has just ended
            continue
        yield name, int(child)


def _children(process: int) -> list[str]:
    """Return the children of a process. Raises FileNotFoundError, ProcessLookupError.

    The kernel leaves some out while others end (proc_pid_children(5)), so it is asked until it
    says the same twice; a list that changes all the time is taken as it is.
    """
    path = Path(f"/proc/{process}/task/{process}/children")
    seen = path.read_text()
    for _ in range(_LOOKS):
        before, seen = seen, path.read_text()
        if seen == before:
            break
    return seen.split()


def host_process(state: StateDirectory, host: str) -> int:
    """Return a process that lives as long as the host does. Raises LabDown, UnknownHost."""
    if host == ROUTER:
        supervisor = state.supervisor()
        if supervisor is None:
            raise LabDown(state)
        return supervisor
    names = []
    for name, process in host_processes(state):
        if name == host:
            return process
        names.append(name)
    known = ", ".join(dict.fromkeys([*names, ROUTER]))
    raise UnknownHost(f"the lab has no host {host!r}", f"its hosts are {known}")


def entering(state: StateDirectory, host: str, command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` in a host. Raises LabDown, UnknownHost.

    Its exit status is the command's. The command gets SIGTERM when whoever waits for it dies, and
    the default actions for SIGINT and SIGQUIT, whatever the caller has set for himself.
    """
    directory = str(Path.cwd())
    if any(Path(directory).is_relative_to(private) for private in _PRIVATE):
        directory = "/"
    namespaces = ["--mount", "--net", "--uts", "--pid"]
    return [
        *("nsenter", f"--target={host_process(state, host)}", *namespaces, "--"),
        *("env", "--default-signal=INT,QUIT", f"--chdir={directory}"),
        *("setpriv", "--pdeathsig=TERM", "--", *command),
    ]


def environment() -> dict[str, str]:
    """Return this process's environment with `anubis` first on the PATH."""
    running = Path(sys.argv[0])
    anubis = running if running.name == "anubis" else Path(sys.executable)
    path = os.environ.get("PATH", os.defpath)
    return {**os.environ, "PATH": f"{anubis.absolute().parent}{os.pathsep}{path}"}
