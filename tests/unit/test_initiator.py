"""The initiator alone: when it sends, what it believes, how it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anubis.protocol.channel import Channel
from anubis.protocol.initiator import Initiator, NoReply
from anubis.protocol.wire import Header, MessageType, Option, Reply, Request, Result, State, Verb
from anubis.wireguard.errors import KeyFormatError
from tests.vectors.world import BROKEN, HOUSE, LAPTOP, PHONE, T0, Host, Stream


class Fixed:
    """Randomness whose single bytes, which are the jitter, are always the same."""

    def __init__(self, jitter: int) -> None:
        self._stream = Stream("fixed")
        self._jitter = jitter

    def __call__(self, size: int) -> bytes:
        return bytes([self._jitter]) if size == 1 else self._stream(size)


def initiator(
    *, jitter: int = 0, deadline: float = 10.0, suites: tuple[int, ...] = (1,), peer: Host = HOUSE
) -> Initiator:
    """Return a machine that asks for `up`."""
    return Initiator(
        LAPTOP.keyring(),
        peer.public_key,
        Verb.UP,
        suites,
        deadline,
        lambda: T0,
        Fixed(jitter),
        lease=60,
        reason="because",
    )


def opened(datagram: bytes) -> Request:
    """Read a request as the house does."""
    channel = Channel(HOUSE.private, HOUSE.public_key, LAPTOP.public_key)
    return Request.decode(channel.open(Header.decode(datagram), datagram))


def reply_to(
    datagram: bytes,
    result: int = Result.DONE,
    *,
    suites: tuple[int, ...] = (),
    challenge: bytes | None = None,
    sender: Host = HOUSE,
    suite: int | None = None,
    kind: MessageType = MessageType.REPLY,
    tail: bytes = b"",
) -> bytes:
    """Return the reply of a host to a request of the laptop."""
    request, asked = opened(datagram), Header.decode(datagram)
    body = Reply(
        request.request_id, T0, result, State.UP, 60, suites=suites, challenge=challenge
    ).encode()
    header = Header(kind, suite or asked.suite, sender.public_key, bytes(24))
    return Channel(sender.private, sender.public_key, LAPTOP.public_key).seal(header, body + tail)


def misnamed(datagram: bytes) -> bytes:
    """Return the reply of the house, sealed with its key, that says to be the phone's."""
    body = Reply(opened(datagram).request_id, T0, Result.DONE, State.UP, 60).encode()
    header = Header(MessageType.REPLY, 1, PHONE.public_key, bytes(24))
    return Channel(HOUSE.private, HOUSE.public_key, LAPTOP.public_key).seal(header, body)


def sending_times(machine: Initiator) -> Iterator[float]:
    """Yield when the machine sends, until it gives up."""
    first = machine.start(0.0)
    yield 0.0
    while machine.outcome is None:
        now = machine.timer
        sent = machine.on_timer(now)
        if sent is not None:
            assert sent == first
            yield now


def test_the_schedule_without_jitter() -> None:
    """A quarter of a second, doubled up to one second; nothing at the deadline."""
    times = list(sending_times(initiator(deadline=5.75)))
    assert times == [0.0, 0.25, 0.75, 1.75, 2.75, 3.75, 4.75]


def test_the_schedule_with_the_greatest_jitter() -> None:
    """Each wait is stretched by at most a quarter."""
    times = list(sending_times(initiator(jitter=255, deadline=3.0)))
    stretch = 1 + 255 / 1024
    assert times == [0.0, 0.25 * stretch, 0.75 * stretch, 1.75 * stretch]
    assert stretch < 1.25


def test_the_deadline_is_exact() -> None:
    """The last timer is the deadline, whose outcome tells how many datagrams went out."""
    machine = initiator(deadline=2.0)
    assert len(list(sending_times(machine))) == 4
    assert machine.timer == 2.0
    assert machine.outcome == NoReply(sent=4)


