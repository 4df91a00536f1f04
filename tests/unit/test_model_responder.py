"""The responder and its memory against a model: whatever happens, in whatever order.

Three hosts ask, their clocks may be wrong, the network repeats, withholds and reorders, the house's
clock is set, the daemon is killed and started again from its last saved watermarks, and the table
is too small for all three. `HYPOTHESIS_PROFILE=long` looks for long (CONTRIBUTING.md, "Fuzzing").
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from anubis.protocol.channel import Channel
from anubis.protocol.responder import Accepted, Answered, Dropped, Outcome, Responder
from anubis.protocol.tai64n import NANOSECONDS
from anubis.protocol.wire import Header, MessageType, Reply, Request, Result, State, Verb
from tests.vectors.world import HOUR, HOUSE, LAPTOP, PHONE, T0, Host, People

pytestmark = pytest.mark.timeout(7200)  # the long profile takes its time

TABLET = Host.make("tablet")
HOSTS = [LAPTOP, PHONE, TABLET]
CHANNELS = {h: Channel(h.private, h.public_key, HOUSE.public_key) for h in HOSTS}
RING = HOUSE.keyring()
LIMIT = 2  # sessions: one fewer than there are hosts
LIFETIME_NS = 30 * NANOSECONDS  # of a challenge, docs/protocol.md section 9
WINDOW_NS = 120 * NANOSECONDS
WHO = st.sampled_from(HOSTS)
SKEWS = st.sampled_from([0, 0, 0, -1, 1, -119, 119, -121, 121, -3600, 3600, -86400]).map(
    lambda seconds: seconds * NANOSECONDS
)
SOON = st.integers(0, 40 * NANOSECONDS)
SENT = Bundle("sent")
WORK = Bundle("work")


@dataclass(frozen=True)
class Sent:
    """A request as it left its host."""

    who: Host
    unix_ns: int
    echo: bytes | None
    datagram: bytes


@dataclass
class Challenge:
    """What a host was given to echo, and when."""

    value: bytes
    given_ns: int
    used: bool = False


class ResponderModel(RuleBasedStateMachine):
    """One responder through its restarts, and what must be true of everything it says."""

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(4298).randbytes
        self.now_ns = T0
        self.acted: dict[Sent, bytes | None] = {}  # requests acted on in any run, their replies
        self.judged: dict[Host, int] = {}  # the newest time of each host that was acted on
        self.start(saved=({}, 0))

    def start(self, saved: tuple[dict[bytes, int], int]) -> None:
        """Start the daemon with what the state file says."""
        self.run_ns = 0
        self.started_ns = self.now_ns
        self.saved = saved
        self.challenges: dict[Host, Challenge] = {}
        self.given: set[bytes] = set()
        self.responder = Responder(
            RING, People(HOSTS), self.random, (1,), self.now_ns, max_sessions=LIMIT
        )
        keys = {bytes(h.public_key): h.public_key for h in HOSTS}
        watermarks, forgotten_ns = saved
        self.responder.restore({keys[key]: at for key, at in watermarks.items()}, forgotten_ns)
        self.seen = self.watermarks()

    def watermarks(self) -> dict[bytes, int]:
        """Return the watermarks in a form that a file could hold."""
        return {bytes(key): at for key, at in self.responder.watermarks().items()}

    def seal(self, who: Host, unix_ns: int, echo: bytes | None) -> Sent:
        """Make a request as a host does."""
        request = Request(self.random(16), unix_ns, Verb.UP, challenge=echo)
        header = Header(MessageType.REQUEST, 1, who.public_key, self.random(24))
        return Sent(who, unix_ns, echo, CHANNELS[who].seal(header, request.encode()))

    def receive(self, sent: Sent, via: Host) -> Outcome:
        """Hand a request in, and check the answer against the model."""
        pending = self.challenges.get(sent.who)
        outcome = self.responder.receive(sent.datagram, via.address, self.now_ns, self.run_ns)
        match outcome:
            case Accepted():
                assert via is sent.who
                self.check_action(sent, pending)
                self.acted[sent] = None
                self.saved = self.watermarks(), self.responder.forgotten_ns
            case Answered(datagram, repeat=True):
                assert datagram == self.acted[sent]
            case Answered(datagram, result=result):
                if via is not sent.who:
                    assert result == Result.KEY_MISMATCH
                else:
                    self.note_challenge(sent.who, datagram)
            case Dropped(reason):
                assert reason == "in_progress"
                assert self.acted[sent] is None
        return outcome

    def check_action(self, sent: Sent, pending: Challenge | None) -> None:
        """Assert that this request may be acted on: never before, and proven fresh."""
        assert sent not in self.acted, "two actions for one request"
        if sent.echo is None:
            assert sent.unix_ns > self.judged.get(sent.who, 0)
            assert sent.unix_ns > self.started_ns
            assert abs(sent.unix_ns - self.now_ns) <= WINDOW_NS
        else:
            assert pending is not None
            assert sent.echo == pending.value
            assert not pending.used
            assert self.now_ns - pending.given_ns < LIFETIME_NS
        if pending is not None:
            pending.used = True
        self.judged[sent.who] = max(sent.unix_ns, self.judged.get(sent.who, 0))

    def note_challenge(self, who: Host, datagram: bytes) -> bytes:
        """Read the challenge of a stale answer, as its addressee does."""
        reply = Reply.decode(CHANNELS[who].open(Header.decode(datagram), datagram))
        assert reply.result == Result.STALE
        assert reply.challenge is not None
        old = self.challenges.get(who)
        if old is None or old.value != reply.challenge:
            assert reply.challenge not in self.given, "a challenge is given once"
            self.given.add(reply.challenge)
            self.challenges[who] = Challenge(reply.challenge, self.now_ns)
        return reply.challenge

    @rule(target=SENT, who=WHO, skew=SKEWS, echoing=st.booleans())
    def ask(self, who: Host, skew: int, echoing: bool) -> Sent:
        """Have a host make a request that may arrive at any time, or never."""
        challenge = self.challenges.get(who) if echoing else None
        return self.seal(who, self.now_ns + skew, challenge.value if challenge else None)

    @rule(target=WORK, sent=SENT)
    def deliver(self, sent: Sent) -> Accepted | None:
        """Deliver a request: for the first time, again, late, in another run of the daemon."""
        outcome = self.receive(sent, sent.who)
        return outcome if isinstance(outcome, Accepted) else None

    @rule(sent=SENT, via=WHO)
    def deliver_elsewhere(self, sent: Sent, via: Host) -> None:
        """Deliver a request through a tunnel that need not be its sender's."""
        outcome = self.receive(sent, via)
        if via is not sent.who:
            assert isinstance(outcome, Answered)

    @rule(work=consumes(WORK))
    def finish(self, work: Accepted | None) -> None:
        """Answer a request that was acted on, perhaps after newer ones, perhaps in a later run."""
        if work is not None:
            reply = Reply(work.request.request_id, self.now_ns, Result.DONE, State.UP, 60)
            answer = self.responder.answer(work, reply)
            for sent in self.acted:
                if Header.decode(sent.datagram) == work.header:
                    self.acted[sent] = answer

    @rule(who=WHO, skew=SKEWS)
    def insist(self, who: Host, skew: int) -> None:
        """Whatever went before and whatever its clock says, a host is served in two requests.

        A repeat gets silence while it is being acted on, the same answer afterwards.
        """
        asked, accepted = self.be_served(who, skew)
        assert isinstance(self.receive(asked, who), Dropped)
        self.finish(accepted)
        again = self.receive(asked, who)
        assert isinstance(again, Answered)
        assert again.repeat

    @rule(who=WHO, skew=SKEWS)
    def overtake(self, who: Host, skew: int) -> None:
        """Answer a request after the host made a newer one: that one does not get the answer."""
        _, first = self.be_served(who, skew)
        second, _ = self.be_served(who, skew)
        self.finish(first)
        assert isinstance(self.receive(second, who), Dropped)

    def be_served(self, who: Host, skew: int) -> tuple[Sent, Accepted]:
        """Have a host ask, and echo the challenge if it must."""
        asked = self.seal(who, self.now_ns + skew, None)
        outcome = self.receive(asked, who)
        if isinstance(outcome, Answered):
            asked = self.seal(who, self.now_ns + skew, self.note_challenge(who, outcome.datagram))
            outcome = self.receive(asked, who)
        assert isinstance(outcome, Accepted)
        return asked, outcome

    @rule()
    def replay(self) -> None:
        """Deliver everything again that was ever acted on; `receive` looks what comes of it."""
        for sent in tuple(self.acted):
            self.receive(sent, sent.who)

    @rule(passing=SOON)
    def wait(self, passing: int) -> None:
        """Let time pass."""
        self.now_ns += passing
        self.run_ns += passing

    @rule(jump=st.integers(-12, 12))
    def set_clock(self, jump: int) -> None:
        """Set the house's clock, by hours."""
        self.now_ns += jump * HOUR

    @rule(kept=st.booleans())
    def restart(self, kept: bool) -> None:
        """Stop the daemon, or kill it: then the state file is that of the last action."""
        saved = (self.watermarks(), self.responder.forgotten_ns) if kept else self.saved
        self.start(saved)

    @invariant()
    def watermarks_never_fall(self) -> None:
        """Remember of a host that is remembered what it had reached, or more."""
        found = self.watermarks()
        for key, at in found.items():
            assert at >= self.seen.get(key, 0)
        self.seen = found

    @invariant()
    def memory_is_bounded(self) -> None:
        """No more sessions than there may be, whoever asks."""
        assert len(self.watermarks()) <= LIMIT
        assert set(self.responder.drops) <= {"in_progress"}


TestResponderModel = ResponderModel.TestCase
