"""Whatever arrives: a stated result, never an exception, silence for what is not authentic.

`HYPOTHESIS_PROFILE=long` tries 100,000 examples a test (CONTRIBUTING.md, "Fuzzing").
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.protocol.channel import Channel
from anubis.protocol.initiator import Initiator
from anubis.protocol.responder import Accepted, Answered, Dropped, Responder
from anubis.protocol.tai64n import MAX_UNIX_NS, NANOSECONDS
from anubis.protocol.wire import (
    MAX_DATAGRAM,
    Header,
    Malformed,
    MessageType,
    Reply,
    Request,
    Result,
    State,
    Verb,
)
from tests.outcomes import REASONS, check_outcome
from tests.vectors.vectorfile import load_all
from tests.vectors.world import (
    AUTHORIZED,
    HOUR,
    HOUSE,
    LAPTOP,
    PHONE,
    STRANGER,
    T0,
    Host,
    People,
)

pytestmark = pytest.mark.timeout(7200)  # the long profile takes minutes

RANDOM = random.Random(4297).randbytes
HOUSE_RING, LAPTOP_RING = HOUSE.keyring(), LAPTOP.keyring()
TO_HOUSE = {
    host: Channel(host.private, host.public_key, HOUSE.public_key) for host in (LAPTOP, PHONE)
}
TO_LAPTOP = Channel(HOUSE.private, HOUSE.public_key, LAPTOP.public_key)
VALID = sorted(
    {
        bytes.fromhex(block[key])
        for blocks in load_all().values()
        for block in blocks
        for key in ("datagram", "reply", "sends")
        if key in block
    }
)
HOSTS = st.sampled_from([LAPTOP, PHONE, STRANGER])
NONCES = st.binary(min_size=24, max_size=24)
TIMES = st.one_of(
    st.integers(0, MAX_UNIX_NS),
    st.integers(T0 - 300 * NANOSECONDS, T0 + 300 * NANOSECONDS),
    st.sampled_from([0, T0, MAX_UNIX_NS]),
)
OPTIONS = st.lists(
    st.tuples(st.integers(0, 255), st.one_of(st.binary(max_size=40), st.binary(max_size=255))),
    max_size=6,
).map(lambda tlvs: b"".join(bytes([kind, len(value)]) + value for kind, value in tlvs))
VERDICTS = st.integers(0, 255).map(
    lambda result: Reply(bytes(16), T0, result, State.UP, 60).encode()[16:]
)
TAILS = st.one_of(OPTIONS, st.binary(max_size=200))


@dataclass(frozen=True)
class Change:
    """One thing done to a datagram."""

    kind: str
    place: int
    value: int
    data: bytes

    def apply(self, datagram: bytes) -> bytes:
        """Return the changed datagram."""
        place = self.place % (len(datagram) + 1)
        before, after = datagram[:place], datagram[place:]
        match self.kind:
            case "cut":
                return before
            case "behead":
                return after
            case "insert":
                return before + self.data + after
            case "overwrite":
                return before + self.data + after[len(self.data) :]
            case _:
                if not after:
                    return before + bytes([self.value])
                return before + bytes([after[0] ^ self.value]) + after[1:]


CHANGES = st.lists(
    st.builds(
        Change,
        kind=st.sampled_from(["cut", "behead", "insert", "overwrite", "flip"]),
        place=st.integers(0, MAX_DATAGRAM),
        value=st.integers(1, 255),
        data=st.binary(min_size=1, max_size=64),
    ),
    min_size=1,
    max_size=4,
)


def house(limit: int = 4) -> Responder:
    """Return a responder with a small table."""
    return Responder(HOUSE_RING, People(AUTHORIZED), RANDOM, (1, 2), T0 - HOUR, max_sessions=limit)


@given(st.one_of(st.binary(max_size=160), st.binary(max_size=1400)), HOSTS, TIMES)
def test_any_bytes_are_dropped(datagram: bytes, via: Host, now: int) -> None:
    """Bytes that nobody sealed are dropped for a stated reason, at any time, from anywhere."""
    responder = house()
    outcome = responder.receive(datagram, via.address, now)
    assert isinstance(outcome, Dropped)
    check_outcome(responder, datagram, outcome)


@given(
    st.sampled_from([1, 2, 3]),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([LAPTOP, PHONE, STRANGER, HOUSE, *AUTHORIZED]),
    st.binary(min_size=72, max_size=300),
    HOSTS,
)
def test_plausible_headers_are_dropped(
    suite: int, kind: int, sender: Host, rest: bytes, via: Host
) -> None:
    """A header in order does not make a sealed body of any bytes."""
    datagram = bytes([1, kind, suite, 0]) + bytes(sender.public_key) + rest
    responder = house()
    outcome = responder.receive(datagram, via.address, T0)
    assert isinstance(outcome, Dropped)
    check_outcome(responder, datagram, outcome)


@given(st.sampled_from(VALID), CHANGES, HOSTS)
def test_changed_datagrams_are_dropped(datagram: bytes, changes: list[Change], via: Host) -> None:
    """Of a datagram that was cut, lengthened or touched anywhere, nothing is answered."""
    changed = datagram
    for change in changes:
        changed = change.apply(changed)
    if changed in VALID:
        return
    responder = house()
    outcome = responder.receive(changed, via.address, T0)
    assert isinstance(outcome, Dropped)
    check_outcome(responder, changed, outcome)


@given(st.sampled_from(VALID), CHANGES)
def test_changed_datagrams_change_nothing_at_the_initiator(
    datagram: bytes, changes: list[Change]
) -> None:
    """Neither outcome nor timer, and nothing is sent."""
    for change in changes:
        datagram = change.apply(datagram)
    machine = asking()
    timer = machine.timer
    assert machine.on_datagram(datagram, 0.1) is None
    assert (machine.outcome, machine.timer) == (None, timer)


def asking() -> Initiator:
    """Return an initiator that has asked."""
    machine = Initiator(LAPTOP_RING, HOUSE.public_key, Verb.UP, (1, 2), 10.0, lambda: T0, RANDOM)
    machine.start(0.0)
    return machine


@given(
    st.tuples(st.sampled_from([1, 2]), st.sampled_from([LAPTOP, PHONE])),
    HOSTS,
    st.one_of(
        st.binary(min_size=32, max_size=32),
        TIMES.map(lambda at: Request(RANDOM(16), at, Verb.UP).encode()),
    ),
    TAILS,
    TIMES,
)
def test_authentic_requests_of_any_content(
    sealer: tuple[int, Host], via: Host, fixed: bytes, tail: bytes, now: int
) -> None:
    """Whatever an authorized peer seals gets a stated answer, unless its tunnel is a stranger's."""
    suite, who = sealer
    header = Header(MessageType.REQUEST, suite, who.public_key, RANDOM(24))
    datagram = TO_HOUSE[who].seal(header, fixed + tail)
    responder = house()
    outcome = responder.receive(datagram, via.address, now)
    check_outcome(responder, datagram, outcome)
    if len(datagram) > MAX_DATAGRAM:
        assert outcome == Dropped("bad_size")
    elif via is STRANGER:
        assert outcome == Dropped("unknown_source")
    else:
        assert not isinstance(outcome, Dropped)


