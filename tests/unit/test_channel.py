"""Channels between two hosts, and the ring that keeps them."""

from __future__ import annotations

import itertools

import pytest

from anubis.protocol.channel import Channel, Keyring
from anubis.protocol.suites import SUITES, NotAuthentic
from anubis.protocol.wire import Header, MessageType
from anubis.wireguard.errors import KeyFormatError
from anubis.wireguard.keys import PrivateKey, PublicKey
from tests.vectors.world import BROKEN, HOUSE, LAPTOP, PHONE, Host, Stream

NONCE = bytes(24)
BODY = bytes(32)
COMBINATIONS = list(itertools.product(MessageType, SUITES))


def channel(own: Host, peer: Host) -> Channel:
    """Return the channel from one host to another."""
    return Channel(own.private, own.public_key, peer.public_key)


@pytest.mark.parametrize(("kind", "suite"), COMBINATIONS)
def test_what_one_end_seals_the_other_opens(kind: MessageType, suite: int) -> None:
    """The header stands in front, in clear; the body comes back."""
    header = Header(kind, suite, LAPTOP.public_key, NONCE)
    sealed = channel(LAPTOP, HOUSE).seal(header, BODY)
    assert Header.decode(sealed) == header
    assert channel(HOUSE, LAPTOP).open(header, sealed) == BODY


@pytest.mark.parametrize(("kind", "suite"), COMBINATIONS)
def test_nobody_else_opens_it(kind: MessageType, suite: int) -> None:
    """Not a third host, and not the sender itself, to whom it may have been reflected."""
    header = Header(kind, suite, LAPTOP.public_key, NONCE)
    sealed = channel(LAPTOP, HOUSE).seal(header, BODY)
    for reader in (channel(PHONE, LAPTOP), channel(LAPTOP, HOUSE), channel(HOUSE, PHONE)):
        with pytest.raises(NotAuthentic):
            reader.open(header, sealed)


def test_every_direction_type_and_suite_has_its_own_key() -> None:
    """No two of the eight keys of a pair are the same."""
    keys = set()
    for own, peer in ((LAPTOP, HOUSE), (HOUSE, LAPTOP)):
        for kind, suite in COMBINATIONS:
            header = Header(kind, suite, own.public_key, NONCE)
            keys.add(channel(own, peer)._key(header, outgoing=True))
    assert len(keys) == 8


def test_a_relabelled_datagram_does_not_open() -> None:
    """A request read as a reply, or in another suite, is not authentic."""
    header = Header(MessageType.REQUEST, 1, LAPTOP.public_key, NONCE)
    sealed = channel(LAPTOP, HOUSE).seal(header, BODY)
    for kind, suite in COMBINATIONS[1:]:
        with pytest.raises(NotAuthentic):
            channel(HOUSE, LAPTOP).open(Header(kind, suite, LAPTOP.public_key, NONCE), sealed)


def test_a_key_of_low_order_makes_no_channel() -> None:
    """Neither a channel nor a place in the ring."""
    with pytest.raises(KeyFormatError, match="low order"):
        channel(HOUSE, BROKEN)
    ring = HOUSE.keyring()
    with pytest.raises(KeyFormatError, match="low order"):
        ring.channel(BROKEN.public_key)


def test_the_secret_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring makes one exchange for a peer until it is forgotten."""
    count = 0
    exchange = PrivateKey.exchange

    def counted(self: PrivateKey, peer: PublicKey) -> bytes:
        nonlocal count
        count += 1
        return exchange(self, peer)

    monkeypatch.setattr(PrivateKey, "exchange", counted)
    ring = HOUSE.keyring()
    for _ in range(10):
        ring.channel(LAPTOP.public_key)
    assert count == 1
    ring.forget(LAPTOP.public_key)
    ring.forget(LAPTOP.public_key)
    ring.channel(LAPTOP.public_key)
    assert count == 2


def test_the_ring_is_bounded() -> None:
    """The least recently used channel goes first."""
    ring = Keyring(HOUSE.private, limit=2)
    first, second = ring.channel(LAPTOP.public_key), ring.channel(PHONE.public_key)
    assert ring.channel(LAPTOP.public_key) is first
    ring.channel(PrivateKey.generate(Stream("third")).public_key())
    assert ring.channel(LAPTOP.public_key) is first
    assert ring.channel(PHONE.public_key) is not second


def test_secrets_do_not_show() -> None:
    """Neither representation has a private key or a shared secret in it."""
    made = channel(LAPTOP, HOUSE)
    made.seal(Header(MessageType.REQUEST, 1, LAPTOP.public_key, NONCE), BODY)
    secrets = [LAPTOP.private.exchange(HOUSE.public_key), bytes(LAPTOP.private)]
    for text in (repr(made), str(made), repr(LAPTOP.keyring())):
        for secret in secrets:
            assert repr(secret) not in text
            assert secret.hex() not in text
