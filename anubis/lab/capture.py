"""Recording what passes on a network of a lab, as seen from its middle.

Owns tcpdump; refuses to know what anybody hopes to see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from anubis.errors import LocalFailure
from anubis.lab.entry import ROUTER
from anubis.lab.lab import Lab

__all__ = ["Capture", "capture"]

# Neighbour discovery (ARP, ICMPv6 with or without a hop-by-hop header) is about the link itself.
_FILTER = "not arp and not icmp6 and not (ip6 and ip6[6] = 0)"


@dataclass(slots=True)
class Capture:
    """What passed: a line of tcpdump for each packet, and all bytes; empty until it has ended."""

    lines: tuple[str, ...] = ()
    content: bytes = b""


@contextmanager
def capture(lab: Lab, network: str) -> Iterator[Capture]:
    """Record a network while the context is open. Raises LabDown or LocalFailure."""
    found = Capture()
    file = lab.state.path / f"{network}.pcap"
    command = ("tcpdump", "-Z", "root", "-U", "--immediate-mode", "-ni", network, "-w", str(file))
    with lab.popen(ROUTER, *command, _FILTER) as process:
        try:
            said = process.stderr.readline() if process.stderr else ""
            if "listening" not in said:
                raise LocalFailure(f"cannot record {network}: {said.strip()}")
            yield found
        finally:
            process.terminate()
            process.communicate()
    found.lines = tuple(lab.run(ROUTER, "tcpdump", "-nqtr", str(file)).stdout.splitlines())
    found.content = file.read_bytes()
