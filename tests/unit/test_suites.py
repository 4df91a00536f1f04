"""Suites: the published primitives, and nothing opens that was touched."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anubis.protocol.suites import AES_256_GCM, SUITES, XCHACHA20_POLY1305, NotAuthentic, Suite

KEY = bytes(range(0x80, 0xA0))
NONCE = bytes(range(0x40, 0x58))
BOTH = pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)

# draft-irtf-cfrg-xchacha-03, appendix A.3.1
SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
SUNSCREEN_AD = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
SUNSCREEN_SEALED = bytes.fromhex(
    "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
    "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
    "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
    "21f9664c97637da9768812f615c68b13b52e"
    "c0875924c1c7987947deafd8780acf49"
)


def test_suite_1_is_the_published_aead() -> None:
    """The example of draft-irtf-cfrg-xchacha-03, A.3.1."""
    sealed = XCHACHA20_POLY1305.seal(KEY, NONCE, SUNSCREEN, SUNSCREEN_AD)
    assert sealed == SUNSCREEN_SEALED
    assert XCHACHA20_POLY1305.open(KEY, NONCE, sealed, SUNSCREEN_AD) == SUNSCREEN


def test_suite_2_is_gcm_under_a_key_for_the_message() -> None:
    """The key follows from the first 12 bytes of the nonce, the rest is GCM's own."""
    label = b"anubis v1 aes-256-gcm message key"
    message_key = hmac.new(KEY, label + NONCE[:12], hashlib.sha256).digest()
    expected = AESGCM(message_key).encrypt(NONCE[12:], b"body", b"header")
    assert AES_256_GCM.seal(KEY, NONCE, b"body", b"header") == expected


def test_hkdf_is_rfc_5869() -> None:
    """Deriving is HKDF-SHA256 with our salt: extract, then the first block of expand."""
    extracted = hmac.new(b"anubis v1 extract", b"secret", hashlib.sha256).digest()
    expected = hmac.new(extracted, b"info\x01", hashlib.sha256).digest()
    assert AES_256_GCM.derive(b"secret", b"info") == expected


def test_suites_derive_different_keys() -> None:
    """The same secret and info give each suite its own key."""
    assert len({suite.derive(bytes(32), b"info") for suite in SUITES.values()}) == len(SUITES)


@BOTH
def test_a_sealed_body_is_16_bytes_longer(suite: Suite) -> None:
    """Every length of body, also none, opens to itself and grows by the tag."""
    for size in (0, 1, 15, 16, 17, 64, 1172):
        sealed = suite.seal(KEY, NONCE, bytes(size), b"header")
        assert len(sealed) == size + 16
        assert suite.open(KEY, NONCE, sealed, b"header") == bytes(size)


@BOTH
def test_no_bit_can_be_changed(suite: Suite) -> None:
    """A flipped bit of the sealed body, nonce, key or associated data does not open."""
    sealed = suite.seal(KEY, NONCE, b"a body", b"a header")
    parts = [KEY, NONCE, sealed, b"a header"]
    for index, part in enumerate(parts):
        for bit in range(8 * len(part)):
            touched = bytearray(part)
            touched[bit // 8] ^= 1 << bit % 8
            tried = [*parts[:index], bytes(touched), *parts[index + 1 :]]
            with pytest.raises(NotAuthentic):
                suite.open(*tried)


@BOTH
def test_what_is_too_short_does_not_open(suite: Suite) -> None:
    """Less than a tag is refused like any other forgery."""
    for size in range(17):
        with pytest.raises(NotAuthentic):
            suite.open(KEY, NONCE, bytes(size), b"")
