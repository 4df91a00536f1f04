"""The watermarks that a daemon finds when it starts (`anubis/daemon/watermarks.py`).

Any bytes in either file are watermarks; a start never fails for them. A record that is whole is
read whatever stands before and behind it at record's distance, and of several the newest counts.
"""

from __future__ import annotations

import atexit
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from anubis.daemon.watermarks import Watermarks
from anubis.wireguard.keys import PublicKey
from tests.fuzz.tools import Input
from tests.vectors.world import LAPTOP, PHONE, T0

RUNS = 8_000
MAX_LENGTH = 500
TOKENS: tuple[bytes, ...] = ()

_SIZE = 48  # bytes of a record: key, time, checksum
_DIRECTORY = tempfile.TemporaryDirectory(prefix="anubis-fuzz-")
atexit.register(_DIRECTORY.cleanup)
_MAIN, _SUBSTITUTE = (Path(_DIRECTORY.name) / name for name in ("main", "substitute"))


class _Nothing:
    """A responder that has seen nobody."""

    forgotten_ns = 0

    def watermarks(self) -> Mapping[PublicKey, int]:
        """Return none."""
        return {}

    risen = watermarks


def run(data: bytes) -> None:
    """Start with the two parts of the input as the two files; some of it with right checksums."""
    given = Input(data)
    mends, main = given.number() % 2, given.piece()
    contents = (main, given.rest())
    if mends:
        contents = (_mended(contents[0]), _mended(contents[1]))
    _MAIN.write_bytes(contents[0])
    _SUBSTITUTE.write_bytes(contents[1])
    found = Watermarks(_MAIN, _SUBSTITUTE, _Nothing()).load()
    assert found == _expected(contents)


def _mended(content: bytes) -> bytes:
    """Give every second record its checksum."""
    mended = bytearray(content)
    for begin in range(0, len(content) - _SIZE + 1, 2 * _SIZE):
        check = zlib.crc32(mended[begin : begin + 44]).to_bytes(4)
        mended[begin + 44 : begin + _SIZE] = check
    return bytes(mended)


def _expected(contents: tuple[bytes, bytes]) -> tuple[dict[PublicKey, int], int]:
    """Read the files in another way."""
    found: dict[PublicKey, list[int]] = {}
    for content in contents:
        whole = len(content) - len(content) % _SIZE
        for record in (content[at : at + _SIZE] for at in range(0, whole, _SIZE)):
            if zlib.crc32(record[:44]) == int.from_bytes(record[44:]):
                time_ns = int.from_bytes(record[32:44], signed=True)
                found.setdefault(PublicKey(record[:32]), []).append(time_ns)
    forgotten = max(found.pop(PublicKey(bytes(32)), [0]))
    return {key: max(times) for key, times in found.items()}, forgotten


def _record(key: bytes, unix_ns: int) -> bytes:
    record = key + unix_ns.to_bytes(12, signed=True)
    return record + zlib.crc32(record).to_bytes(4)


def seeds() -> Iterator[bytes]:
    """Give files in order, with a damaged record, cut short, and with one key twice."""
    one, two = _record(bytes(LAPTOP.public_key), T0), _record(bytes(PHONE.public_key), T0 - 1)
    older, forgotten = _record(bytes(LAPTOP.public_key), -T0), _record(bytes(32), T0)
    for mends in (b"\0", b"\1"):
        yield mends + len(one + two).to_bytes(2) + one + two + forgotten
        yield mends + len(one + older).to_bytes(2) + one + older + two[:20]
        yield mends + len(one + two).to_bytes(2) + one[:-1] + b"\0" + two + one
        yield mends + b"\0\0" + one[:47]
