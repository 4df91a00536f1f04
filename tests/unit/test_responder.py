"""The responder alone: the order of its checks, its memory, its bounds."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import IPv6Network

import pytest

from anubis.protocol.channel import Channel, Keyring
from anubis.protocol.freshness import MAX_SESSIONS
from anubis.protocol.responder import Accepted, Answered, Dropped, Outcome, Responder
from anubis.protocol.tai64n import NANOSECONDS
from anubis.protocol.wire import Header, MessageType, Reply, Request, Result, State, Verb
from anubis.wireguard.keys import PrivateKey
from tests.vectors.world import (
    AUTHORIZED,
    HOUR,
    HOUSE,
    LAPTOP,
    PHONE,
    STRANGER,
    T0,
    YEAR,
    Host,
    People,
    Stream,
)

SECOND = NANOSECONDS
RANDOM = Stream("responder tests")


def responder(
    *, suites: tuple[int, ...] = (1, 2), floor: int = T0 - HOUR, limit: int = MAX_SESSIONS
) -> Responder:
    """Return the house."""
    return Responder(HOUSE.keyring(), People(AUTHORIZED), RANDOM, suites, floor, max_sessions=limit)


def sealed(request: Request, who: Host = LAPTOP, suite: int = 1) -> bytes:
    """Seal a request of a host for the house."""
    header = Header(MessageType.REQUEST, suite, who.public_key, RANDOM(24))
    channel = Channel(who.private, who.public_key, HOUSE.public_key)
    return channel.seal(header, request.encode())


def ask(
    at: int = T0, verb: int = Verb.UP, *, who: Host = LAPTOP, challenge: bytes | None = None
) -> bytes:
    """Return a new request datagram."""
    return sealed(Request(RANDOM(16), at, verb, challenge=challenge), who)


def reply_in(outcome: Outcome, who: Host = LAPTOP) -> Reply:
    """Read the reply of an answer, as its addressee does."""
    assert isinstance(outcome, Answered)
    channel = Channel(who.private, who.public_key, HOUSE.public_key)
    return Reply.decode(channel.open(Header.decode(outcome.datagram), outcome.datagram))


def done(accepted: Outcome) -> Reply:
    """Return a verdict on an accepted request."""
    assert isinstance(accepted, Accepted)
    return Reply(accepted.request.request_id, T0, Result.DONE, State.UP, 60)


def stale(house: Responder, datagram: bytes, now: int = T0) -> bytes:
    """Assert that a datagram is stale; return the challenge."""
    reply = reply_in(house.receive(datagram, LAPTOP.address, now))
    assert reply.result == Result.STALE
    assert reply.challenge is not None
    return reply.challenge


def test_an_accepted_request_tells_who_asks_for_what() -> None:
    """The entry's name and the request, once."""
    house = responder()
    outcome = house.receive(ask(), LAPTOP.address, T0)
    assert isinstance(outcome, Accepted)
    assert (outcome.peer, outcome.request.verb) == ("laptop", Verb.UP)
    assert house.drops == {}


def test_the_cheapest_check_comes_first() -> None:
    """Of everything that is wrong with a datagram, the first check in order is what counts."""
    house = responder()
    good = ask()
    # Each step mends the first thing wrong, so that the next check speaks.
    bad = bytearray(b"\x02\x03\x09\x01" + bytes(STRANGER.public_key) + good[36:-1] + b"\0")
    assert house.receive(bytes(bad[:100]), STRANGER.address, T0) == Dropped("bad_size")
    assert house.receive(bytes(bad), STRANGER.address, T0) == Dropped("unknown_version")
    bad[0] = 1
    assert house.receive(bytes(bad), STRANGER.address, T0) == Dropped("unknown_type")
    bad[1] = 2
    assert house.receive(bytes(bad), STRANGER.address, T0) == Dropped("reserved_bits")
    bad[3] = 0
    assert house.receive(bytes(bad), STRANGER.address, T0) == Dropped("unexpected_reply")
    bad[1] = 1
    assert house.receive(bytes(bad), STRANGER.address, T0) == Dropped("unknown_source")
    assert house.receive(bytes(bad), PHONE.address, T0) == Dropped("unknown_suite", "phone")
    bad[2] = 1
    assert house.receive(bytes(bad), PHONE.address, T0) == Dropped("unknown_sender", "phone")
    bad[4:36] = bytes(LAPTOP.public_key)
    assert house.receive(bytes(bad), PHONE.address, T0) == Dropped("not_authentic", "phone")
    assert sum(house.drops.values()) == 9
    assert set(house.drops.values()) == {1}


