"""What was recorded, forged or garbled has no effect, whenever and in whatever order it comes.

The attacker is xena itself, an authorized peer, or whoever has stolen its control key: datagrams
come from its control address, through its tunnel.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.caller import YEAR, Caller, Tap
from tests.lab.driven import start_driven
from tests.lab.hostile import (
    LogMark,
    anubis,
    control_address,
    differences,
    has_peer,
    new_tunnel,
    public_key,
    state,
    take_down,
)

# Runs the daemon with a clock that is wrong by what a file says, in seconds.
WRONG_CLOCK = """
import sys, time
from pathlib import Path
right, error = time.time_ns, Path(sys.argv[1])
time.time_ns = lambda: right() + int(error.read_text()) * 10**9
"""
WATERMARKS = "/var/lib/anubis/watermarks"
SEED = 4297  # of every shuffle and mutation: a failure can be repeated


@dataclass(frozen=True, slots=True)
class Recording:
    """What passed the control plane: requests of xena and replies of jacinth, in order."""

    requests: tuple[bytes, ...]
    replies: tuple[bytes, ...]


@pytest.fixture
def xena(lab: Lab) -> Iterator[Caller]:
    """Speak as xena, through a tunnel that stands whatever was restarted before."""
    new_tunnel(lab, "xena", "jacinth")
    with Caller(lab, "xena") as caller:
        yield caller


@pytest.fixture(scope="module")
def recording(lab: Lab) -> Recording:
    """Record genuine exchanges: of the daemon, with right and wrong clocks, of every verb."""
    with Tap(lab, "jacinth") as tap, Caller(lab, "xena") as xena:
        for verb in ("up", "up", "down", "up", "down"):
            assert anubis(lab, "xena", verb, "jacinth").status == 0
        assert xena.ask("up").result == "done"
        assert xena.ask("renew").result == "done"
        assert xena.ask("status").up
        assert xena.ask("gone").result == "done"
        assert xena.ask("up", clock=-10 * YEAR).result == "done"
        assert xena.ask("down", clock=10 * YEAR).result == "done"
        assert xena.ask("up", suite=2).result == "done"
        assert xena.ask("down").result == "done"
        passed = tap.datagrams()
    theirs = control_address(lab, "xena")
    requests = dict.fromkeys(data for source, data in passed if source == theirs)
    replies = dict.fromkeys(data for source, data in passed if source != theirs)
    assert len(requests) >= 16
    return Recording(tuple(requests), tuple(replies))


def replay(lab: Lab, xena: Caller, recording: Recording) -> None:
    """Send everything again, in three orders; nothing has any effect."""
    everything = [*recording.requests, *recording.replies]
    shuffled = random.Random(SEED).sample(everything, len(everything))
    new_tunnel(lab, "xena", "jacinth")
    before, mark = state(lab, "jacinth"), LogMark(lab, "jacinth")
    for datagram in (*everything, *reversed(everything), *shuffled):
        if datagram in recording.replies:
            xena.send(datagram)
            continue
        answer = xena.send_and_open(datagram)
        assert answer is not None
        sealed, result = answer
        # To what was accepted last, and only to that, the recorded reply itself may come.
        assert result == "stale" or sealed in recording.replies, result
    assert xena.answers() == []
    assert differences(before, state(lab, "jacinth")) == []
    assert not mark.matching("up")
    assert not mark.matching("down")


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
def test_no_recorded_datagram_has_an_effect(
    lab: Lab, xena: Caller, recording: Recording, up: bool
) -> None:
    """Neither at once nor after a crash or a restart of the daemon, up or down."""
    key, mark = public_key(lab, "xena"), LogMark(lab, "jacinth")
    if up:
        assert anubis(lab, "xena", "up", "jacinth").status == 0
    replay(lab, xena, recording)
    daemon = lab.daemon("jacinth")
    daemon.kill()
    daemon.start()
    assert has_peer(lab, "jacinth", key) is up
    replay(lab, xena, recording)
    daemon.stop()
    daemon.start()
    wait_until(lambda: not has_peer(lab, "jacinth", key), 5, "a clean stop ends connections")
    replay(lab, xena, recording)
    # A line a second of a kind is shown, and how many more there were.
    assert len(mark.matching("refused", "peer=xena", "reason=stale")) >= 2
    take_down(lab)


def test_a_repeat_gets_the_reply_that_was_lost(lab: Lab, xena: Caller) -> None:
    """The request accepted last is answered with the same bytes as before, and done once."""
    mark = LogMark(lab, "jacinth")
    request = xena.ask("up").requests[-1]  # a clock that was ahead before costs a challenge
    asked = LogMark(lab, "jacinth")
    replies = {xena.send_and_open(request) for _ in range(5)}
    assert [each[1] for each in replies if each] == ["done"]
    assert len(mark.matching("up")) == 1
    assert not asked.matching("refused")
    assert xena.ask("down").result == "done"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_request_from_the_near_future_is_worthless_after_a_restart(
    lab: Lab, xena: Caller, end: str
) -> None:
    """An initiator whose clock is a minute ahead: what it sent is not fresh once more."""
    answer = xena.ask("up", clock=60.0)
    assert answer.result == "done"
    assert xena.ask("down").result == "done"
    before = state(lab, "jacinth")
    daemon = lab.daemon("jacinth")
    getattr(daemon, end)()
    daemon.start()
    new_tunnel(lab, "xena", "jacinth")
    for request in answer.requests:
        replied = xena.send_and_open(request)
        assert replied is not None
        assert replied[1] == "stale"
    assert differences(before, state(lab, "jacinth")) == []


def test_a_recorded_request_is_worthless_after_a_reboot(
    lab: Lab, xena: Caller, set_clock: Callable[[str, float], None]
) -> None:
    """A power cut a moment after the answer, and a clock that comes back a minute in the past.

    Without what is on the disk the same request is taken for a new one: that makes it a test.
    """
    for lost in (False, True):
        forget_watermarks(lab)
        answer = xena.ask("up")
        assert (answer.result, len(answer.requests)) == ("done", 1)
        lab.daemon("jacinth").kill()
        for interface in ("wg0", "anubis0"):
            lab.run("jacinth", "ip", "link", "delete", interface, check=True)
        lab.run("jacinth", "sh", "-c", "rm -r /run/anubis /run/wireguard/*")
        if lost:
            lab.path("jacinth", WATERMARKS).unlink()
        set_clock("jacinth", -60)
        new_tunnel(lab, "xena", "jacinth")
        replied = xena.send_and_open(answer.requests[-1])
        assert replied is not None
        assert replied[1] == ("done" if lost else "stale")
        assert has_peer(lab, "jacinth", public_key(lab, "xena")) is lost


def forget_watermarks(lab: Lab) -> None:
    """Restart jacinth's daemon as one that never heard of anybody."""
    lab.daemon("jacinth").stop()
    lab.path("jacinth", WATERMARKS).unlink()
    lab.daemon("jacinth").start()
    new_tunnel(lab, "xena", "jacinth")


