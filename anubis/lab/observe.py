"""Looking at a lab: what a host's network is made of, and waiting for something to come true.

Owns what counts as state, as against a counter that runs. Reads with iproute2, nftables and
wireguard-tools only: what Anubis says of itself is no evidence.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from anubis.errors import LocalFailure
from anubis.lab.lab import Lab
from anubis.lab.slowness import stretched

__all__ = ["sections", "snapshot", "wait_until"]

_POLL_SECONDS = 0.02
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
    f"sysctl {' '.join(_SYSCTLS)}",
)
_MARK = "$ "
_FIELDS = "public-key listen-port fwmark peers endpoints allowed-ips persistent-keepalive"
# One process for each command, because a process is what costs where all is emulated. "wg show all"
# itself would name the interface only before its first peer, and not end a line without peers.
_WIREGUARD = f"""
dump=$(wg show all dump)
printf '%s\\n' "$dump" | awk -F '\t' '
    function add(field, words) {{ lines[field] = lines[field] $1 " " words "\\n" }}
    NF == 5 {{ add("public-key", $3); add("listen-port", $4); add("fwmark", $5) }}
    NF == 9 {{
        gsub(",", " ", $5)
        add("peers", $2); add("endpoints", $2 " " $4); add("allowed-ips", $2 " " $5)
        add("persistent-keepalive", $2 " " $9)
    }}
    END {{
        count = split("{_FIELDS}", fields, " ")
        for (each = 1; each <= count; each++)
            printf "{_MARK}wg show all %s\\n%s", fields[each], lines[fields[each]]
    }}'
"""
_SCRIPT = "set -e\n" + "\n".join(f"echo '{_MARK}{line}'; {line}" for line in _COMMANDS) + _WIREGUARD


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
    seconds = stretched(seconds)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LocalFailure(f"after {seconds:g} s still not: {what}")
        time.sleep(stretched(_POLL_SECONDS))