def test_the_refusals_come_in_order() -> None:
    """Tunnel, suite, body, options, verb, freshness: the first that is wrong is answered."""
    house = responder(suites=(2,))
    wrong = Request(RANDOM(16), 0, 99)
    broken = wrong.encode() + b"\x90\x00" + b"\x01"
    channel = Channel(LAPTOP.private, LAPTOP.public_key, HOUSE.public_key)

    def result(body: bytes, suite: int, via: Host = LAPTOP) -> int:
        header = Header(MessageType.REQUEST, suite, LAPTOP.public_key, RANDOM(24))
        outcome = house.receive(channel.seal(header, body), via.address, T0)
        return reply_in(outcome).result

    assert result(broken, 1, PHONE) == Result.KEY_MISMATCH
    assert result(broken, 1) == Result.SUITE_REFUSED
    assert result(broken, 2) == Result.MALFORMED
    assert result(broken[:-1], 2) == Result.UNSUPPORTED_OPTION
    assert result(wrong.encode(), 2) == Result.UNSUPPORTED_VERB
    assert result(replace(wrong, verb=1).encode(), 2) == Result.STALE


@pytest.mark.parametrize("who", [LAPTOP, PHONE], ids=lambda host: host.name)
def test_nobody_asks_in_anothers_name(who: Host) -> None:
    """Production key and control tunnel must belong together, for every pair of peers."""
    house = responder()
    for via in (LAPTOP, PHONE):
        outcome = house.receive(ask(who=who), via.address, T0)
        if via is who:
            assert isinstance(outcome, Accepted)
        else:
            assert reply_in(outcome, who).result == Result.KEY_MISMATCH


def test_a_mismatch_leaves_no_trace() -> None:
    """Whoever sends another's request through his own tunnel does not use up its timestamp."""
    house = responder()
    datagram = ask()
    house.receive(datagram, PHONE.address, T0)
    assert house.watermarks() == {}
    assert isinstance(house.receive(datagram, LAPTOP.address, T0), Accepted)


def test_replies_echo_and_are_sealed_anew() -> None:
    """Request id and suite of the request, the house's key, a nonce that never repeats."""
    house = responder()
    nonces = set()
    for suite, verb in itertools.product((1, 2), (0, 99)):
        request = Request(RANDOM(16), T0, verb)
        outcome = house.receive(sealed(request, suite=suite), LAPTOP.address, T0)
        assert isinstance(outcome, Answered)
        header = Header.decode(outcome.datagram)
        assert (header.type, header.suite) == (MessageType.REPLY, suite)
        assert header.sender == HOUSE.public_key
        assert reply_in(outcome).request_id == request.request_id
        nonces.add(header.nonce)
    assert len(nonces) == 4


def test_a_repeat_is_answered_with_the_same_bytes_for_ever() -> None:
    """Not acted on again, and silent while the first is being acted on."""
    house = responder()
    datagram = ask()
    accepted = house.receive(datagram, LAPTOP.address, T0)
    assert house.receive(datagram, LAPTOP.address, T0) == Dropped("in_progress", "laptop")
    assert isinstance(accepted, Accepted)
    answer = house.answer(accepted, done(accepted))
    for later in (0, HOUR, YEAR, -YEAR):
        outcome = house.receive(datagram, LAPTOP.address, T0 + later)
        assert isinstance(outcome, Answered)
        assert (outcome.datagram, outcome.repeat) == (answer, True)