@pytest.mark.parametrize("years", [-50, -10, 10, 400])
def test_a_request_with_a_wrong_clock_is_accepted(lab: Lab, xena: Caller, years: int) -> None:
    """The challenge makes up for a clock that is wrong by years, and costs one request more."""
    for verb, up in (("up", True), ("down", False)):
        answer = xena.ask(verb, clock=years * YEAR)
        assert (answer.result, answer.up, len(answer.requests)) == ("done", up, 2)


@pytest.fixture
def set_clock(lab: Lab) -> Iterator[Callable[[str, float], None]]:
    """Restart a daemon with a wrong clock; at the end, with the right one."""
    wrong: set[str] = set()

    def start(host: str, seconds: float) -> None:
        wrong.add(host)
        lab.path(host, "/run/clock").write_text(str(int(seconds)))
        start_driven(lab, host, WRONG_CLOCK, "/run/clock")

    yield start
    for host in wrong:
        lab.daemon(host).stop()
        lab.daemon(host).start()


@pytest.mark.parametrize("host", ["xena", "jacinth"])
@pytest.mark.parametrize("years", [-40, 10])
def test_a_daemon_with_a_wrong_clock_works(
    lab: Lab, set_clock: Callable[[str, float], None], host: str, years: int
) -> None:
    """A real daemon whose host has no idea of the year brings connections up and down."""
    set_clock(host, years * YEAR)
    new_tunnel(lab, "xena", "jacinth")
    for verb in ("up", "down"):
        run = anubis(lab, "xena", verb, "jacinth")
        assert (run.status, run.stderr) == (0, "")
    assert not has_peer(lab, "jacinth", public_key(lab, "xena"))


