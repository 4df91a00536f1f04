"""The token of a peer: what its owner has, and a stranger behind its address has not.

WireGuard proves which peer a request comes from, but not who is behind that peer: a computer that a
phone shares its network with, or a page that the phone's browser has open. Owns how the token comes
of the gateway's control key and the peer's, so that nothing is stored and a new key of either makes
a new one. Refuses to know how it travels.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from anubis.wireguard.keys import PrivateKey, PublicKey

__all__ = ["TOKEN_LENGTH", "is_token", "token"]

_LABEL = b"anubis web token"  # 16 bytes, as BLAKE2s has room for
_SIZE = 15  # bytes: 120 bits, and no padding in base 32
TOKEN_LENGTH = 24  # characters


def token(own: PrivateKey, peer: PublicKey) -> str:
    """Return the token of a peer: 24 lower-case letters and digits, of 120 bits.

    BLAKE2s-120(key = our private key, salt and person = the label, message = its public key).
    """
    digest = hashlib.blake2s(
        bytes(peer), digest_size=_SIZE, key=bytes(own), salt=_LABEL[:8], person=_LABEL[8:]
    ).digest()
    return base64.b32encode(digest).decode("ascii").lower()


def is_token(text: str, own: PrivateKey, peer: PublicKey) -> bool:
    """Tell whether a text is the token of a peer, in a time that tells nothing."""
    return hmac.compare_digest(text.encode(errors="replace"), token(own, peer).encode("ascii"))