def test_an_early_timer_does_nothing() -> None:
    """A timer that fires before its time sends nothing and moves nothing."""
    machine = initiator()
    machine.start(0.0)
    assert machine.on_timer(0.2499) is None
    assert (machine.timer, machine.sent) == (0.25, 1)


def test_a_late_timer_sends_once() -> None:
    """A host that slept does not make up for what it missed."""
    machine = initiator()
    machine.start(0.0)
    assert machine.on_timer(5.0) is not None
    assert (machine.timer, machine.sent) == (5.5, 2)


def test_a_deadline_in_the_past() -> None:
    """The request goes out once, and the exchange ends at the first timer."""
    machine = initiator(deadline=0.0)
    machine.start(1.0)
    assert machine.timer == 0.0
    assert machine.on_timer(1.0) is None
    assert machine.outcome == NoReply(sent=1)


def test_again_sends_at_once_and_starts_the_schedule_anew() -> None:
    """The same bytes; afterwards a quarter of a second, as in the beginning."""
    machine = initiator()
    assert machine.again(0.0) is None
    first = machine.start(0.0)
    machine.on_timer(0.25)
    machine.on_timer(0.75)
    assert machine.again(0.8) == first
    assert machine.timer == pytest.approx(1.05)
    machine.on_datagram(reply_to(first), 0.9)
    assert machine.again(1.0) is None


def test_the_request_says_what_was_wanted() -> None:
    """Verb, lease, reason and time are those of the caller; no challenge at first."""
    request = opened(initiator().start(0.0))
    assert (request.verb, request.lease, request.reason) == (Verb.UP, 60, "because")
    assert (request.unix_ns, request.challenge) == (T0, None)


def test_a_granted_reply_is_the_outcome() -> None:
    """Nothing more is sent."""
    machine = initiator()
    reply = reply_to(machine.start(0.0))
    assert machine.on_datagram(reply, 0.1) is None
    assert isinstance(machine.outcome, Reply)
    assert machine.outcome.granted
    assert machine.on_timer(100.0) is None
    assert machine.on_datagram(reply, 0.2) is None


@pytest.mark.parametrize("result", [r for r in Result if r >= Result.STALE])
def test_a_refusal_is_the_outcome(result: Result) -> None:
    """Every refusal that offers no other way ends the exchange."""
    machine = initiator()
    assert machine.on_datagram(reply_to(machine.start(0.0), result), 0.1) is None
    assert isinstance(machine.outcome, Reply)
    assert machine.outcome.result == result
    assert not machine.outcome.granted


def test_a_challenge_is_echoed_in_a_new_request() -> None:
    """New id, new nonce, the same wish; the schedule starts anew."""
    machine = initiator()
    first = machine.start(0.0)
    machine.on_timer(0.25)
    second = machine.on_datagram(reply_to(first, Result.STALE, challenge=b"c" * 16), 0.5)
    assert second is not None
    old, new = opened(first), opened(second)
    assert new.challenge == b"c" * 16
    assert new.request_id != old.request_id
    assert Header.decode(second).nonce != Header.decode(first).nonce
    assert (new.verb, new.lease, new.reason) == (old.verb, old.lease, old.reason)
    assert machine.timer == 0.75


def test_the_challenge_is_echoed_in_the_suite_of_its_request() -> None:
    """After a change of suite, too."""
    machine = initiator(suites=(1, 2))
    second = machine.on_datagram(reply_to(machine.start(0.0), 21, suites=(2,)), 0.1)
    assert second is not None
    third = machine.on_datagram(reply_to(second, Result.STALE, challenge=bytes(16)), 0.2)
    assert third is not None
    assert Header.decode(third).suite == 2


def test_four_requests_and_no_more() -> None:
    """A responder that is never content ends the exchange with its fourth reply."""
    machine = initiator()
    sent: bytes | None = machine.start(0.0)
    count = 0
    while sent is not None:
        count += 1
        sent = machine.on_datagram(reply_to(sent, Result.STALE, challenge=bytes(16)), 0.1)
    assert count == 4
    assert isinstance(machine.outcome, Reply)
    assert machine.outcome.result == Result.STALE


