"""Honest requests while somebody floods: how many are answered, how fast, at what cost.

As root: `python -m benchmarks.flood [--seconds N] [--rate N] [--json]`. Brings up the lab's scene,
has xena ask jacinth 30 times a second with the protocol's own code, and meanwhile has selen, an
authorized peer, flood jacinth through its control tunnel, or surya flood the control plane's UDP
port from outside. Everything runs on the cores of this machine, wireguard-go and the floods too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

from anubis.lab.lab import Lab
from tests.lab.caller import Caller, inside

__all__ = ["FLOODS", "Honest", "Measured", "flooding", "measure", "phone_tunnel"]

Send = Callable[[bytes], object]

RATE = 30.0  # honest requests a second
DEADLINE = 5.0  # seconds that an honest host waits for its answer, as the daemon does
_OUTSIDE = ("203.0.113.1", 4297)  # jacinth's control plane, as the Internet sees it
_BATCH = 64  # datagrams of a flood between two looks whether it should end
_REQUESTS = 40_000  # fresh ones; they stay so for 120 s
_SEED = 4298


@dataclass(frozen=True, slots=True)
class Honest:
    """What became of honest requests. Times in milliseconds, from request to answer."""

    asked: int
    results: dict[str, int]  # of those that were answered
    median_ms: float
    p99_ms: float
    longest_ms: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: the honest requests, the flood, and what jacinth's daemon spent on both."""

    flood: str
    flood_per_second: float
    daemon_cpu: float  # share of one core
    daemon_growth_kib: int  # of resident memory
    honest: Honest


