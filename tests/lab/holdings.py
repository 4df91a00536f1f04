"""What a daemon holds at one moment, of memory and of everything else that could pile up.

Owns where that is read: the kernel tells of descriptors, threads and memory, `ip`, `nft` and `wg`
of the network. Two things only the process itself knows: how many tasks it has, and how much of
its memory is in use; the rest is free for what comes next, and would hide a slow leak for hours.
So the daemon is started with a signal handler that writes them down. Refuses to judge.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from anubis.lab.lab import Lab
from anubis.lab.observe import sections, snapshot, wait_until
from tests.lab.driven import start_driven

__all__ = ["Holdings", "count_holdings", "counted", "resident"]

_ANSWER = "/run/anubis/holdings"
_SECONDS = 20.0
_PROBE = """
import asyncio, ctypes, gc, json, os, signal, sys

class Mallinfo2(ctypes.Structure):  # malloc.h of glibc 2.33
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2

clear_caches = getattr(sys, "_clear_internal_caches", sys._clear_type_cache)

def tell(*_):
    gc.collect()
    clear_caches()  # of up to 4,096 names of attributes, which fills over hours
    # Python makes its table of names anew, and perhaps larger, when so many have come and gone.
    for number in range(200_000):
        sys.intern(f"name {number}")
    malloc = mallinfo2()
    answer = {
        "tasks": len(asyncio.all_tasks()),
        "blocks": sys.getallocatedblocks(),
        "allocated": malloc.uordblks + malloc.hblkhd,
    }
    with open("ANSWER.new", "w") as file:
        json.dump(answer, file)
    os.replace("ANSWER.new", "ANSWER")

signal.signal(signal.SIGRTMIN, tell)
""".replace("ANSWER", _ANSWER)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a host's daemon and its network hold. Memory in bytes."""

    descriptors: int
    threads: int
    tasks: int
    blocks: int  # objects of Python's own allocator, of up to 512 bytes each
    allocated: int  # larger ones, in the hands of malloc
    resident: int  # of the process, without what is shared with files
    wireguard: dict[str, int]  # resident, of each wireguard-go that the daemon started
    network: str  # rules, routes, links, nftables, WireGuard's peers
    state: str  # the state file
    watermarks: int  # bytes of the file

    def counts(self) -> dict[str, int]:
        """Return how many lines of each kind describe the network: rules, routes and so on."""
        found: Counter[str] = Counter()
        for command, lines in sections(self.network).items():
            tool, *words = command.split()
            kind = next((word for word in words if word in {"rule", "route"}), tool)
            found[kind] += len(lines)
        return dict(found)


def count_holdings(lab: Lab, host: str, script: str = "") -> None:
    """Run the daemon of a host anew so that it can be asked; `script` is run before it."""
    start_driven(lab, host, _PROBE + script, debug=False)


def counted(lab: Lab, host: str, tasks: int | None = None) -> Holdings:
    """Count what the daemon of a host holds, once it has no more than so many tasks."""
    process = lab.daemon(host).process
    assert process is not None
    if tasks is not None:
        what = f"the daemon of {host} has {tasks} tasks"
        wait_until(lambda: _ask(lab, host, process)["tasks"] <= tasks, _SECONDS, what)
    return Holdings(
        descriptors=len(list(Path(f"/proc/{process}/fd").iterdir())),
        threads=len(list(Path(f"/proc/{process}/task").iterdir())),
        resident=resident(process),
        wireguard={_interface(one): resident(one) for one in _children(process)},
        network=snapshot(lab, host),
        state=lab.path(host, "/run/anubis/state.json").read_text(),
        watermarks=lab.path(host, "/var/lib/anubis/watermarks").stat().st_size,
        **_ask(lab, host, process),
    )


def _ask(lab: Lab, host: str, process: int) -> dict[str, int]:
    """Have the daemon tell what only it knows."""
    answer = lab.path(host, _ANSWER)
    answer.unlink(missing_ok=True)
    os.kill(process, signal.SIGRTMIN)
    wait_until(answer.exists, _SECONDS, f"the daemon of {host} tells what it holds")
    told: dict[str, int] = json.loads(answer.read_text())
    return told


def resident(process: int) -> int:
    """Return the memory of a process, in bytes, that is nobody else's and no file's."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel does not tell the memory of process {process}")


def _children(process: int) -> list[int]:
    return [
        int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def _interface(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text().rstrip("\0").split("\0")[-1]
