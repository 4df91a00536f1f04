"""A connection is idle when only WireGuard itself has spoken in it; in doubt it is used."""

from __future__ import annotations

from itertools import accumulate

import pytest

from anubis.idleness import LOOK_SECONDS, Idleness, carries_data
from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import Peer

KEY = PublicKey(bytes([7] * 32))
START = 1000.0
UNIX = 1.7e9  # what the clock of the handshakes says at START
INITIATION, RESPONSE, KEEPALIVE = 148, 92, 32
BEAT = 64  # the shortest that data can be: an IP packet with a byte or none in it
PING = 128


@pytest.mark.parametrize("session_lives", [True, False])
@pytest.mark.parametrize(
    "count", [0, KEEPALIVE, INITIATION, RESPONSE, INITIATION + KEEPALIVE, RESPONSE + KEEPALIVE]
)
def test_what_wireguard_says_of_its_own_accord_is_no_use(
    count: int, *, session_lives: bool
) -> None:
    """Nothing, a keepalive, a handshake of either direction and what confirms it."""
    assert not carries_data(count, session_lives=session_lives)


@pytest.mark.parametrize("session_lives", [True, False])
@pytest.mark.parametrize(
    "count",
    [
        BEAT,
        PING,
        2 * KEEPALIVE + PING,
        INITIATION + PING,
        RESPONSE + PING,
        INITIATION + BEAT + KEEPALIVE,
        2 * (INITIATION + BEAT),
        1452,  # a packet as long as the MTU, which is not padded
        100_000_004,
    ],
)
def test_data_is_use(count: int, *, session_lives: bool) -> None:
    """However little, also beside keepalives and handshakes."""
    assert carries_data(count, session_lives=session_lives)


def test_a_handshake_for_the_sake_of_data_is_told_from_one_for_a_keepalive() -> None:
    """Where no session lived, the least of data after a handshake is seen.

    In a session that lives, as many bytes are the two keepalives around its renewal.
    """
    assert carries_data(INITIATION + BEAT, session_lives=False)
    assert not carries_data(INITIATION + 2 * KEEPALIVE, session_lives=True)


def idle_after(
    received: list[int],
    sent: list[int] | None = None,
    handshakes: dict[int, float] | None = None,
) -> float:
    """Return how long a connection is idle after looks that found so many more bytes each.

    `handshakes` are the looks since which there is a newer one, with its age in seconds then.
    """
    idleness, last, now = Idleness(), UNIX - 5, START
    rows = zip(accumulate(received), accumulate(sent or [0] * len(received)), strict=True)
    idleness.look({"xena": Peer(KEY, last_handshake=last)}, now, UNIX)
    for number, (rx, tx) in enumerate(rows):
        now += LOOK_SECONDS
        unix = UNIX + now - START
        if handshakes and number in handshakes:
            last = unix - handshakes[number]
        seen = Peer(KEY, last_handshake=last, rx_bytes=rx, tx_bytes=tx)
        idleness.look({"xena": seen}, now, unix)
    return idleness.idle_seconds("xena", now)


def test_keepalives_with_their_handshakes_keep_nothing_in_use() -> None:
    """A far end with PersistentKeepalive = 25 and nobody at it is idle from the beginning.

    Every 120 s it renews the session: a keepalive, an initiation, a keepalive, in one look or,
    if the look comes in between, in two.
    """
    beats = [0, 32, 0, 32, 32, 0, 32, 0, 32, 32, 0, 32]
    received = [*beats, 212, *beats[1:], 180, 32, *beats[2:]]
    assert idle_after(received, handshakes={12: 1.0, 25: 1.0}) == len(received) * LOOK_SECONDS


@pytest.mark.parametrize("beat", [BEAT, PING, 1500])
def test_a_program_that_speaks_seldom_is_seen_every_time(beat: int) -> None:
    """What is sent every five minutes comes with a handshake each time, and is use all the same."""
    pause = [0] * 29
    assert idle_after([*pause, INITIATION + beat], handshakes={29: 1.0}) == 0
    twice = [*pause, INITIATION + beat, *pause, INITIATION + beat, 0, 0]
    assert idle_after(twice, handshakes={29: 1.0, 59: 1.0}) == 2 * LOOK_SECONDS


def test_who_only_listens_uses_the_connection() -> None:
    """What we send counts if the far end is heard: it has keepalives to say that it received it."""
    assert idle_after([32, 32, 32], [5000, 5000, 5000]) == 0


def test_a_far_end_that_has_vanished_uses_nothing() -> None:
    """What is sent to it, and WireGuard's own handshakes, are in vain."""
    assert idle_after([0, 0, 0], [5000, 296, 296]) == 3 * LOOK_SECONDS


def test_our_own_keepalives_and_handshakes_are_no_use() -> None:
    """With PersistentKeepalive at both ends, whoever renews the session."""
    assert idle_after([32, 92, 32, 32], [32, 212, 32, 124], {1: 1.0}) == 4 * LOOK_SECONDS


def test_a_peer_that_is_new_or_made_anew_is_held_for_used() -> None:
    """Its counters say nothing about before."""
    idleness = Idleness()
    assert idleness.idle_seconds("xena", START) == 0
    idleness.look({"xena": Peer(KEY, rx_bytes=500)}, START, UNIX)
    idleness.look({"xena": Peer(KEY, rx_bytes=32)}, START + 10, UNIX + 10)
    assert idleness.idle_seconds("xena", START + 15) == 5
    idleness.look({}, START + 20, UNIX + 20)
    idleness.look({"xena": Peer(KEY, rx_bytes=32)}, START + 30, UNIX + 30)
    assert idleness.idle_seconds("xena", START + 30) == 0
