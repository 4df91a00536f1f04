"""The cipher suites: how a secret becomes a key, and how a key seals a body.

Owns the numbered suites of `docs/protocol.md`, section 7. Refuses to know whose keys they are.
Each suite is an HKDF (RFC 5869) for the key of a direction and an AEAD with a nonce of 24 bytes,
long enough to be drawn at random for ever.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

__all__ = ["AES_256_GCM", "SUITES", "XCHACHA20_POLY1305", "NotAuthentic", "Suite"]

_EXTRACT_SALT = b"anubis v1 extract"
_MESSAGE_KEY_LABEL = b"anubis v1 aes-256-gcm message key"


class NotAuthentic(ValueError):
    """A sealed body was not made with this key, nonce and header."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One numbered suite. Keys have 32 bytes, nonces 24; a sealed body is 16 bytes longer."""

    number: int
    name: str
    hash_name: str
    seal: Callable[[bytes, bytes, bytes, bytes], bytes]  # key, nonce, plaintext, associated data
    open: Callable[[bytes, bytes, bytes, bytes], bytes]  # raises NotAuthentic

    def derive(self, secret: bytes, info: bytes) -> bytes:
        """Derive 32 bytes: HKDF-Extract, then the first block of HKDF-Expand (RFC 5869)."""
        extracted = hmac.digest(_EXTRACT_SALT, secret, self.hash_name)
        return hmac.digest(extracted, info + b"\x01", self.hash_name)


def _seal_xchacha(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    return bytes(crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, associated, nonce, key))


def _open_xchacha(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    try:
        return bytes(crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, associated, nonce, key))
    except (CryptoError, ValueError):  # ValueError: shorter than a tag
        raise NotAuthentic("the tag does not fit") from None


def _message_key(key: bytes, nonce: bytes) -> AESGCM:
    """Half of the nonce selects a key, so that GCM's own 12 bytes need not bear all messages."""
    return AESGCM(hmac.digest(key, _MESSAGE_KEY_LABEL + nonce[:12], "sha256"))


def _seal_aes(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    return _message_key(key, nonce).encrypt(nonce[12:], plaintext, associated)


def _open_aes(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    try:
        return _message_key(key, nonce).decrypt(nonce[12:], sealed, associated)
    except InvalidTag:
        raise NotAuthentic("the tag does not fit") from None


XCHACHA20_POLY1305 = Suite(1, "xchacha20-poly1305", "blake2s", _seal_xchacha, _open_xchacha)
AES_256_GCM = Suite(2, "aes-256-gcm", "sha256", _seal_aes, _open_aes)

SUITES = {suite.number: suite for suite in (XCHACHA20_POLY1305, AES_256_GCM)}
