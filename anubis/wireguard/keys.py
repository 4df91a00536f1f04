"""X25519 and preshared keys as WireGuard writes them.

Owns the text form (canonical base64) and the rule that secrets never show themselves; refuses to
know where keys are stored. Comparison across kinds is false, and secrets compare in constant time.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from typing import Self

from anubis.wireguard.errors import KeyFormatError

__all__ = ["KEY_SIZE", "PresharedKey", "PrivateKey", "PublicKey"]

KEY_SIZE = 32  # bytes; RFC 7748, WireGuard paper section 5.4


class _Key:
    """32 bytes with a canonical base64 form."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_SIZE:
            raise KeyFormatError(f"a key has {KEY_SIZE} bytes, not {len(raw)}")
        self._raw = bytes(raw)

    @classmethod
    def from_base64(cls, text: str) -> Self:
        """Parse `wg`'s form: exactly 44 characters. Raises KeyFormatError."""
        try:
            raw = base64.b64decode(text.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error):
            raise KeyFormatError("not base64") from None
        # b64decode ignores trailing bits that do not belong to any byte: one key, one text.
        if len(raw) == KEY_SIZE and base64.b64encode(raw).decode("ascii") != text:
            raise KeyFormatError("not the canonical base64 of a key")
        return cls(raw)

    def base64(self) -> str:
        """Return the key as `wg` prints it, 44 characters."""
        return base64.b64encode(self._raw).decode("ascii")

    def __bytes__(self) -> bytes:
        return self._raw

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Key) or type(other) is not type(self):
            return NotImplemented
        return hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> int:
        return hash((type(self), self._raw))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hidden)"


class PublicKey(_Key):
    """The static public key that names a WireGuard peer."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"PublicKey({self.base64()})"

    def __str__(self) -> str:
        return self.base64()


class PresharedKey(_Key):
    """The optional symmetric key of a peer (WireGuard paper, section 5.2)."""

    __slots__ = ()


class PrivateKey(_Key):
    """An X25519 private key, clamped as `wg genkey` does."""

    __slots__ = ()

    @classmethod
    def generate(cls, random: Callable[[int], bytes]) -> Self:
        """Make a new key from `random(32)`, clamped as RFC 7748 section 5 says."""
        raw = bytearray(random(KEY_SIZE))
        raw[0] &= 248
        raw[31] = (raw[31] & 127) | 64
        return cls(bytes(raw))

    def public_key(self) -> PublicKey:
        """Compute the public key."""
        from nacl.bindings import crypto_scalarmult_base  # noqa: PLC0415  keeps key text light

        return PublicKey(crypto_scalarmult_base(self._raw))

    def exchange(self, peer: PublicKey) -> bytes:
        """Return the X25519 shared secret, 32 bytes.

        Raises KeyFormatError if it is all zero, which only a key of low order can cause (RFC 7748
        section 6.1); libraries disagree about the exception, so it is mapped here, once.
        """
        from nacl.bindings import crypto_scalarmult  # noqa: PLC0415  keeps key text light
        from nacl.exceptions import CryptoError  # noqa: PLC0415

        try:
            secret = crypto_scalarmult(self._raw, bytes(peer))
        except (CryptoError, RuntimeError, ValueError):
            secret = bytes(KEY_SIZE)
        if hmac.compare_digest(secret, bytes(KEY_SIZE)):
            raise KeyFormatError(f"{peer} is a key of low order and shares no secret")
        return secret
