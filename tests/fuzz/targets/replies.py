"""The initiator (`anubis/protocol/initiator.py`), answered by the responder and by strangers.

The input is a story: replies that are sealed with the genuine key and any content, bytes that
nobody sealed, time that passes. What is not the authentic reply to the newest request changes
nothing; the exchange asks at most so many times, and ends at its deadline at the latest.
"""

from __future__ import annotations

from collections.abc import Iterator

from anubis.protocol.channel import Channel
from anubis.protocol.initiator import MAX_ATTEMPTS, Initiator, NoReply
from anubis.protocol.wire import MAX_DATAGRAM, Header, MessageType, Reply, Request, Result, Verb
from tests.fuzz.tools import Input
from tests.vectors.vectorfile import load_all
from tests.vectors.world import HOUSE, LAPTOP, T0, Stream

RUNS = 15_000
MAX_LENGTH = 1500
TOKENS: tuple[bytes, ...] = ()

_DEADLINE = 10.0
_FROM_HOUSE = Channel(HOUSE.private, HOUSE.public_key, LAPTOP.public_key)
_RING = LAPTOP.keyring()


def run(data: bytes) -> None:
    """Tell a story until the exchange is over."""
    given, random = Input(data), Stream("fuzz")
    machine = Initiator(
        _RING, HOUSE.public_key, Verb.UP, (1, 2), _DEADLINE, lambda: T0, random, lease=60
    )
    asked = [machine.start(0.0)]
    now = 0.0
    while given and machine.outcome is None:
        before = (machine.timer, machine.sent)
        which = given.number() % 4
        if which == 0:
            now += given.number() / 16
            sent, genuine = machine.on_timer(now), False
        else:
            datagram, genuine = _reply(asked[-1], which, given, random)
            sent = machine.on_datagram(datagram, now)
            assert genuine or (sent, machine.outcome, (machine.timer, machine.sent)) == (
                None,
                None,
                before,
            ), "moved by what is no reply to its request"
        if sent is not None and sent != asked[-1]:
            asked.append(sent)
        assert sent is None or len(sent) <= MAX_DATAGRAM
        assert len(asked) <= MAX_ATTEMPTS
        assert machine.timer <= _DEADLINE
    machine.on_timer(_DEADLINE)
    _check_end(machine, asked[-1])


def _reply(request: bytes, which: int, given: Input, random: Stream) -> tuple[bytes, bool]:
    """Return a datagram, and whether it is a genuine reply to `request`."""
    if which == 1:
        return given.piece(), False
    header = Header.decode(request)
    request_id = Request.decode(_FROM_HOUSE.open(header, request)).request_id
    suite, content = 1 + given.number() % 2, given.piece()
    if which == 2:
        request_id = request_id[:15] + bytes([request_id[15] ^ 1])
    sealed = Header(MessageType.REPLY, suite, HOUSE.public_key, random(24))
    genuine = which == 3 and suite == header.suite
    return _FROM_HOUSE.seal(sealed, request_id + content), genuine


def _check_end(machine: Initiator, request: bytes) -> None:
    outcome = machine.outcome
    if isinstance(outcome, NoReply):
        assert outcome.sent == machine.sent
        return
    assert isinstance(outcome, Reply)
    assert not outcome.unknown_critical
    newest = Request.decode(_FROM_HOUSE.open(Header.decode(request), request))
    assert outcome.request_id == newest.request_id
    assert (outcome.reason + "".join(outcome.waiting)).isprintable()


def seeds() -> Iterator[bytes]:
    """Give the replies of the vectors, as genuine ones, and every result with its options."""
    for blocks in load_all().values():
        for block in blocks:
            for name in ("reply-body", "body"):
                if name in block:
                    body = bytes.fromhex(block[name])[16:]
                    yield b"\3\0" + len(body).to_bytes(2) + body
            if "datagram" in block:
                raw = bytes.fromhex(block["datagram"])
                yield b"\1" + len(raw).to_bytes(2) + raw + b"\0\xff"
    for result in Result:
        reply = Reply(
            bytes(16),
            T0,
            result,
            suites=(2, 1),
            challenge=bytes(16),
            reason="no",
            waiting=("xena",),
        )
        body = reply.encode()[16:]
        once = len(body).to_bytes(2) + body
        yield b"\3\0" + once + b"\0\4" + b"\3\1" + once + b"\2\1" + once
