"""Looking at the guest with the tools of an administrator, and acting as one.

What is claimed about the service is read with systemctl, journalctl, ip, wg and nft.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "SECONDS",
    "Ping",
    "anubis",
    "drop_in",
    "in_house",
    "interfaces",
    "journal",
    "network",
    "run",
    "show",
    "wait_until",
]

# For whatever has to happen: emulated, and on a machine that has other work, the daemon may need
# minutes to start. What is promised about time is measured where it is promised.
SECONDS = 420.0
_POLL_SECONDS = 0.2
_SESSION = ("ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all",
            "nft --stateless list ruleset", "wg show all peers")  # fmt: skip


def run(*command: str, check: bool = True) -> str:
    """Run a command and return what it prints. Raises AssertionError with all it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def anubis(*words: str) -> str:
    """Run `anubis` as ann, who is not root, but in group anubis."""
    return run("setpriv", "--reuid=ann", "--regid=ann", "--init-groups", "anubis", *words)


def show(name: str, unit: str = "anubis") -> str:
    """Return a property of a unit."""
    return run("systemctl", "show", "--property", name, "--value", unit).strip()


def in_house(*command: str) -> str:
    """Run a command in the network of the house."""
    return run("nsenter", f"--net=/proc/{show('MainPID', 'house')}/ns/net", *command)


def journal(*matches: str) -> list[dict[str, Any]]:
    """Return the entries of the journal that match, oldest first."""
    lines = run("journalctl", "--output=json", "--no-pager", *matches, check=False).splitlines()
    return [json.loads(line) for line in lines]


def interfaces() -> set[str]:
    """Return the names of the network interfaces that there are."""
    return {link["ifname"] for link in json.loads(run("ip", "-json", "link", "show"))}


def network() -> Mapping[str, str]:
    """Return what Anubis may change of the guest's network, by the command that shows it."""
    return {command: run(*command.split()) for command in _SESSION}


def wait_until(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Return as soon as the condition holds. Raises AssertionError that names it if it is late."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(_POLL_SECONDS)


class Ping:
    """A `ping` of the house through the tunnel, five packets a second, while it is open."""

    def __enter__(self) -> Ping:
        command = ("ping", "-n", "-i", "0.2", "10.66.0.1")
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"}
        )
        assert self._process.stdout is not None
        self._said = ""
        while "icmp_seq=" not in self._said:  # it runs
            line = self._process.stdout.readline()
            assert line, f"ping: {self._said}"
            self._said += line
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._said += self._process.communicate()[0]

    @property
    def counts(self) -> tuple[int, int]:
        """How many packets were sent, and how many answered, when it has ended."""
        found = re.search(r"^(\d+) packets transmitted, (\d+) received", self._said, re.M)
        assert found is not None, self._said
        return int(found[1]), int(found[2])

    @property
    def lost(self) -> set[int]:
        """Which packets were not answered, but for the last, which may have been under way."""
        return set(range(1, self.counts[0])) - set(
            map(int, re.findall(r"icmp_seq=(\d+)", self._said))
        )


def drop_in(name: str, *lines: str) -> Path:
    """Add to the unit's section [Service], as `systemctl edit` does, and return the file."""
    path = Path(f"/etc/systemd/system/anubis.service.d/{name}.conf")
    path.write_text("\n".join(["[Service]", *lines, ""]))
    run("systemctl", "daemon-reload")
    return path