@given(
    st.sampled_from([1, 2]),
    st.booleans(),
    st.one_of(st.binary(min_size=20, max_size=20), VERDICTS),
    TAILS,
)
def test_authentic_replies_of_any_content(
    suite: int, right: bool, fixed: bytes, tail: bytes
) -> None:
    """Whatever the responder seals is ignored, is the outcome, or leads to another request."""
    machine = asking()
    request = machine._request
    assert request is not None
    request_id = request.request_id if right else RANDOM(16)
    header = Header(MessageType.REPLY, suite, HOUSE.public_key, RANDOM(24))
    sent = machine.on_datagram(TO_LAPTOP.seal(header, request_id + fixed + tail), 0.1)
    if suite == 2 or not right:
        assert (sent, machine.outcome) == (None, None)
    elif sent is not None:
        assert machine.outcome is None
        assert len(sent) <= MAX_DATAGRAM
    elif machine.outcome is not None:
        assert isinstance(machine.outcome, Reply)
        assert machine.outcome.request_id == request_id


@given(st.binary(max_size=1300))
def test_decoders_raise_nothing_but_malformed(data: bytes) -> None:
    """Of any bytes."""
    for decode in (Header.decode, Request.decode, Reply.decode):
        reason = "malformed"
        try:
            decode(data)
        except Malformed as error:
            reason = error.reason
        assert reason in {*REASONS, "malformed"}


@dataclass(frozen=True)
class Step:
    """One thing that happens to a responder."""

    kind: str
    who: Host
    at: int
    now: int
    pick: int
    change: Change


STEPS = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from(["new", "new", "echo", "replay", "replay", "change", "restart"]),
        who=st.sampled_from([LAPTOP, PHONE]),
        at=TIMES,
        now=TIMES,
        pick=st.integers(0, 1000),
        change=st.builds(
            Change,
            kind=st.just("flip"),
            place=st.integers(0, 200),
            value=st.integers(1, 255),
            data=st.just(b""),
        ),
    ),
    min_size=2,
    max_size=12,
)


@given(STEPS, st.integers(1, 3))
def test_no_datagram_takes_effect_twice(steps: list[Step], limit: int) -> None:
    """Any order of requests, echoes, replays, forgeries, clock jumps and restarts.

    The watermarks survive the restarts, and the table may be too small for both peers.
    """
    responder = house(limit)
    sent: list[bytes] = []
    accepted: set[bytes] = set()
    challenges: dict[Host, bytes] = {}
    for step in steps:
        datagram = b""
        match step.kind:
            case "restart":
                kept = responder.watermarks()
                floor = responder._sessions.floor_ns
                responder = Responder(
                    HOUSE_RING, People(AUTHORIZED), RANDOM, (1, 2), floor, max_sessions=limit
                )
                responder.restore(kept)
                continue
            case "new" | "echo":
                challenge = challenges.get(step.who) if step.kind == "echo" else None
                request = Request(RANDOM(16), step.at, Verb.UP, challenge=challenge)
                header = Header(MessageType.REQUEST, 1, step.who.public_key, RANDOM(24))
                datagram = TO_HOUSE[step.who].seal(header, request.encode())
                sent.append(datagram)
            case "replay" | "change" if sent:
                datagram = sent[step.pick % len(sent)]
                if step.kind == "change":
                    datagram = step.change.apply(datagram)
        outcome = responder.receive(datagram, step.who.address, step.now)
        check_outcome(responder, datagram, outcome)
        if isinstance(outcome, Accepted):
            assert datagram in sent
            assert datagram not in accepted
            accepted.add(datagram)
            if step.pick % 2:
                responder.answer(outcome, Reply(outcome.request.request_id, step.now, 0))
        elif isinstance(outcome, Answered) and outcome.result == Result.STALE:
            header = Header.decode(outcome.datagram)
            reader = TO_HOUSE[LAPTOP if datagram[4:36] == bytes(LAPTOP.public_key) else PHONE]
            reply = Reply.decode(reader.open(header, outcome.datagram))
            if reply.challenge is not None:
                challenges[step.who] = reply.challenge
