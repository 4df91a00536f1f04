"""The responder (`anubis/protocol/responder.py`), told by authorized peers and by strangers.

The input is a story: requests that are sealed with genuine keys and any content, through any
tunnel; bytes that nobody sealed; repeats, forgeries, answers, restarts. Every outcome is a stated
one, no datagram is acted on twice, whoever was refused is told so for its own request, and what is
remembered stays within its bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from anubis.protocol.channel import Channel
from anubis.protocol.responder import Accepted, Answered, Dropped, Responder
from anubis.protocol.tai64n import NANOSECONDS
from anubis.protocol.wire import Header, Malformed, MessageType, Reply, Request, Result, State, Verb
from tests.fuzz.tools import Input
from tests.outcomes import check_outcome
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
    Stream,
)

RUNS = 10_000
MAX_LENGTH = 1500
TOKENS: tuple[bytes, ...] = ()

_MAX_STEPS = 12
_PEERS = (LAPTOP, PHONE)
_TUNNELS = (LAPTOP, PHONE, STRANGER)
_CHANNELS = {h: Channel(h.private, h.public_key, HOUSE.public_key) for h in _PEERS}
_BY_KEY = {bytes(host.public_key): host for host in _PEERS}
# But those with a bit spoilt: the search would only mend it.
_BLOCKS = tuple(
    block
    for name, blocks in load_all().items()
    for block in blocks
    if "source" in block and not name.startswith("authentic-")
)
_VECTORS = frozenset(bytes.fromhex(block["datagram"]) for block in _BLOCKS)


class _Story:
    """A responder, and everything that was said to it."""

    def __init__(self, limit: int) -> None:
        self._keyring = HOUSE.keyring()
        self._random = Stream("fuzz")
        self._limit = limit
        self._floor = T0 - HOUR
        self._now = T0
        self._responder = self._start()
        self._sent: list[bytes] = []
        self._waiting: list[Accepted] = []
        self._accepted: set[bytes] = set()
        self._challenges: dict[Host, bytes] = {}

    def _start(self) -> Responder:
        people = People(AUTHORIZED)
        return Responder(
            self._keyring, people, self._random, (1, 2), self._floor, max_sessions=self._limit
        )

    def step(self, given: Input) -> None:
        """Do the next thing that the input says."""
        match given.number() % 8:
            case 0:
                datagram = self._sealed(given.choice(_PEERS), given.piece())
                self._send(given.choice(_TUNNELS), datagram)
            case 1 | 2:
                datagram = self._request(given.choice(_PEERS), given)
                self._send(given.choice(_TUNNELS), datagram)
            case 3:
                self._send(given.choice(_TUNNELS), given.piece())
            case 4 if self._sent:
                self._send(given.choice(_TUNNELS), given.choice(self._sent))
            case 5 if self._sent:
                changed = bytearray(given.choice(self._sent))
                place = given.number() % len(changed)
                changed[place : place + 1] = given.take(1)
                self._send(given.choice(_TUNNELS), bytes(changed))
            case 6 if self._waiting:
                self._answer(self._waiting.pop(given.number() % len(self._waiting)), given.piece())
            case 7:
                self._restart(given)

    def _sealed(self, who: Host, body: bytes, suite: int = 1) -> bytes:
        header = Header(MessageType.REQUEST, suite, who.public_key, self._random(24))
        datagram = _CHANNELS[who].seal(header, body)
        self._sent.append(datagram)
        return datagram

    def _request(self, who: Host, given: Input) -> bytes:
        """Seal a request that is in order but for its tail."""
        suite, verb, echoes = 1 + given.number() % 2, given.number(), given.number() % 4 == 0
        seconds = given.number(2) - 0x8000
        request = Request(
            self._random(16),
            max(0, self._now + seconds * NANOSECONDS),
            verb,
            challenge=self._challenges.get(who) if echoes else None,
            subject="xena" if verb == Verb.APPROVE else None,
        )
        return self._sealed(who, request.encode() + given.piece(), suite)

    def _send(self, tunnel: Host, datagram: bytes) -> None:
        outcome = self._responder.receive(datagram, tunnel.address, self._now)
        check_outcome(self._responder, datagram, outcome)
        if isinstance(outcome, Dropped):
            return
        assert tunnel is not STRANGER, "a stranger's tunnel is good for nothing"
        assert datagram in self._sent or datagram in _VECTORS, "nobody sealed this"
        who = _BY_KEY[datagram[4:36]]
        if isinstance(outcome, Accepted):
            assert datagram not in self._accepted, "acted on twice"
            assert outcome.peer == who.name == tunnel.name, "the keys are of two peers"
            self._accepted.add(datagram)
            self._waiting.append(outcome)
        elif not outcome.repeat:
            reply = self._opened(who, outcome.datagram)
            assert reply.result == outcome.result >= Result.STALE
            if reply.result == Result.STALE and reply.challenge:
                self._challenges[who] = reply.challenge

    def _opened(self, who: Host, datagram: bytes) -> Reply:
        header = Header.decode(datagram)
        assert (header.type, header.sender) == (MessageType.REPLY, HOUSE.public_key)
        return Reply.decode(_CHANNELS[who].open(header, datagram))

    def _answer(self, accepted: Accepted, content: bytes) -> None:
        reply = Reply(accepted.request.request_id, self._now, Result.DONE, State.UP, 60)
        with suppress(Malformed):
            reply = Reply.decode(accepted.request.request_id + content)
        answered = self._responder.answer(accepted, reply)
        check_outcome(self._responder, bytes(accepted.length), Answered(answered, "", Result.DONE))

    def _restart(self, given: Input) -> None:
        """Start the responder anew with its watermarks, and let the clock jump."""
        kept, forgotten = self._responder.watermarks(), self._responder.forgotten_ns
        self._now = max(0, self._now + (given.number(2) - 0x8000) * NANOSECONDS)
        self._waiting.clear()
        self._responder = self._start()
        self._responder.restore(kept, forgotten)


def run(data: bytes) -> None:
    """Tell a story of at most so many steps."""
    given = Input(data)
    story = _Story(1 + given.number() % 3)
    for _ in range(_MAX_STEPS):
        if not given:
            return
        story.step(given)


def seeds() -> Iterator[bytes]:
    """Give short stories: the datagrams of the vectors, their bodies, each verb and its answer."""
    for block in _BLOCKS:
        raw = bytes.fromhex(block["datagram"])
        yield b"\0\3\0" + len(raw).to_bytes(2) + raw
        if "body" in block:
            body = bytes.fromhex(block["body"])
            yield b"\0\0\0" + len(body).to_bytes(2) + body
    answer, repeat, restart = b"\6\0\0\0", b"\4\0\0", b"\7\x80\0"
    for verb in (*Verb, 0, 7):
        asked = _asked(verb, 1)
        yield b"\0" + asked + answer + repeat + restart + repeat
        yield b"\0" + asked + answer + _asked(verb, 2) + answer
        yield b"\0" + _asked(verb, -0x8000) + _asked(verb, -0x8000, echoes=True)


def _asked(verb: int, seconds: int, *, echoes: bool = False) -> bytes:
    """Return a step: the laptop asks through its own tunnel, at so many seconds from now."""
    head = bytes([1, 0, 0, verb, not echoes])
    return head + (0x8000 + seconds).to_bytes(2) + b"\0\0" + b"\0"
