"""Both machines on a bad network: the right outcome always, and never two effects of a request."""

from __future__ import annotations

from collections import Counter

import pytest

from anubis.protocol.channel import Channel
from anubis.protocol.initiator import NoReply
from anubis.protocol.tai64n import NANOSECONDS
from anubis.protocol.wire import Header, MessageType, Reply, Request, Result, Verb
from tests.unit.network import Network, granted
from tests.vectors.world import HOUR, HOUSE, PHONE, T0, YEAR

SEEDS = range(60)
WRONG = {
    "right": 0,
    "a minute behind": -HOUR // 60,
    "ten minutes ahead": HOUR // 6,
    "ten years ahead": 10 * YEAR,
    "ten years behind": -10 * YEAR,
    "in 1970": -T0 - 2 * HOUR,
}


def assert_single_effects(network: Network) -> None:
    """No request took effect twice."""
    counts = Counter(request_id for request_id, _ in network.effects)
    assert not [count for count in counts.values() if count > 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_loss_duplication_and_reordering(seed: int) -> None:
    """With 30 % lost each way, 30 % doubled and wild delays, ten changes each end as asked.

    What was asked stays so although older datagrams are still under way, and each exchange has one
    effect exactly.
    """
    network = Network(seed, 0.3, 0.3, delay=(0.001, 1.5), work=(0.0, 0.4))
    for turn in range(10):
        verb = Verb.UP if turn % 2 == 0 else Verb.DOWN
        assert granted(network.exchange(verb, timeout=60.0))
        assert network.up is (verb is Verb.UP)
        network.now += network.dice.uniform(0.0, 2.0)
    network.drain()
    assert network.up is False
    assert [verb for _, verb in network.effects] == [Verb.UP, Verb.DOWN] * 5
    assert_single_effects(network)


@pytest.mark.parametrize("theirs", WRONG)
@pytest.mark.parametrize("ours", WRONG)
def test_wrong_clocks(ours: str, theirs: str) -> None:
    """Clocks that are wrong by years, at either end, in either direction, cost no outcome."""
    for seed in range(5):
        network = Network(
            seed,
            0.2,
            0.2,
            delay=(0.001, 0.5),
            initiator_offset_ns=WRONG[ours],
            responder_offset_ns=WRONG[theirs],
        )
        for verb in (Verb.UP, Verb.DOWN, Verb.UP):
            assert granted(network.exchange(verb))
            assert network.up is (verb is Verb.UP)
        network.drain()
        assert [verb for _, verb in network.effects] == [Verb.UP, Verb.DOWN, Verb.UP]


def test_a_right_clock_needs_one_round_trip_and_a_wrong_one_two() -> None:
    """The challenge is the only price of a wrong clock."""
    right = Network()
    assert granted(right.exchange(Verb.UP))
    assert len(right.recorded) == 1
    assert right.now == pytest.approx(1.02)
    wrong = Network(initiator_offset_ns=10 * YEAR)
    assert granted(wrong.exchange(Verb.UP))
    assert len(wrong.recorded) == 2
    assert wrong.now == pytest.approx(1.04)


@pytest.mark.parametrize("seed", SEEDS)
def test_clocks_that_are_set_on_the_way(seed: int) -> None:
    """Either clock may jump at any time: outcomes are right and nothing takes effect twice."""
    network = Network(seed, 0.2, 0.3, delay=(0.001, 1.0))
    offsets = list(WRONG.values())
    for turn in range(8):
        network.initiator_offset_ns = network.dice.choice(offsets)
        network.responder_offset_ns = network.dice.choice(offsets)
        verb = Verb.UP if turn % 2 == 0 else Verb.DOWN
        assert granted(network.exchange(verb, timeout=60.0))
        assert network.up is (verb is Verb.UP)
    network.drain()
    assert network.up is False
    assert_single_effects(network)


@pytest.mark.parametrize("watermarks", [True, False], ids=["kept", "lost"])
@pytest.mark.parametrize("seed", SEEDS)
def test_restarts_on_the_way(seed: int, watermarks: bool) -> None:
    """The responder restarts again and again, with and without its watermarks."""
    network = Network(seed, 0.2, 0.3, delay=(0.001, 1.0), work=(0.0, 0.3))
    for turn in range(8):
        verb = Verb.UP if turn % 2 == 0 else Verb.DOWN
        assert granted(network.exchange(verb, timeout=60.0))
        assert network.up is (verb is Verb.UP)
        network.restart(watermarks=watermarks)
        network.now += network.dice.uniform(0.0, 1.0)
    network.drain()
    assert network.up is False
    assert_single_effects(network)


@pytest.mark.parametrize("restart", ["no", "kept", "lost"])
@pytest.mark.parametrize("seed", range(20))
def test_replays_have_no_effect(seed: int, restart: str) -> None:
    """Every datagram ever sent, replayed in any order, after any time: nothing happens.

    Also through another peer's tunnel, after a restart with watermarks and without, and whatever
    the responder's clock has been set to meanwhile.
    """
    network = Network(seed, 0.2, 0.3, delay=(0.001, 1.0))
    offsets = list(WRONG.values())
    for verb in (Verb.UP, Verb.DOWN) * 4:
        network.responder_offset_ns = network.dice.choice([0, 0, *offsets])
        # Up to the window; a clock further ahead than the restart takes needs the watermarks.
        network.initiator_offset_ns = network.dice.randint(-100, 0 if restart == "lost" else 100)
        network.initiator_offset_ns *= NANOSECONDS
        assert granted(network.exchange(verb, timeout=60.0))
    network.drain()
    network.responder_offset_ns = 0
    network.now += 1.0
    if restart != "no":
        network.restart(watermarks=restart == "kept")
    before = list(network.effects)
    for age in (0.0, 1.0, 60.0, 3600.0, 86400.0):
        network.now += age
        network.responder_offset_ns = network.dice.choice([0, *offsets]) if age > 1 else 0
        replays = network.recorded[:]
        network.dice.shuffle(replays)
        for datagram in replays:
            network.deliver(datagram)
            network.deliver(datagram, via=PHONE)
    assert network.effects == before
    assert network.outcomes["refused"] > 0


def test_replays_have_no_effect_when_the_clock_was_behind_at_the_start() -> None:
    """A responder that starts in 1970, without watermarks, and learns the time a moment later."""
    network = Network()
    assert granted(network.exchange(Verb.UP))
    network.now += 5.0
    network.responder_offset_ns = WRONG["in 1970"]
    network.restart(watermarks=False)
    network.now += 5.0
    network.responder_offset_ns = 0
    for datagram in network.recorded[:]:
        network.deliver(datagram)
    assert len(network.effects) == 1


def test_replays_do_not_void_a_pending_challenge() -> None:
    """While old datagrams pour in, an initiator with a broken clock still gets through."""
    network = Network()
    assert granted(network.exchange(Verb.UP))
    old = network.recorded[0]
    assert granted(network.exchange(Verb.DOWN))
    network.initiator_offset_ns = -10 * YEAR
    initiator = network.initiator(Verb.UP)
    sent = [initiator.start(network.now)]
    while initiator.outcome is None:
        for datagram in (old, sent[-1], old):
            network.deliver(datagram)
        for datagram in network.take_replies():
            answer = initiator.on_datagram(datagram, network.now)
            if answer is not None:
                sent.append(answer)
    assert granted(initiator.outcome)
    assert len(sent) == 2
    assert network.up


@pytest.mark.parametrize("seed", range(20))
def test_forgotten_sessions_keep_replays_out(seed: int) -> None:
    """With one place in the table, and another peer who takes it, replays stay without effect."""
    network = Network(seed, 0.1, 0.2, delay=(0.001, 0.3), max_sessions=1)
    for turn in range(6):
        assert granted(network.exchange(Verb.UP if turn % 2 == 0 else Verb.DOWN))
        network.drain()
        before = list(network.effects)
        _take_the_place(network)
        for datagram in network.recorded[:]:
            network.deliver(datagram)
        assert network.effects[: len(before)] == before
        assert {verb for _, verb in network.effects[len(before) :]} <= {Verb.STATUS}
        network.drain()
        network.effects, network.up = before, turn % 2 == 0


def _take_the_place(network: Network) -> None:
    """Let the phone make an accepted request, so that the laptop's session goes."""
    channel = Channel(PHONE.private, PHONE.public_key, HOUSE.public_key)
    header = Header(MessageType.REQUEST, 1, PHONE.public_key, network.dice.randbytes(24))
    request = Request(network.dice.randbytes(16), network.true_ns(), Verb.STATUS)
    was_up = network.up
    network.deliver(channel.seal(header, request.encode()), via=PHONE)
    network.up = was_up


@pytest.mark.parametrize(
    ("ours", "theirs", "used"),
    [
        ((1,), (1, 2), 1),
        ((2, 1), (1, 2), 2),
        ((1, 2), (2,), 2),
        ((2, 1), (1,), 1),
        ((1, 2), (2, 1), 1),
        ((1,), (2,), None),
        ((2,), (1,), None),
    ],
)
def test_suites(ours: tuple[int, ...], theirs: tuple[int, ...], used: int | None) -> None:
    """The initiator's first suite if it is accepted, else the responder's first that is ours.

    A suite below the floor of either end never takes effect.
    """
    network = Network(initiator_suites=ours, responder_suites=theirs)
    outcome = network.exchange(Verb.UP)
    assert isinstance(outcome, Reply)
    if used is None:
        assert outcome.result == Result.SUITE_REFUSED
        assert outcome.suites == theirs
        assert network.effects == []
    else:
        assert outcome.granted
        assert network.recorded[-1][2] == used
        assert len(network.effects) == 1


def test_nobody_there() -> None:
    """When everything is lost, the exchange ends at its deadline and not later."""
    network = Network(loss=1.0)
    outcome = network.exchange(Verb.UP, timeout=10.0)
    assert outcome == NoReply(sent=len(network.recorded))
    assert network.now == 11.0
    assert len(set(network.recorded)) == 1


def test_repeats_cost_the_responder_no_second_action() -> None:
    """All repeats of an accepted request get the very bytes of the first reply."""
    network = Network()
    assert granted(network.exchange(Verb.UP))
    for _ in range(100):
        network.deliver(network.recorded[0])
    assert network.outcomes == {"accepted": 1, "repeated": 100}
    assert len(set(network.take_replies())) == 1
