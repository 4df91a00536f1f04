"""A private key's file (`anubis/files/keyfile.py`, `anubis/wireguard/keys.py`).

Any bytes are a key that is written again as it stood there, or a ConfigError that shows nothing of
them.
"""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Iterator
from pathlib import Path

from anubis.errors import ConfigError
from anubis.files.keyfile import read_private_key
from tests.vectors.world import HOUSE

RUNS = 3_000
MAX_LENGTH = 1100
TOKENS = (b"=", b"\n", b"A" * 43, b"E=", b"+/")

_DIRECTORY = tempfile.TemporaryDirectory(prefix="anubis-fuzz-")
atexit.register(_DIRECTORY.cleanup)
_PATH = Path(_DIRECTORY.name) / "production.key"
_PATH.touch(0o600)
_SHOWN = 6  # characters of the content that may stand in a message by chance


def run(data: bytes) -> None:
    """Read the input as the whole file."""
    _PATH.write_bytes(data)
    try:
        key = read_private_key(_PATH)
    except ConfigError as error:
        text = data.decode("latin-1")
        message = str(error).replace(str(_PATH), "")
        for begin in range(0, min(200, len(text) - _SHOWN), _SHOWN):
            piece = text[begin : begin + _SHOWN]
            assert piece not in message or piece in _ORDINARY, piece
        return
    assert key.base64() == data.rstrip(b" \t\r\n").decode()
    assert any(bytes(key))
    assert "hidden" in repr(key)
    assert len(bytes(key.public_key())) == 32


def _ordinary() -> str:
    """Return all that is said of a file, whatever is in it."""
    said = []
    for content in (b"x", b"A" * 43 + b"=", b"x" * 2000):
        _PATH.write_bytes(content)
        try:
            read_private_key(_PATH)
        except ConfigError as error:
            said.append(str(error))
    return "".join(said)


_ORDINARY = _ordinary()


def seeds() -> Iterator[bytes]:
    """Give a key, a key with blanks, and what is nearly one."""
    key = HOUSE.private.base64().encode()
    yield from (key + b"\n", key, key + b" \r\n\n", b" " + key, key[:-1], key + key,
                b"A" * 43 + b"=", b"A" * 42 + b"B=", b"\xff" * 44, b"", b"#" + key,
                b"x" * 1025)  # fmt: skip
