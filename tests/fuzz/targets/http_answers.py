"""What the command line reads from the daemon's socket (`anubis/http_reader.py`, `client.py`).

Whatever is answered, in whatever pieces: the client returns what it was asked for or raises an
AnubisError, and how the bytes were cut into pieces makes no difference.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import cast

from anubis.client import Client
from anubis.errors import AnubisError
from anubis.events import ConnectionStatus, ErrorEvent, Result, Step, event_to_json
from tests.fuzz.tools import Input

RUNS = 8_000
MAX_LENGTH = 700
TOKENS = (
    b"HTTP/1.1 200 OK\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"\r\n\r\n",
    b"\r\n0\r\n\r\n", b"ffffffffffffffff", b'{"connections": [', b'{"event": "step", ', b"\n", b";",
    b'"elapsed_ms": ', b"1e999", b"NaN",
)  # fmt: skip


class _Wire:
    """A connected socket, as far as the client uses one, at whose other end is the input."""

    def __init__(self, answer: bytes, size: int) -> None:
        self._answer = answer
        self._size = size  # of each piece
        self._place = 0

    def __enter__(self) -> _Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._place = len(self._answer)

    def settimeout(self, seconds: float) -> None:
        """Take a deadline, which a wire that never waits keeps."""
        assert seconds > 0

    def sendall(self, request: bytes) -> None:
        """Listen to nothing."""

    def recv(self, size: int) -> bytes:
        """Return the next piece."""
        piece = self._answer[self._place : self._place + min(size, self._size)]
        self._place += len(piece)
        return piece


class _FuzzedClient(Client):
    def __init__(self, answer: bytes, size: int) -> None:
        super().__init__("/nowhere", timeout=60.0)
        self._wire = _Wire(answer, size)

    def _connect(self) -> socket.socket:
        return cast("socket.socket", self._wire)


def run(data: bytes) -> None:
    """Give the input as the answer to `status` or `up`, at once and in small pieces."""
    given = Input(data)
    verb, size = given.choice(("status", "up")), 1 + given.number() % 64
    answer = given.rest()
    assert _outcome(verb, answer, size) == _outcome(verb, answer, 1 << 20)


def _outcome(verb: str, answer: bytes, size: int) -> str:
    client, steps = _FuzzedClient(answer, size), list[Step]()
    try:
        if verb == "status":
            found = client.status()
            assert all(isinstance(each, ConnectionStatus) for each in found)
            return repr(found)
        return repr((client.up("jacinth", on_step=steps.append), steps))
    except AnubisError as error:
        assert error.message
        return repr((type(error), error.message, error.hint, steps))


def seeds() -> Iterator[bytes]:
    """Give an answer of each kind and framing, and answers that break off."""
    status = json.dumps({"connections": [ConnectionStatus("surya", "down").to_json()]}).encode()
    step, result, error = (
        json.dumps(event_to_json(event)).encode() + b"\n"
        for event in (
            Step("control", 1.5),
            Result("jacinth", "up", "done", 60),
            ErrorEvent("refused", "no", None, "busy"),
        )
    )
    ok, no = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 409 Conflict\r\nServer: anubis\r\n"
    for size in (b"\x06", b"\0"):
        yield b"\0" + size + ok + b"Content-Length: %d\r\n\r\n" % len(status) + status
        yield b"\0" + size + ok + b"Content-Length: %d\r\n\r\n" % (len(status) + 1) + status
        yield b"\1" + size + no + b"Content-Length: %d\r\n\r\n" % len(error) + error
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (step, step[:9], step[9:], result))
        yield b"\1" + size + ok + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        yield b"\1" + size + ok + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}x\r\n"
        yield b"\1" + size + ok + b"\r\n" + error
        yield b"\1" + size + b"SSH-2.0-OpenSSH\r\n"
        huge = step.replace(b"1.5", b"1" + b"0" * 400)
        yield b"\1" + size + ok + b"Content-Length: %d\r\n\r\n" % len(huge) + huge