def ask_honestly(caller: Caller, seconds: float) -> Honest:
    """Ask for `renew` RATE times a second, one after the other, as a daemon does of one peer.

    Who had to wait for an answer catches up, and the time of a request counts from when it was due.
    """
    begin = time.monotonic()
    results: Counter[str] = Counter()
    times: list[float] = []
    total = round(seconds * RATE)
    for number in range(total):
        due = begin + number / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        answer = caller.ask("renew", seconds=DEADLINE)
        if answer.result:
            results[answer.result] += 1
            times.append(1000 * (time.monotonic() - due))
    times = sorted(times) or [0.0]
    return Honest(
        asked=total,
        results=dict(results),
        median_ms=round(times[len(times) // 2], 1),
        p99_ms=round(times[int(len(times) * 0.99)], 1),
        longest_ms=round(times[-1], 1),
    )


def _requests(lab: Lab) -> tuple[Send, Callable[[], bytes]]:
    """Send fresh, genuine requests of an authorized peer, about its own connection."""
    phone = Caller(lab, "selen")
    verbs = itertools.cycle(("up", "status", "renew", "down"))
    # Made beforehand: it is jacinth's work that counts, and the cores are shared.
    made = itertools.cycle([phone.request(next(verbs)) for _ in range(_REQUESTS)])
    return phone.send, lambda: next(made)


def _repeats(lab: Lab) -> tuple[Send, Callable[[], bytes]]:
    """Send the same request again and again: a repeat is answered from memory."""
    phone = Caller(lab, "selen")
    datagram = phone.request("status")
    return phone.send, lambda: datagram


def _forgeries(lab: Lab) -> tuple[Send, Callable[[], bytes]]:
    """Send through an authorized tunnel what fails only when it is opened."""
    phone = Caller(lab, "selen")
    genuine = phone.request("up")
    dice = random.Random(_SEED)
    return phone.send, lambda: genuine[:36] + dice.randbytes(len(genuine) - 36)


def _outside(lab: Lab) -> tuple[Send, Callable[[], bytes]]:
    """Send what looks like WireGuard's messages, and noise, to the control plane's port."""
    dice = random.Random(_SEED)
    with inside(lab, "surya"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    shapes = itertools.cycle(((1, 148), (2, 92), (3, 64), (4, 128), (0, 600)))

    def make() -> bytes:
        kind, size = next(shapes)
        return bytes((kind, 0, 0, 0)) + dice.randbytes(size - 4)

    return lambda datagram: sender.sendto(datagram, _OUTSIDE), make


FLOODS: dict[str, Callable[[Lab], tuple[Send, Callable[[], bytes]]]] = {
    "requests": _requests,
    "repeats": _repeats,
    "forgeries": _forgeries,
    "outside": _outside,
}


def _flood(
    sender: Callable[[], tuple[Send, Callable[[], bytes]]],
    rate: float,
    begun: Event,
    ended: Event,
    sent: Connection,
) -> None:
    """Send so many a second, or as fast as it goes, until told to end."""
    send, make = sender()
    begun.set()
    begin, count = time.monotonic(), 0
    while not ended.is_set():
        for _ in range(_BATCH):
            with suppress(OSError):  # its own WireGuard's queue is full
                send(make())
        count += _BATCH
        ended.wait(max(0.0, begin + count / rate - time.monotonic()))
    sent.send(count / (time.monotonic() - begin))


@contextmanager
def flooding(lab: Lab, name: str, rate: float = inf) -> Iterator[list[float]]:
    """Have a flood under way, of so many datagrams a second if the machine can.

    Afterwards the list holds how many a second were sent.
    """
    context = multiprocessing.get_context("fork")
    begun, ended = context.Event(), context.Event()
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_flood, args=(partial(FLOODS[name], lab), rate, begun, ended, theirs)
    )
    process.start()
    found: list[float] = []
    try:
        if not begun.wait(60):
            raise TimeoutError(f"the flood {name!r} did not begin")
        yield found
        ended.set()
        if ours.poll(10):
            found.append(ours.recv())
    finally:
        process.kill()
        process.join()


def measure(lab: Lab, flood: str, seconds: float, rate: float = inf) -> Measured:
    """Ask honestly during a flood, or during none if its name is empty."""
    with Caller(lab, "xena", patient=True) as xena:
        if xena.ask("up").result not in {"done", "unchanged"}:
            raise RuntimeError("xena's connection does not come up")
        before = _daemon(lab)
        begin = time.monotonic()
        if flood:
            with flooding(lab, flood, rate) as sent:
                honest = ask_honestly(xena, seconds)
        else:
            sent = [0.0]
            honest = ask_honestly(xena, seconds)
        took = time.monotonic() - begin
        after = _daemon(lab)
    return Measured(
        flood=flood or "none",
        flood_per_second=round(sent[0]),
        daemon_cpu=round((after[0] - before[0]) / took, 2),
        daemon_growth_kib=after[1] - before[1],
        honest=honest,
    )


def _daemon(lab: Lab) -> tuple[float, int]:
    """Return the processor time of jacinth's daemon, in seconds, and its memory in KiB."""
    process = Path(f"/proc/{lab.daemon('jacinth').process}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # utime and stime, proc(5)
    pages = int((process / "statm").read_text().split()[1])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") // 1024


@contextmanager
def phone_tunnel(lab: Lab) -> Iterator[None]:
    """Have selen's tunnel up: WireGuard alone, without Anubis."""
    lab.run("selen", "wg-quick", "up", "anubis", check=True)
    try:
        yield
    finally:
        lab.run("selen", "wg-quick", "down", "anubis", check=True)


def main() -> None:
    """Measure every flood and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each flood")
    parser.add_argument("--rate", type=float, default=inf, help="of a flood; as fast as it goes")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    options = parser.parse_args()
    lab = Lab(Path(f"/run/anubis-flood-{os.getpid()}"))
    try:
        lab.up(tethered=True)
        with phone_tunnel(lab):
            for flood in ("", *FLOODS):
                measured = measure(lab, flood, options.seconds, options.rate)
                sys.stdout.write(_line(measured, as_json=options.json) + "\n")
                sys.stdout.flush()
    finally:
        lab.down()


def _line(measured: Measured, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(asdict(measured))
    honest = measured.honest
    return (
        f"{measured.flood:10} {measured.flood_per_second:7}/s  daemon {measured.daemon_cpu:4.0%}"
        f" {measured.daemon_growth_kib:+6} KiB  honest {honest.asked}: {honest.results}"
        f", median {honest.median_ms} p99 {honest.p99_ms}"
        f" longest {honest.longest_ms} ms"
    )


if __name__ == "__main__":
    main()