def test_a_clock_that_is_set_right_makes_nothing_fresh(
    lab: Lab, xena: Caller, set_clock: Callable[[str, float], None]
) -> None:
    """A host without a battery starts in the past, without watermarks; then the clock is set."""
    recorded = xena.ask("up").requests
    assert xena.ask("down").result == "done"
    forget_watermarks(lab)
    set_clock("jacinth", -10 * YEAR)
    lab.path("jacinth", WATERMARKS).unlink()
    lab.path("jacinth", "/run/clock").write_text("0")
    new_tunnel(lab, "xena", "jacinth")
    for request in recorded:
        replied = xena.send_and_open(request)
        assert replied is not None
        assert replied[1] == "stale"
    assert not has_peer(lab, "jacinth", public_key(lab, "xena"))


def test_a_clock_that_leaps_ahead_and_back(
    lab: Lab, xena: Caller, set_clock: Callable[[str, float], None]
) -> None:
    """A connection lives on; until the next start each request costs one more, and is accepted."""
    set_clock("jacinth", 0)
    new_tunnel(lab, "xena", "jacinth")
    recorded = xena.ask("up").requests
    for years in (10, 0, -10, 0):
        lab.path("jacinth", "/run/clock").write_text(str(int(years * YEAR)))
        assert has_peer(lab, "jacinth", public_key(lab, "xena"))
        for verb, result in (("up", "unchanged"), ("renew", "done"), ("status", "done")):
            answer = xena.ask(verb)
            assert (answer.result, answer.up, len(answer.requests)) == (result, True, 2), verb
    for request in recorded:
        replied = xena.send_and_open(request)
        assert replied is not None
        assert replied[1] == "stale"
    assert xena.ask("down").result == "done"


def garbled(genuine: bytes, dice: random.Random) -> list[bytes]:
    """Return every way to spoil a datagram that we can think of, and many that chance finds."""
    found = [genuine[:length] for length in range(len(genuine))]
    found += [genuine + bytes(length) for length in (1, 16, 1232 - len(genuine), 1400)]
    for offset in range(len(genuine)):
        for value in {genuine[offset] ^ 1 << bit for bit in range(8)}:
            spoilt = bytearray(genuine)
            spoilt[offset] = value
            found.append(bytes(spoilt))
    found += [dice.randbytes(dice.randrange(0, 1400)) for _ in range(200)]
    found += [genuine[:2] + dice.randbytes(dice.randrange(106, 1230)) for _ in range(200)]
    return found


def test_garbage_is_met_with_silence(lab: Lab, xena: Caller) -> None:
    """Unknown, cut and changed datagrams: no answer, no effect, a bounded log, a healthy daemon."""
    assert xena.ask("up").result == "done"  # keeps the tunnel
    before, mark = state(lab, "jacinth"), LogMark(lab, "jacinth")
    begin = time.monotonic()
    memory = resident(lab)
    genuine = xena.request("up")
    spoilt = garbled(genuine, random.Random(SEED))
    # Asked from another port: reading its answers must not swallow any to what is spoilt.
    with Caller(lab, "xena") as honest:
        for number, datagram in enumerate(spoilt):
            xena.send(datagram)
            if number % 64 == 0:  # keeps in step: the socket's buffer must not overflow
                assert honest.ask("status").result == "done"
        assert honest.ask("status").result == "done"
    assert xena.answers() == []
    assert differences(before, state(lab, "jacinth")) == []
    assert anubis(lab, "jacinth", "status").status == 0
    assert resident(lab) < memory + 8192
    seconds = time.monotonic() - begin
    for reason in ("bad_size", "unknown_version", "unknown_type", "unknown_suite",
                   "reserved_bits", "unknown_sender", "not_authentic"):  # fmt: skip
        shown = mark.matching("dropped", f"reason={reason}")
        assert 1 <= len(shown) <= seconds + 1, reason
    assert len(spoilt) > 1000
    assert xena.ask("down").result == "done"


def resident(lab: Lab) -> int:
    """Return how much memory jacinth's daemon has, in KiB."""
    process = lab.daemon("jacinth").process
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1])
