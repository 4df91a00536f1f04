"""The history that a daemon finds when it starts (`anubis/daemon/chronicle.py`).

Any bytes are a history; a start never fails for it. A line that is whole is read whatever stands
before and behind it. What was read is within its bounds, can be told, and written again it reads
the same.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from anubis.cli.happenings import line
from anubis.daemon.chronicle import Chronicle
from anubis.happening import Happening
from anubis.history import Bounds

RUNS = 4_000
MAX_LENGTH = 4000
TOKENS = (
    b'"event": ', b'"at": ', b'"first_at": ', b'"connection": ', b'"detail": ', b'"count": ',
    b"null", b"true", b"NaN", b"1e999", b'"refused"', b'"renewed"', b'"up"', b"\\ud800", b"\n",
)  # fmt: skip

_DIRECTORY = tempfile.TemporaryDirectory(prefix="anubis-fuzz-")
atexit.register(_DIRECTORY.cleanup)
_PATH, _AGAIN = (Path(_DIRECTORY.name) / name for name in ("history", "again"))
_WHOLE = Happening("down", 2.0, 2.0, "planted", {"reason": "expired"})
_LINE = b"\n" + json.dumps(_WHOLE.to_json()).encode() + b"\n"
_BOUNDS = Bounds()
logging.getLogger("anubis").setLevel(logging.ERROR)


def run(data: bytes) -> None:
    """Start with the input as the file, and with a whole line in its middle."""
    middle = len(data) // 2
    found = _read(_PATH, data[:middle] + _LINE + data[middle:])
    assert _WHOLE in found
    assert len(found) <= _BOUNDS.entries
    for each in found:
        assert line(each).isprintable()
    written = b"".join(json.dumps(each.to_json()).encode() + b"\n" for each in found)
    again = _read(_AGAIN, written)
    assert [each.to_json() for each in again] == [each.to_json() for each in found]


def _read(path: Path, content: bytes) -> list[Happening]:
    path.write_bytes(content)

    async def read() -> list[Happening]:
        chronicle = Chronicle(path, lambda: 0.0)
        chronicle.load()
        return list(chronicle.history)

    return asyncio.run(read())


def seeds() -> Iterator[bytes]:
    """Give a history in order, one that is torn, and what is none."""
    entries = (
        Happening("up", 1.5, 1.5, "jacinth", {"role": "initiator", "lease": 28800}),
        Happening("renewed", 2.0, 9.0, "jacinth", {"lease": 28800}, 3),
        Happening("vanished", 3.0, 3.0, None, {"what": "IPv4 rule 21430", "took": 4.9}),
        Happening("down", 9.5, 9.5, "jacinth", {"reason": "\x1b[31m\ud800"}),
    )
    whole = b"".join(json.dumps(each.to_json()).encode() + b"\n" for each in entries)
    yield whole
    yield whole + whole[: len(whole) // 3]
    yield whole.replace(b'"count": 3', b'"count": 1' + b"0" * 500)
    yield whole.replace(b"1.5", b"NaN").replace(b"9.5", b"1" + b"0" * 400)
    yield b"[" * 1900 + b"\n{}\n\xff\xfe\n5\n" + whole[:100]
    yield b""
