"""What the hostile tests have in common: commands, peers as `wg` sees them, nftables of our own.

Evidence comes from `wg`, `nft`, `ip` and the daemons' logs; what `anubis` prints is only what it
claims.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from anubis.lab.lab import Lab
from anubis.lab.observe import sections, snapshot, wait_until

__all__ = [
    "LogMark",
    "Run",
    "anubis",
    "control_address",
    "control_interface",
    "differences",
    "has_peer",
    "new_tunnel",
    "nft_table",
    "private_key",
    "public_key",
    "state",
    "take_down",
]

_PHONES = {"selen"}  # hosts without Anubis
_PHONE_TUNNEL = "/etc/wireguard/anubis.conf"


@dataclass(frozen=True, slots=True)
class Run:
    """How a call of `anubis` ended. `seconds` includes the start of the interpreter."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def result(self) -> str:
        """What --json says was done, "" after an error."""
        return str(json.loads(self.stdout).get("result", "")) if self.stdout else ""

    @property
    def errors(self) -> list[str]:
        """The lines that begin with `anubis: error:`, without that."""
        start = "anubis: error: "
        lines = self.stderr.splitlines()
        return [line.removeprefix(start) for line in lines if line.startswith(start)]


def anubis(lab: Lab, host: str, *argv: str, timeout: float = 60.0) -> Run:
    """Run `anubis` in a host to its end."""
    begin = time.monotonic()
    done = lab.run(host, "anubis", *argv, timeout=timeout)
    return Run(done.returncode, done.stdout, done.stderr, time.monotonic() - begin)


def differences(before: str, after: str) -> list[str]:
    """Return the lines that came ("+") and went ("-").

    Their order tells only in which order interfaces were made.
    """
    old, new = Counter(before.splitlines()), Counter(after.splitlines())
    return [f"-{line}" for line in old - new] + [f"+{line}" for line in new - old]


def state(lab: Lab, host: str) -> str:
    """Return the network of a host as text, but for where its control peers were heard last.

    WireGuard learns that from every packet, also from those that have no effect.
    """
    found = sections(snapshot(lab, host))
    endpoints = found["wg show all endpoints"]
    endpoints[:] = [line for line in endpoints if not line.startswith("anubis0 ")]
    return "".join(
        f"{line}\n" for command, lines in found.items() for line in [f"$ {command}", *lines]
    )


def take_down(lab: Lab) -> None:
    """End xena's connection to jacinth at both ends, whatever state a test left it in."""
    anubis(lab, "xena", "down", "jacinth")
    gone = public_key(lab, "xena")
    wait_until(lambda: not has_peer(lab, "jacinth", gone), 5, "jacinth has forgotten xena")


def private_key(lab: Lab, host: str, name: str = "production") -> str:
    """Return a private key of a host, in base64; a phone has one for both."""
    if host in _PHONES:
        lines = lab.path(host, _PHONE_TUNNEL).read_text().splitlines()
        return next(line for line in lines if line.startswith("PrivateKey")).split(" = ")[1]
    return lab.path(host, f"/etc/anubis/{name}.key").read_text().strip()


def public_key(lab: Lab, host: str, name: str = "production") -> str:
    """Return a public key of a host, in base64, as `wg pubkey` computes it."""
    done = subprocess.run(
        ["wg", "pubkey"],
        input=private_key(lab, host, name),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def control_interface(host: str) -> str:
    """Return the name of a host's control interface; a phone has one interface for all."""
    return "anubis" if host in _PHONES else "anubis0"


def control_address(lab: Lab, host: str) -> str:
    """Return the routable control address of a host, as its interface has it."""
    show = ("ip", "-json", "address", "show", "dev", control_interface(host))
    (link,) = json.loads(lab.run(host, *show, check=True).stdout)
    (found,) = [a["local"] for a in link["addr_info"] if a["local"].startswith("fd61:")]
    return str(found)


def has_peer(lab: Lab, host: str, key: str) -> bool:
    """Tell whether WireGuard on a host has a peer with this key on wg0."""
    return key in lab.run(host, "wg", "show", "wg0", "peers", check=True).stdout.split()


def new_tunnel(lab: Lab, host: str, to: str, plane: str = "control") -> None:
    """Forget the session of a tunnel, as after a reboot: the next packet shakes hands.

    Of production only on a phone, which has one interface for both.
    """
    key, interface = public_key(lab, to, plane), control_interface(host)
    fields = {}
    for field in ("endpoints", "allowed-ips"):
        shown = lab.run(host, "wg", "show", interface, field, check=True).stdout
        fields[field] = dict(line.split("\t") for line in shown.splitlines())[key]
    peer = ("wg", "set", interface, "peer", key)
    lab.run(host, *peer, "remove", check=True)
    allowed = fields["allowed-ips"].replace(" ", ",")
    lab.run(host, *peer, "endpoint", fields["endpoints"], "allowed-ips", allowed, check=True)


@contextmanager
def nft_table(lab: Lab, host: str, name: str, body: str) -> Iterator[None]:
    """Have an nftables table of the test's own in a host. `name` is "FAMILY NAME"."""
    lab.run(host, "nft", "-f", "-", input=f"table {name} {{\n{body}\n}}\n", check=True)
    try:
        yield
    finally:
        lab.run(host, "nft", "delete", "table", *name.split(), check=True)


class LogMark:
    """What the daemon of a host has logged since this was made."""

    def __init__(self, lab: Lab, host: str) -> None:
        self._daemon = lab.daemon(host)
        self._begin = len(self._daemon.log)

    @property
    def lines(self) -> list[str]:
        """The new lines, without time and level."""
        found = []
        for line in self._daemon.log[self._begin :].splitlines():
            words = line.split(" ", 3)
            found.append(words[3] if len(words) == 4 else line)
        return found

    def matching(self, *words: str) -> list[str]:
        """Return the new lines that begin with the first of `words` and contain the others."""
        return [
            line
            for line in self.lines
            if line.split(" ", 1)[0] == words[0] and set(words[1:]) <= set(line.split())
        ]