def test_a_late_answer_is_not_given_for_a_newer_request() -> None:
    """Two requests overlap: the reply to the first is not kept for repeats of the second."""
    house = responder()
    first, second = ask(T0), ask(T0 + 1, Verb.DOWN)
    one = house.receive(first, LAPTOP.address, T0)
    two = house.receive(second, LAPTOP.address, T0)
    assert isinstance(one, Accepted)
    assert isinstance(two, Accepted)
    house.answer(one, done(one))
    assert house.receive(second, LAPTOP.address, T0) == Dropped("in_progress", "laptop")
    answer = house.answer(two, done(two))
    repeat = house.receive(second, LAPTOP.address, T0)
    assert isinstance(repeat, Answered)
    assert repeat.datagram == answer


def test_the_reply_to_an_older_request_is_not_given_for_a_newer_one() -> None:
    """While the newer one is being acted on, its repeats meet silence, not the old reply."""
    house = responder()
    one = house.receive(ask(T0), LAPTOP.address, T0)
    assert isinstance(one, Accepted)
    house.answer(one, done(one))
    second = ask(T0 + 1, Verb.DOWN)
    house.receive(second, LAPTOP.address, T0)
    assert house.receive(second, LAPTOP.address, T0) == Dropped("in_progress", "laptop")


def test_timestamps_rise_strictly() -> None:
    """Equal and older ones are stale, one nanosecond more is fresh."""
    house = responder()
    assert isinstance(house.receive(ask(T0), LAPTOP.address, T0), Accepted)
    stale(house, ask(T0))
    stale(house, ask(T0 - 1))
    assert isinstance(house.receive(ask(T0 + 1), LAPTOP.address, T0), Accepted)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_window_is_120_seconds_either_way(sign: int) -> None:
    """To the nanosecond."""
    edge = T0 + sign * 120 * SECOND
    assert isinstance(responder().receive(ask(edge), LAPTOP.address, T0), Accepted)
    stale(responder(), ask(edge + sign))


def test_nothing_before_the_floor_is_fresh() -> None:
    """Not the very moment either."""
    house = responder(floor=T0)
    stale(house, ask(T0))
    assert isinstance(house.receive(ask(T0 + 1), LAPTOP.address, T0), Accepted)


def test_the_floor_follows_a_clock_that_is_set_forward_and_never_falls() -> None:
    """The start is reckoned on the clock as it is now, by the time of running."""
    house = responder(floor=0)
    before_start = ask(T0 - 10 * SECOND)
    reply = house.receive(before_start, LAPTOP.address, T0, 10 * SECOND)
    assert reply_in(reply).result == Result.STALE
    phone = ask(T0 - 10 * SECOND + 1, who=PHONE)
    assert isinstance(house.receive(phone, PHONE.address, T0, 10 * SECOND), Accepted)
    back = T0 - HOUR
    reply = house.receive(ask(back), LAPTOP.address, back, 11 * SECOND)
    assert reply_in(reply).result == Result.STALE


def test_the_floor_holds_for_whoever_is_known_already() -> None:
    """An initiator that was let in while both clocks stood in 1970 gains nothing by it."""
    house = responder(floor=0)
    outcome = house.receive(ask(5 * SECOND), LAPTOP.address, 5 * SECOND, 5 * SECOND)
    assert isinstance(outcome, Accepted)
    before_start = ask(T0 - 10 * SECOND)
    reply = house.receive(before_start, LAPTOP.address, T0, 10 * SECOND)
    assert reply_in(reply).result == Result.STALE


