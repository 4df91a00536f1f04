"""A lab as seen from the machine: bring it up, run things in its hosts, take it down.

Owns the order of these; refuses to know how a lab is built (`anubis.lab.supervisor`) and what is
in it (`anubis.lab.scene`).
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from anubis.errors import LocalFailure
from anubis.lab.creation import Creation
from anubis.lab.daemon import Daemon, end_process
from anubis.lab.entry import demand_root, entering, environment, host_process, host_processes
from anubis.lab.process import HostProcess
from anubis.lab.scene import scene
from anubis.lab.slowness import stretched
from anubis.lab.state import DEFAULT_DIRECTORY, StateDirectory
from anubis.lab.topology import Topology

__all__ = ["HostStatus", "Lab", "LabStatus"]

_GONE_SECONDS = 20.0
_RUN_SECONDS = 60.0
_PROGRAMS = {
    "env": "coreutils",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "wg": "wireguard-tools",
}


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host as it is: addresses by interface, and its daemon, if it has one."""

    name: str
    addresses: dict[str, list[str]]
    daemon: str | None  # "ready", "running", or None


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab as it is: `state` is "up", "starting" or "down"."""

    directory: str
    state: str
    hosts: tuple[HostStatus, ...] = ()


class Lab:
    """The lab of one state directory, whether it is up or not."""

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        self.state = StateDirectory(directory)
        self._creation: Creation | None = None  # while the lab is tied to this process

    def up(self, topology: Topology | None = None, *, tethered: bool = False) -> bool:
        """Bring the lab up, with every daemon ready; False if it was up already.

        A tethered lab lives no longer than this object and this process. Raises NotPermitted,
        DaemonFailed or LocalFailure; what had been begun is removed then.
        """
        _demand_means()
        if self.state.supervisor() is not None:
            if self.state.ready.exists():
                return False
            raise LocalFailure(
                f"the lab in {self.state.path} is being brought up by somebody else",
                "wait for it, or remove it with: anubis lab down",
            )
        topology = scene() if topology is None else topology
        self.state.remove()  # what a killed lab has left
        self._creation = Creation(self.state, topology)
        try:
            daemons = [self.daemon(host.name) for host in topology.hosts if host.daemon]
            for daemon in daemons:
                daemon.launch()
            for daemon in daemons:
                daemon.await_ready()
            self.state.ready.touch()
            if not tethered:
                self._creation.detach()
                self._creation = None
        except BaseException:  # also an interrupt: half a lab is of no use to anybody
            self.down()
            raise
        return True

    def down(self) -> bool:
        """Remove the lab and everything in it, however broken; False if there was nothing.

        Raises NotPermitted or LocalFailure.
        """
        demand_root()
        existed = self.state.path.exists()
        deadline = time.monotonic() + stretched(_GONE_SECONDS)
        while not self._removed():
            if time.monotonic() > deadline:
                raise LocalFailure(f"cannot remove {self.state.path}")
        if self._creation is not None:
            self._creation.close()
            self._creation = None
        return existed

    def command(self, host: str, *argv: str) -> list[str]:
        """Return the command line that runs `argv` in a host. Raises LabDown, UnknownHost."""
        return entering(self.state, host, argv)

    def run(
        self,
        host: str,
        *argv: str,
        input: str = "",  # noqa: A002  as subprocess.run has it
        check: bool = False,
        timeout: float = _RUN_SECONDS,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a host to its end, as `subprocess.run` does; its output is captured.

        `env` is added to the environment, `timeout` is in seconds. Raises LabDown, UnknownHost,
        and what `subprocess.run` raises.
        """
        with self.popen(host, *argv, stdin=subprocess.PIPE, env=env) as process:
            try:
                output, errors = process.communicate(input, stretched(timeout))
            except BaseException:  # as subprocess.run: nobody will wait for it any more
                process.kill()
                raise
        result = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
        if check:
            result.check_returncode()
        return result

    def popen(
        self,
        host: str,
        *argv: str,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> HostProcess:
        """Start a command in a host, with text for its streams. Raises LabDown, UnknownHost."""
        return HostProcess(
            self.command(host, *argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**environment(), **(env or {})},
            text=True,
        )

    def path(self, host: str, path: str) -> Path:
        """Return the path by which this process reaches a file of a host. Raises LabDown."""
        return Path(f"/proc/{host_process(self.state, host)}/root") / path.lstrip("/")

    def daemon(self, host: str) -> Daemon:
        """Return the handle of a host's daemon, whether it runs or not."""
        return Daemon(self.state, host)

    def status(self) -> LabStatus:
        """Look at everything."""
        demand_root()
        if self.state.supervisor() is None:
            return LabStatus(str(self.state.path), "down")
        names = dict.fromkeys(name for name, _ in host_processes(self.state))
        hosts = tuple(HostStatus(name, self._addresses(name), self._seen(name)) for name in names)
        state = "up" if self.state.ready.exists() else "starting"
        return LabStatus(str(self.state.path), state, hosts)

    def _removed(self) -> bool:
        supervisor = self.state.supervisor()
        if supervisor is not None:
            end_process(supervisor, signal.SIGKILL, _GONE_SECONDS)
            return False
        return self.state.remove()

    def _addresses(self, host: str) -> dict[str, list[str]]:
        answer = self.run(host, "ip", "-json", "address", "show", check=True).stdout
        return {
            link["ifname"]: [
                f"{address['local']}/{address['prefixlen']}"
                for address in link["addr_info"]
                if address["scope"] == "global"
            ]
            for link in json.loads(answer)
            if link["ifname"] != "lo"
        }

    def _seen(self, host: str) -> str | None:
        daemon = self.daemon(host)
        if daemon.process is None:
            return None
        return "ready" if daemon.ready else "running"


def _demand_means() -> None:
    demand_root()
    missing = {package for name, package in _PROGRAMS.items() if shutil.which(name) is None}
    if missing:
        packages = " ".join(sorted(missing))
        raise LocalFailure(
            f"the lab needs programs that are not installed: packages {packages}",
            f"install them with: apt install {packages}",
        )
    # It is wireguard-go's, and not needed where the kernel has WireGuard.
    if not Path("/dev/net/tun").exists() and not _kernel_has_wireguard():
        raise LocalFailure("/dev/net/tun is missing", "load it with: modprobe tun")


def _kernel_has_wireguard() -> bool:
    trial = ["unshare", "--net", "ip", "link", "add", "probe", "type", "wireguard"]
    return subprocess.run(trial, stderr=subprocess.DEVNULL, check=False).returncode == 0
