"""A second implementation of the bytes and keys of `docs/protocol.md`, to check the first against.

Written from the document. Imports nothing of Anubis and shares no primitive with it where another
can be had: X25519, HKDF and AES-GCM are cryptography's (the GCM not through its AEAD class),
XChaCha20-Poly1305 is an HChaCha20 of its own in front of cryptography's ChaCha20-Poly1305.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HASHES = {1: "blake2s", 2: "sha256"}
TYPES = {"request": 1, "reply": 2}


@dataclass(frozen=True)
class Keys:
    """Every value on the way from two keys to the key of one datagram."""

    shared_secret: bytes
    extracted_key: bytes
    direction_key: bytes
    message_key: bytes | None  # suite 2 only


def public_key(private: bytes) -> bytes:
    """Section 8."""
    public = X25519PrivateKey.from_private_bytes(private).public_key()
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def shared_secret(private: bytes, peer: bytes) -> bytes:
    """Section 8; all zero for a key of low order."""
    try:
        own = X25519PrivateKey.from_private_bytes(private)
        return own.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        return bytes(32)


def keys(secret: bytes, header: bytes, receiver: bytes) -> Keys:
    """Section 8: the keys of the datagram with this header."""
    version, kind, suite = header[0], header[1], header[2]
    name = HASHES[suite]
    algorithm: hashes.HashAlgorithm = hashes.BLAKE2s(32) if suite == 1 else hashes.SHA256()
    salt = b"anubis v1 extract"
    info = b"anubis v1 direction key" + bytes([version, kind, suite]) + header[4:36] + receiver
    direction = HKDF(algorithm, 32, salt, info).derive(secret)
    message = None
    if suite == 2:
        label = b"anubis v1 aes-256-gcm message key"
        message = hmac.new(direction, label + header[36:48], "sha256").digest()
    return Keys(secret, hmac.new(salt, secret, name).digest(), direction, message)


def seal(key: Keys, header: bytes, body: bytes) -> bytes:
    """Section 7: return the whole datagram."""
    nonce = header[36:60]
    if key.message_key is None:
        inner = ChaCha20Poly1305(hchacha20(key.direction_key, nonce[:16]))
        return header + inner.encrypt(bytes(4) + nonce[16:], body, header)
    encryptor = Cipher(algorithms.AES(key.message_key), modes.GCM(nonce[12:])).encryptor()
    encryptor.authenticate_additional_data(header)
    return header + encryptor.update(body) + encryptor.finalize() + encryptor.tag


def unseal(key: Keys, datagram: bytes) -> bytes | None:
    """Section 7: return the body, or None if it is not authentic."""
    header, sealed, tag = datagram[:60], datagram[60:-16], datagram[-16:]
    nonce = header[36:60]
    try:
        if key.message_key is None:
            inner = ChaCha20Poly1305(hchacha20(key.direction_key, nonce[:16]))
            return inner.decrypt(bytes(4) + nonce[16:], sealed + tag, header)
        decryptor = Cipher(algorithms.AES(key.message_key), modes.GCM(nonce[12:], tag)).decryptor()
        decryptor.authenticate_additional_data(header)
        return decryptor.update(sealed) + decryptor.finalize()
    except InvalidTag:
        return None


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """draft-irtf-cfrg-xchacha-03, section 2.2: 32-byte key and 16-byte nonce to a 32-byte key."""
    state = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) & 0xFFFFFFFF
            mixed = state[z] ^ state[x]
            state[z] = ((mixed << turn) | (mixed >> (32 - turn))) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, column + 4, column + 8, column + 12)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def tai64n(unix_ns: int) -> bytes:
    """Section 2: a time."""
    return struct.pack(">QI", 2**62 + 10 + unix_ns // 10**9, unix_ns % 10**9)


def header(kind: str, suite: int, sender: bytes, nonce: bytes) -> bytes:
    """Section 3."""
    return bytes([1, TYPES[kind], suite, 0]) + sender + nonce


def options(body: bytes, kind: str) -> list[tuple[int, bytes]]:
    """Section 6: the options of a well-formed body, in their order."""
    rest = body[32 if kind == "request" else 36 :]
    found = []
    while rest:
        found.append((rest[0], rest[2 : 2 + rest[1]]))
        rest = rest[2 + rest[1] :]
    return found


def request_body(request_id: bytes, unix_ns: int, verb: int, *tlvs: tuple[int, bytes]) -> bytes:
    """Section 4."""
    return request_id + tai64n(unix_ns) + bytes([verb, 0, 0, 0]) + _tlvs(tlvs)


def reply_body(
    request_id: bytes, unix_ns: int, result: int, state: int, lease: int, *tlvs: tuple[int, bytes]
) -> bytes:
    """Section 5."""
    fixed = request_id + tai64n(unix_ns) + bytes([result, state, 0, 0]) + lease.to_bytes(4, "big")
    return fixed + _tlvs(tlvs)


def _tlvs(tlvs: tuple[tuple[int, bytes], ...]) -> bytes:
    return b"".join(bytes([kind, len(value)]) + value for kind, value in tlvs)


def control_identifier(control_public: bytes) -> bytes:
    """Section 12: the last 8 bytes of both control addresses."""
    label = b"anubis control address v1"
    return hashlib.blake2s(control_public, digest_size=8, key=label).digest()
