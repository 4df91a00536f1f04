"""WireGuard's keys as text, as secrets and as mathematics."""

from __future__ import annotations

import base64
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.wireguard.errors import KeyFormatError
from anubis.wireguard.keys import PresharedKey, PrivateKey, PublicKey

# RFC 7748 section 6.1
ALICE = PrivateKey.from_base64(
    base64.b64encode(
        bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    ).decode()
)
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB = PrivateKey(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

# The points of small order of Curve25519, and the same not reduced modulo 2^255 - 19.
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def test_the_mathematics_is_rfc_7748() -> None:
    """Public keys and shared secrets are those of the RFC's example."""
    assert bytes(ALICE.public_key()).hex() == ALICE_PUBLIC
    assert ALICE.exchange(BOB.public_key()).hex() == SHARED
    assert BOB.exchange(ALICE.public_key()).hex() == SHARED


def test_text_and_public_key_are_those_of_wg() -> None:
    """wg(8) reads our private key and gets the same public one."""
    done = subprocess.run(
        ["wg", "pubkey"], input=ALICE.base64(), capture_output=True, text=True, check=True
    )
    assert ALICE.public_key().base64() == done.stdout.strip()


def test_generated_keys_are_clamped() -> None:
    """As `wg genkey` does: bits 0 to 2 and 255 are clear, bit 254 is set."""
    for fill in (0x00, 0xFF):
        raw = bytes(PrivateKey.generate(lambda size, fill=fill: bytes([fill]) * size))  # type: ignore[misc]
        assert (raw[0] & 7, raw[31] >> 6) == (0, 1)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_points_share_no_secret(point: str) -> None:
    """A public key that would force the secret to zero is refused, whatever the library raises."""
    with pytest.raises(KeyFormatError, match="low order"):
        ALICE.exchange(PublicKey(bytes.fromhex(point)))


@given(st.binary(min_size=32, max_size=32))
def test_text_round_trip(raw: bytes) -> None:
    """44 characters stand for 32 bytes, and back."""
    text = PublicKey(raw).base64()
    assert len(text) == 44
    assert bytes(PublicKey.from_base64(text)) == raw


def test_one_key_has_one_text() -> None:
    """Base64 that differs only in bits that belong to no byte is refused, though it decodes."""
    text = PublicKey(bytes(32)).base64()
    other = text[:42] + "B="
    assert base64.b64decode(other, validate=True) == bytes(32)
    with pytest.raises(KeyFormatError, match="canonical"):
        PublicKey.from_base64(other)


@given(st.text(max_size=60))
def test_other_texts_are_refused(text: str) -> None:
    """Any text is a key or a KeyFormatError."""
    try:
        key = PublicKey.from_base64(text)
    except KeyFormatError:
        return
    assert key.base64() == text


@pytest.mark.parametrize("text", ["", "A" * 43, "A" * 44, "A" * 43 + "=\n", " " + "A" * 43 + "="])
def test_near_misses_are_refused(text: str) -> None:
    """Missing padding, another length and spaces are refused."""
    with pytest.raises(KeyFormatError):
        PublicKey.from_base64(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_only_32_bytes_are_a_key(size: int) -> None:
    """Another size is refused, with both numbers."""
    with pytest.raises(KeyFormatError, match=f"32 bytes, not {size}"):
        PrivateKey(bytes(size))


def test_secrets_do_not_show() -> None:
    """Neither repr nor str nor a format shows a private or preshared key."""
    raw = bytes(range(32))
    for secret in (PrivateKey(raw), PresharedKey(raw)):
        shown = f"{secret} {secret!r} {[secret]}"
        assert base64.b64encode(raw).decode() not in shown
        assert raw.hex() not in shown
        assert str(list(raw))[1:-1] not in shown


def test_public_keys_show() -> None:
    """A public key prints as wg(8) prints it."""
    key = ALICE.public_key()
    assert str(key) == key.base64()
    assert repr(key) == f"PublicKey({key.base64()})"


def test_kinds_are_never_equal() -> None:
    """The same bytes are equal as the same kind of key, and another key as another kind."""
    raw = bytes(range(32))
    assert PublicKey(raw) == PublicKey(raw)
    assert hash(PublicKey(raw)) == hash(PublicKey(raw))
    kinds = {PublicKey(raw), PrivateKey(raw), PresharedKey(raw)}
    assert len(kinds) == 3
    assert PublicKey(raw) != PrivateKey(raw)
    assert PrivateKey(raw) != PresharedKey(raw)
    assert PublicKey(raw) != raw
