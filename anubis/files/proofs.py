"""What makes an answer to an invitation worth something, with nothing to keep for it. Pure.

Owns the code of an invitation, which only its gateway can make, and the proof of that code over the
keys of both ends: keys that somebody put into an answer on its way are noticed, and so is an answer
to an invitation that is void. Refuses to know how either travels (`invitation`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from anubis.files.ini import BadValue, squeeze
from anubis.files.peer_checks import OwnKeys
from anubis.wireguard.keys import PrivateKey

__all__ = ["code", "is_proven", "proof", "secret"]

_CODE_LABEL = b"anubis invite v1"  # 16 bytes, as BLAKE2s has room for
_PROOF_LABEL = b"anubis answer v1"
_SIZE = 15  # bytes: 120 bits, and no padding in base 32
_SECRET = re.compile(r"[a-z2-7]{24}")


def code(control_key: PrivateKey, number: str, name: str) -> str:
    """Return the code of an invitation: 24 characters, of 120 bits.

    BLAKE2s-120(key = the gateway's control private key, salt and person = the label, message =
    the number of the invitation, 8 bytes, and the name).
    """
    return _digest(bytes(control_key), _CODE_LABEL, bytes.fromhex(number) + name.encode())


def proof(code: str, name: str, laptop: OwnKeys, gateway: OwnKeys) -> str:
    """Return what proves that whoever sends these keys has the code: 24 characters, of 120 bits.

    BLAKE2s-120(key = the code, salt and person = the label, message = the production and the
    control public key of the laptop, those of the gateway, and the name).
    """
    keys = (laptop.production, laptop.control, gateway.production, gateway.control)
    return _digest(code.encode(), _PROOF_LABEL, b"".join(map(bytes, keys)) + name.encode())


def is_proven(given: str, code: str, name: str, laptop: OwnKeys, gateway: OwnKeys) -> bool:
    """Tell whether a proof is the one of these keys, in a time that tells nothing."""
    return hmac.compare_digest(given.encode(), proof(code, name, laptop, gateway).encode())


def secret(text: str) -> str:
    """Parse a code or a proof."""
    text = squeeze(text).lower()
    if not _SECRET.fullmatch(text):
        raise BadValue("not whole", "24 letters and digits")
    return text


def _digest(key: bytes, label: bytes, message: bytes) -> str:
    digest = hashlib.blake2s(
        message, digest_size=_SIZE, key=key, salt=label[:8], person=label[8:]
    ).digest()
    return base64.b32encode(digest).decode("ascii").lower()