def test_a_suite_is_tried_once() -> None:
    """A responder that refuses what it says to accept does not lead us round in a circle."""
    machine = initiator(suites=(1, 2))
    second = machine.on_datagram(reply_to(machine.start(0.0), 21, suites=(1, 2)), 0.1)
    assert second is not None
    assert Header.decode(second).suite == 2
    assert machine.on_datagram(reply_to(second, 21, suites=(1, 2)), 0.2) is None
    assert isinstance(machine.outcome, Reply)


def test_the_responder_orders_the_suites() -> None:
    """Of those that are ours, the first of its list is taken, whatever our own order is."""
    machine = initiator(suites=(1, 7, 2))
    second = machine.on_datagram(reply_to(machine.start(0.0), 21, suites=(9, 2, 7)), 0.1)
    assert second is not None
    assert Header.decode(second).suite == 2


def test_a_suite_that_is_not_ours_is_never_used() -> None:
    """Whatever the reply says."""
    machine = initiator(suites=(1,))
    assert machine.on_datagram(reply_to(machine.start(0.0), 21, suites=(2,)), 0.1) is None
    assert isinstance(machine.outcome, Reply)


def test_what_is_not_the_reply_changes_nothing() -> None:
    """Another exchange, suite, sender or type, a reflected request, garbage: ignored."""
    machine = initiator(suites=(1, 2))
    first = machine.start(0.0)
    good = reply_to(first)
    foreign = initiator(jitter=1)
    foreign.random(3)
    wrong = [
        b"",
        bytes(200),
        first,
        good[:-1],
        good + b"\0",
        good[:-1] + bytes([good[-1] ^ 1]),
        b"\x02" + good[1:],
        reply_to(foreign.start(0.0)),
        reply_to(first, suite=2),
        reply_to(first, sender=PHONE),
        reply_to(first, kind=MessageType.REQUEST),
        misnamed(first),
        reply_to(first, tail=b"\x90\x00"),
        reply_to(first, tail=b"\x01"),
        Channel(LAPTOP.private, LAPTOP.public_key, HOUSE.public_key).seal(
            Header(MessageType.REPLY, 1, HOUSE.public_key, bytes(24)), bytes(36)
        ),
    ]
    for datagram in wrong:
        assert machine.on_datagram(datagram, 0.1) is None
        assert (machine.outcome, machine.timer, machine.sent) == (None, 0.25, 1)
    machine.on_datagram(good, 0.2)
    assert machine.outcome is not None


def test_a_reply_to_an_older_request_changes_nothing() -> None:
    """After a challenge, only the newest request can be answered."""
    machine = initiator()
    first = machine.start(0.0)
    second = machine.on_datagram(reply_to(first, Result.STALE, challenge=bytes(16)), 0.1)
    assert second is not None
    assert machine.on_datagram(reply_to(first), 0.2) is None
    assert machine.outcome is None
    assert machine.on_datagram(reply_to(first, Result.STALE, challenge=b"x" * 16), 0.2) is None
    assert machine.on_datagram(reply_to(second), 0.3) is None
    assert isinstance(machine.outcome, Reply)


def test_options_that_may_be_ignored_are() -> None:
    """A reply from a newer responder is understood as far as it goes."""
    machine = initiator()
    reply = reply_to(machine.start(0.0), tail=b"\x30\x03new" + bytes([Option.PADDING, 0]))
    machine.on_datagram(reply, 0.1)
    assert isinstance(machine.outcome, Reply)


def test_before_the_start_nothing_is_heard() -> None:
    """A datagram that comes before the first request is ignored."""
    other = initiator()
    assert initiator().on_datagram(reply_to(other.start(0.0)), 0.0) is None


def test_a_peer_of_low_order_cannot_be_asked() -> None:
    """Starting raises, nothing is sealed."""
    with pytest.raises(KeyFormatError, match="low order"):
        initiator(peer=BROKEN).start(0.0)
