"""The initiator against a model: answers right, wrong, late, doubled or never, and a turning clock.

It never sends before its time except when told to, never more than its schedule allows, always ends
by its deadline, and believes nothing but the answer to its newest request.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anubis.protocol.channel import Channel
from anubis.protocol.initiator import Initiator, NoReply
from anubis.protocol.wire import Header, MessageType, Reply, Request, Result, State, Verb
from tests.vectors.world import HOUSE, LAPTOP, T0

pytestmark = pytest.mark.timeout(7200)  # the long profile takes its time

FIRST, LAST = 0.25, 1.0  # seconds between repetitions, docs/protocol.md section 10
REQUESTS = 4  # in one exchange
RING = LAPTOP.keyring()
CHANNEL = Channel(HOUSE.private, HOUSE.public_key, LAPTOP.public_key)
SUITES = (1, 2)
FINAL = st.sampled_from([Result.DONE, Result.UNCHANGED, Result.CONFLICT, Result.BUSY, 200])
LEADING_ON = st.sampled_from([Result.STALE, Result.SUITE_REFUSED])


class InitiatorModel(RuleBasedStateMachine):
    """One exchange from its first datagram to its outcome."""

    @initialize(deadline=st.floats(0.0, 12.0), first=st.sampled_from(SUITES))
    def begin(self, deadline: float, first: int) -> None:
        """Ask."""
        self.random = random.Random(4298).randbytes
        self.now = 0.0
        self.ended: object = None
        suites = (first, *(suite for suite in SUITES if suite != first))
        self.machine = Initiator(
            RING, HOUSE.public_key, Verb.UP, suites, deadline, lambda: T0, self.random
        )
        self.requests: list[bytes] = []
        self.sent = 0
        self.take(self.machine.start(0.0), new=True)

    def take(self, datagram: bytes | None, *, new: bool) -> None:
        """Note what was sent and when the next is due, as section 10 of the document says."""
        assert datagram is not None
        self.sent += 1
        if new:
            assert datagram not in self.requests
            self.requests.append(datagram)
            self.interval = FIRST
        assert datagram == self.requests[-1], "a repetition is the same bytes"
        latest = min(self.now + self.interval * 1.25, self.machine.deadline)
        assert min(self.now + self.interval, self.machine.deadline) <= self.machine.timer <= latest
        self.interval = min(2 * self.interval, LAST)

    def reply(self, number: int, result: int, *, suite: int | None = None) -> bytes:
        """Return what the house answers to one of the requests."""
        asked = self.requests[number % len(self.requests)]
        header = Header.decode(asked)
        request = Request.decode(CHANNEL.open(header, asked))
        reply = Reply(
            request.request_id,
            T0,
            result,
            State.UP,
            60,
            suites=(2, 1),
            challenge=self.random(16) if result == Result.STALE else None,
        )
        back = Header(MessageType.REPLY, suite or header.suite, HOUSE.public_key, self.random(24))
        return CHANNEL.seal(back, reply.encode())

    @rule(passing=st.floats(0.0, 2.0))
    def wait(self, passing: float) -> None:
        """Let time pass, and look at the clock whether or not it is time."""
        self.now += passing
        running, due = self.machine.outcome is None, self.now >= self.machine.timer
        datagram = self.machine.on_timer(self.now)
        if running and due and self.now < self.machine.deadline:
            self.take(datagram, new=False)
        else:
            assert datagram is None

    @rule()
    def wake(self) -> None:
        """Wait exactly until the timer."""
        self.wait(max(0.0, self.machine.timer - self.now))

    @rule()
    def hear_nothing(self) -> None:
        """Wait for all that is left of its time."""
        while self.machine.outcome is None:
            self.wake()

    @rule()
    def be_strung_along(self) -> None:
        """Hear `stale` every time it asks."""
        while self.machine.outcome is None:
            self.lead_on(Result.STALE)

    @rule()
    def hurry(self) -> None:
        """Have it sent at once, because the way was just repaired."""
        datagram = self.machine.again(self.now)
        if self.machine.outcome is None:
            self.interval = FIRST
            self.take(datagram, new=False)
        else:
            assert datagram is None

    @precondition(lambda self: self.machine.outcome is None)
    @rule(result=FINAL)
    def answer(self, result: int) -> None:
        """Answer the newest request."""
        assert self.machine.on_datagram(self.reply(-1, result), self.now) is None
        assert isinstance(self.machine.outcome, Reply)
        assert self.machine.outcome.result == result

    @precondition(lambda self: self.machine.outcome is None)
    @rule(result=LEADING_ON)
    def lead_on(self, result: int) -> None:
        """Have it ask once more: no longer than for four requests, however often it is told."""
        datagram = self.machine.on_datagram(self.reply(-1, result), self.now)
        if self.machine.outcome is None:
            assert len(self.requests) < REQUESTS
            self.take(datagram, new=True)
        else:
            assert datagram is None
            assert isinstance(self.machine.outcome, Reply)
            assert self.machine.outcome.result == result

    @rule(number=st.integers(0, REQUESTS), result=st.one_of(FINAL, LEADING_ON))
    def answer_late(self, number: int, result: int) -> None:
        """Answer a request that is no longer the newest, or after the end."""
        if self.machine.outcome is None:
            number %= len(self.requests)
            if number == len(self.requests) - 1:
                return
        self.expect_nothing(self.reply(number, result))

    @precondition(lambda self: self.machine.outcome is None and len(self.requests) < REQUESTS)
    @rule()
    def answer_the_last_but_one(self) -> None:
        """Lead it on, then answer the request that it has just given up."""
        self.lead_on(Result.STALE)
        self.expect_nothing(self.reply(-2, Result.DONE))

    @rule(data=st.binary(max_size=200), place=st.integers(0, 107), value=st.integers(1, 255))
    def disturb(self, data: bytes, place: int, value: int) -> None:
        """Deliver what nobody sealed, an answer with one byte changed, and its own request."""
        answer = self.reply(-1, Result.DONE)
        changed = answer[:place] + bytes([answer[place] ^ value]) + answer[place + 1 :]
        other = 3 - Header.decode(self.requests[-1]).suite
        for datagram in (
            data,
            changed,
            self.requests[-1],
            self.reply(-1, Result.DONE, suite=other),
        ):
            self.expect_nothing(datagram)

    def expect_nothing(self, datagram: bytes) -> None:
        """Deliver a datagram that changes nothing and moves no timer."""
        before = (self.machine.outcome, self.machine.timer, self.machine.sent)
        assert self.machine.on_datagram(datagram, self.now) is None
        assert (self.machine.outcome, self.machine.timer, self.machine.sent) == before

    @invariant()
    def ends_once(self) -> None:
        """End by the deadline, once, and tell how much was sent."""
        assert self.machine.sent == self.sent
        assert len(self.requests) <= REQUESTS
        if self.ended is not None:
            assert self.machine.outcome is self.ended
        self.ended = self.machine.outcome
        if self.machine.outcome is None:
            assert self.machine.timer <= self.machine.deadline
        if isinstance(self.machine.outcome, NoReply):
            assert self.now >= self.machine.deadline
            assert self.machine.outcome.sent == self.sent


TestInitiatorModel = InitiatorModel.TestCase
