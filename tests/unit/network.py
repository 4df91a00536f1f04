"""A network between one initiator and one responder, in simulated time: it loses, doubles, delays.

Seeded, so that a failure repeats itself. The responder's work is a connection that is up or down,
so that a second effect of anything shows.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from anubis.protocol.initiator import Initiator, NoReply, Outcome
from anubis.protocol.responder import Accepted, Answered, Responder
from anubis.protocol.tai64n import NANOSECONDS
from anubis.protocol.wire import MAX_DATAGRAM, MAX_REPLY_FACTOR, Reply, Result, State, Verb
from tests.vectors.world import HOUR, HOUSE, LAPTOP, PHONE, T0, Host, People

Place = Literal["initiator", "responder", "answer"]
Event = tuple[float, int, Place, bytes, Accepted | None]  # when, order, where, datagram, work


@dataclass
class Network:
    """One path and the two hosts at its ends. Times are seconds; clocks are offsets to the true."""

    seed: int = 0
    loss: float = 0.0
    duplication: float = 0.0
    delay: tuple[float, float] = (0.01, 0.01)
    work: tuple[float, float] = (0.0, 0.0)  # how long the responder acts on a request
    initiator_offset_ns: int = 0
    responder_offset_ns: int = 0
    initiator_suites: tuple[int, ...] = (1,)
    responder_suites: tuple[int, ...] = (1, 2)
    max_sessions: int = 65_536

    now: float = 0.0
    up: bool = False
    effects: list[tuple[bytes, Verb]] = field(default_factory=list)
    recorded: list[bytes] = field(default_factory=list)  # every request datagram that was sent
    outcomes: Counter[str] = field(default_factory=Counter)
    _events: list[Event] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.responder = self.new_responder()
        self.keyring = LAPTOP.keyring()
        self.now += 1.0  # what is asked in the very moment of the start is not fresh

    def new_responder(self) -> Responder:
        """Return a responder that starts now."""
        self.started = self.now
        people = People([LAPTOP, PHONE])
        return Responder(
            HOUSE.keyring(),
            people,
            self.dice.randbytes,
            self.responder_suites,
            self.responder_clock(),
            max_sessions=self.max_sessions,
        )

    def restart(self, *, watermarks: bool) -> None:
        """Restart the responder; what it was doing is lost."""
        kept = self.responder.watermarks()
        self.responder = self.new_responder()
        if watermarks:
            self.responder.restore(kept)
        self._events = [event for event in self._events if event[2] != "answer"]
        heapq.heapify(self._events)

    def true_ns(self) -> int:
        """Return the right time, in ns since 1970; the daemons started an hour after T0."""
        return T0 + HOUR + int(self.now * NANOSECONDS)

    def initiator_clock(self) -> int:
        """Return what the initiator takes for the time."""
        return max(0, self.true_ns() + self.initiator_offset_ns)

    def responder_clock(self) -> int:
        """Return what the responder takes for the time."""
        return max(0, self.true_ns() + self.responder_offset_ns)

    def initiator(self, verb: Verb, timeout: float = 30.0) -> Initiator:
        """Return a machine for one exchange that begins now."""
        return Initiator(
            self.keyring,
            HOUSE.public_key,
            verb,
            self.initiator_suites,
            self.now + timeout,
            self.initiator_clock,
            self.dice.randbytes,
        )

    def exchange(self, verb: Verb, timeout: float = 30.0) -> Outcome:
        """Run one exchange to its outcome; what is still under way stays under way."""
        initiator = self.initiator(verb, timeout)
        self.send("responder", initiator.start(self.now))
        while initiator.outcome is None:
            if self._events and self._events[0][0] <= initiator.timer:
                self._step(initiator)
            else:
                self.now = initiator.timer
                datagram = initiator.on_timer(self.now)
                if datagram is not None:
                    self.send("responder", datagram)
        return initiator.outcome

    def drain(self) -> None:
        """Let everything that is under way arrive."""
        while self._events:
            self._step(None)

    def send(self, to: Place, datagram: bytes) -> None:
        """Put a datagram on the way: it arrives once, twice or never, and when it likes."""
        if to == "responder":
            self.recorded.append(datagram)
        for _ in range(2 if self.dice.random() < self.duplication else 1):
            if self.dice.random() >= self.loss:
                self._at(self.now + self.dice.uniform(*self.delay), to, datagram)

    def deliver(self, datagram: bytes, via: Host = LAPTOP) -> None:
        """Give a datagram to the responder now; an accepted one takes effect at once."""
        running_ns = int((self.now - self.started) * NANOSECONDS)
        outcome = self.responder.receive(datagram, via.address, self.responder_clock(), running_ns)
        match outcome:
            case Accepted():
                self.outcomes["accepted"] += 1
                self._act(outcome)
                self._at(self.now + self.dice.uniform(*self.work), "answer", b"", outcome)
            case Answered(answer, repeat=repeat):
                self.outcomes["repeated" if repeat else "refused"] += 1
                self._reply(answer, datagram)
            case _:
                self.outcomes[outcome.reason] += 1

    def take_replies(self) -> list[bytes]:
        """Take the replies that are due or under way off the network, all at once."""
        while any(event[2] == "answer" for event in self._events):
            self._answer(self._take("answer"))
        replies = []
        while any(event[2] == "initiator" for event in self._events):
            replies.append(self._take("initiator")[3])
        return replies

    def _take(self, place: Place) -> Event:
        event = min(event for event in self._events if event[2] == place)
        self._events.remove(event)
        heapq.heapify(self._events)
        return event

    def _act(self, accepted: Accepted) -> None:
        verb = Verb(accepted.request.verb)
        self.effects.append((accepted.request.request_id, verb))
        self.up = verb is Verb.UP

    def _reply(self, answer: bytes, request: bytes) -> None:
        if len(answer) > min(MAX_DATAGRAM, MAX_REPLY_FACTOR * len(request)):
            raise AssertionError("the reply is longer than it may be")
        self.send("initiator", answer)

    def _at(
        self, when: float, place: Place, datagram: bytes, accepted: Accepted | None = None
    ) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, place, datagram, accepted))

    def _answer(self, event: Event) -> None:
        accepted = event[4]
        if accepted is not None:
            state = State.UP if self.up else State.DOWN
            reply = Reply(accepted.request.request_id, self.responder_clock(), Result.DONE, state)
            self.send("initiator", self.responder.answer(accepted, reply))

    def _step(self, initiator: Initiator | None) -> None:
        event = heapq.heappop(self._events)
        when, _, place, datagram, _ = event
        self.now = max(self.now, when)
        if place == "answer":
            self._answer(event)
        elif place == "responder":
            self.deliver(datagram)
        elif initiator is not None:
            sent = initiator.on_datagram(datagram, self.now)
            if sent is not None:
                self.send("responder", sent)


def granted(outcome: Outcome) -> bool:
    """Whether an exchange ended with a granted reply."""
    return not isinstance(outcome, NoReply) and outcome.granted