def test_what_was_refused_stays_refused() -> None:
    """A stale request is not let in when either clock is set right."""
    for wrong_now in (T0 + YEAR, T0 - YEAR, 0):
        house = responder(floor=0)
        datagram = ask(T0)
        stale(house, datagram, wrong_now)
        stale(house, datagram, T0)


def test_the_challenge_lets_any_clock_in() -> None:
    """Echoed, it proves freshness at whatever time."""
    for wrong in (0, 1, T0 - 50 * YEAR, T0 + 50 * YEAR):
        house = responder()
        challenge = stale(house, ask(wrong))
        outcome = house.receive(ask(wrong + 1, challenge=challenge), LAPTOP.address, T0)
        assert isinstance(outcome, Accepted)


def test_a_challenge_is_good_once() -> None:
    """For one acceptance; the next request gets another one."""
    house = responder()
    challenge = stale(house, ask(0))
    assert isinstance(house.receive(ask(1, challenge=challenge), LAPTOP.address, T0), Accepted)
    assert stale(house, ask(2, challenge=challenge)) != challenge


def test_a_challenge_ends_with_any_acceptance() -> None:
    """A request that was overtaken by one with a good timestamp has no effect."""
    house = responder()
    challenge = stale(house, ask(0))
    assert isinstance(house.receive(ask(T0), LAPTOP.address, T0), Accepted)
    stale(house, ask(1, challenge=challenge))


def test_a_challenge_expires() -> None:
    """After 30 s, and when the clock goes back."""
    for later, good in ((30 * SECOND - 1, True), (30 * SECOND, False), (-1, False)):
        house = responder()
        challenge = stale(house, ask(0))
        outcome = house.receive(ask(1, challenge=challenge), LAPTOP.address, T0 + later)
        assert isinstance(outcome, Accepted) is good


def test_replays_do_not_overwrite_a_challenge() -> None:
    """Stale requests, however many, are told the pending one."""
    house = responder()
    old = ask(1)
    challenge = stale(house, old)
    for count in range(29):
        assert stale(house, old, T0 + count * SECOND) == challenge
    late = ask(2, challenge=challenge)
    assert isinstance(house.receive(late, LAPTOP.address, T0 + 29 * SECOND), Accepted)


def test_a_wrong_challenge_is_not_saved_by_a_right_time() -> None:
    """Nor is one of another initiator."""
    house = responder()
    stale(house, ask(T0 - 2, challenge=bytes(16)))
    other = reply_in(house.receive(ask(0, who=PHONE), PHONE.address, T0), PHONE).challenge
    assert other is not None
    stale(house, ask(T0, challenge=other))


def test_watermarks_survive() -> None:
    """What one run saw, the next one knows; restoring lowers nothing."""
    first = responder()
    datagram = ask()
    first.receive(datagram, LAPTOP.address, T0)
    assert first.watermarks() == {LAPTOP.public_key: T0}
    second = responder(floor=0)
    second.restore(first.watermarks())
    second.restore({LAPTOP.public_key: 5})
    assert second.watermarks() == {LAPTOP.public_key: T0}
    stale(second, datagram)


def test_what_rose_is_told_once() -> None:
    """Also of a request that is refused: it must stay so when our clock is set right."""
    house = responder()
    house.receive(ask(), LAPTOP.address, T0)
    house.receive(ask(T0 + HOUR, who=PHONE), PHONE.address, T0)
    assert house.risen() == {LAPTOP.public_key: T0, PHONE.public_key: T0 + HOUR}
    assert house.risen() == {}


def test_the_table_is_bounded_and_the_floor_rises() -> None:
    """Two hundred initiators, ten places: nobody who was forgotten can be replayed."""
    hosts = [Host.make(f"host {index}") for index in range(200)]
    house = Responder(HOUSE.keyring(), People(hosts), RANDOM, (1,), T0 - HOUR, max_sessions=10)
    sent = [ask(T0 + index, who=host) for index, host in enumerate(hosts)]
    for datagram, host in zip(sent, hosts, strict=True):
        assert isinstance(house.receive(datagram, host.address, T0), Accepted)
        assert len(house.watermarks()) <= 10
    for datagram, host in zip(sent, hosts, strict=True):
        assert not isinstance(house.receive(datagram, host.address, T0), Accepted)
        assert len(house.watermarks()) <= 10


