"""Looking at a lab: what a host's network is made of, and waiting for something to come true.

Owns what counts as state, as against a counter that runs. Reads with iproute2, nftables and
wireguard-tools only: what Anubis says of itself is no evidence.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from anubis.errors import LocalFailure
from anubis.lab.lab import Lab

__all__ = ["sections", "snapshot", "wait_until"]

_POLL_SECONDS = 0.02
_WIREGUARD = ("public-key", "listen-port", "fwmark", "peers", "endpoints", "allowed-ips",
              "persistent-keepalive")  # fmt: skip
_SYSCTLS = ("net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter",
            "net.ipv4.conf.all.src_valid_mark", "net.ipv6.conf.all.forwarding")  # fmt: skip
_COMMANDS = (
    "ip -4 rule show",
    "ip -6 rule show",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip -brief link show",
    "ip -brief address show",
    "nft --stateless list ruleset",
    *(f"wg show all {field}" for field in _WIREGUARD),
    f"sysctl {' '.join(_SYSCTLS)}",
)
_MARK = "$ "
# "wg show all endpoints" names the interface only before its first peer, and does not end the line
# where there is no peer: each interface by itself, then, and so for every field.
_SCRIPT = """\
set -e
wg_all() {
    for name in $(wg show interfaces); do wg show "$name" "$1" | sed "s/^/$name /"; done
}
""" + "\n".join(
    f"echo '{_MARK}{line}'; {line.replace('wg show all', 'wg_all')}" for line in _COMMANDS
)


def snapshot(lab: Lab, host: str) -> str:
    """Return the state of a host's network as text; equal texts mean an equal network.

    Rules, routes of all tables, links, addresses, nftables, WireGuard and kernel parameters, each
    under the command that shows it. Left out is what changes by itself: handshakes, transfer,
    counters. Raises LocalFailure if a tool fails.
    """
    result = lab.run(host, "sh", "-c", _SCRIPT)
    if result.returncode != 0:
        raise LocalFailure(f"cannot look at {host}: {result.stderr.strip()}")
    return "".join(
        f"{_MARK}{command}\n" + "".join(f"{line}\n" for line in lines)
        for command, lines in sections(result.stdout).items()
    )


def sections(text: str) -> dict[str, list[str]]:
    """Return the lines of a snapshot by the command that shows them."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(_MARK):
            found[line.removeprefix(_MARK)] = []
        else:
            found[next(reversed(found))].append(line.rstrip())
    for command, lines in found.items():
        if command.startswith("wg "):  # which has no order of its own
            lines[:] = sorted(_canonical(line) for line in lines)
    return found


def _canonical(line: str) -> str:
    """Return a line of `wg show all` with whatever follows interface and peer in order."""
    words = line.split()
    return " ".join([*words[:2], *sorted(words[2:])])


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as `condition()` is true. Raises LocalFailure that names `what` if it is late.

    The condition is asked at least once, and once more after the deadline.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LocalFailure(f"after {seconds:g} s still not: {what}")
        time.sleep(_POLL_SECONDS)