def test_the_least_recently_used_session_goes_first() -> None:
    """Who asks often is remembered."""
    third = Host.make("third")
    people = People([LAPTOP, PHONE, third])
    house = Responder(HOUSE.keyring(), people, RANDOM, (1,), 0, max_sessions=2)
    for index, host in enumerate((LAPTOP, PHONE, LAPTOP, third)):
        datagram = ask(T0 + index, who=host)
        assert isinstance(house.receive(datagram, host.address, T0), Accepted)
    assert set(house.watermarks()) == {LAPTOP.public_key, third.public_key}


def test_an_answer_after_its_session_was_forgotten_is_sent_all_the_same() -> None:
    """It is not kept, and a repeat is stale, not acted on."""
    house = responder(limit=1)
    datagram = ask()
    accepted = house.receive(datagram, LAPTOP.address, T0)
    house.receive(ask(T0 + 1, who=PHONE), PHONE.address, T0)
    assert isinstance(accepted, Accepted)
    assert house.answer(accepted, done(accepted))
    stale(house, datagram)


@pytest.mark.parametrize("padding", [0, 10, 100, 255])
def test_replies_are_at_most_four_times_their_request(padding: int) -> None:
    """Nor longer than 1232 bytes, whatever there is to say."""
    house = responder()
    channel = Channel(LAPTOP.private, LAPTOP.public_key, HOUSE.public_key)
    header = Header(MessageType.REQUEST, 1, LAPTOP.public_key, RANDOM(24))
    body = Request(RANDOM(16), T0, 1).encode() + bytes([0, padding]) + bytes(padding)
    datagram = channel.seal(header, body)
    accepted = house.receive(datagram, LAPTOP.address, T0)
    assert isinstance(accepted, Accepted)
    networks = tuple(network for host in range(100) for network in _networks(host))
    answer = house.answer(accepted, replace(done(accepted), reason="x" * 500, installed=networks))
    assert len(answer) <= min(4 * len(datagram), 1232)
    assert len(answer) > min(4 * len(datagram), 1232) - 19


def _networks(index: int) -> tuple[IPv6Network, ...]:
    return (IPv6Network((0xFD07 << 112 | index, 128)),)


def test_a_stranger_costs_no_decryption(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key is computed for a datagram from an unknown source or an unknown sender."""

    def never(*_: object) -> Channel:
        raise AssertionError("a channel was asked for")

    monkeypatch.setattr(Keyring, "channel", never)
    house = responder()
    stranger = PrivateKey.generate(RANDOM).public_key()
    header = Header(MessageType.REQUEST, 1, stranger, bytes(24)).encode() + bytes(48)
    assert house.receive(header, STRANGER.address, T0) == Dropped("unknown_source")
    assert house.receive(header, LAPTOP.address, T0) == Dropped("unknown_sender", "laptop")


def test_a_forgotten_initiator_gains_nothing_by_a_restart() -> None:
    """What is kept of it is one time for all who were forgotten, and it bars its old requests."""
    house = responder(limit=1)
    recorded = ask(T0 + SECOND)
    assert isinstance(house.receive(recorded, LAPTOP.address, T0), Accepted)
    assert isinstance(house.receive(ask(T0 - SECOND, who=PHONE), PHONE.address, T0), Answered)
    assert LAPTOP.public_key not in house.watermarks()
    again = responder(limit=1)
    again.restore(house.watermarks(), house.forgotten_ns)
    assert reply_in(again.receive(recorded, LAPTOP.address, T0)).result == Result.STALE
