"""The answers of an HTTP/1.1 server (RFC 9112) read from a socket: one request, one answer.

The standard library's `http.client` costs as much start-up time again as all else that `anubis`
imports, because it parses headers as e-mail. Owns framing, bounds and the deadline; refuses to
know what is in a body.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

__all__ = ["Answer", "Garbage", "Silence"]

MAX_HEAD = 65536  # bytes of status line and headers, and of any line of the framing
MAX_BODY = 64 * 2**20  # bytes
_CHUNK = 65536


class Garbage(ValueError):
    """The answer is no HTTP, or is longer than it may be."""


class Silence(TimeoutError):
    """Nothing came within the time allowed."""


class Answer:
    """The answer that comes through a connected socket; made when its head has been read.

    `silence` is how long, in seconds, the other end may take for the head, and then for each
    line of the body. Raises Garbage, Silence, ConnectionAbortedError if the answer breaks off, or
    the socket's OSError, here and in `lines`.
    """

    def __init__(self, connection: socket.socket, silence: float) -> None:
        self._connection = connection
        self._silence = silence
        self._buffer = bytearray()
        self._rearm()
        self.status = self._read_status()
        self.headers = dict(self._read_headers())

    def lines(self, *, endless: bool = False) -> Iterator[bytes]:
        """Read the body line by line, each within `silence` seconds of the one before it.

        One that may be `endless` is bounded line by line, any other as a whole.
        """
        line = bytearray()
        size = 0
        self._rearm()
        for piece in self._pieces():
            size += len(piece)
            if size > MAX_BODY:
                raise Garbage(f"an answer of more than {MAX_BODY} bytes")
            *ends, rest = piece.split(b"\n")
            for end in ends:
                yield bytes(line + end)
                line.clear()
                self._rearm()
                if endless:
                    size = len(rest)
            line += rest
        if line:
            yield bytes(line)

    def _rearm(self) -> None:
        self._deadline = time.monotonic() + self._silence

    def _pieces(self) -> Iterator[bytes]:
        """Read the body as its framing has it (RFC 9112 section 6.3)."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := self._number(self._line().partition(b";")[0], 16):
                yield from self._exactly(size)
                if self._line():
                    raise Garbage("a chunk is longer than announced")
            return
        if "content-length" in self.headers:
            yield from self._exactly(self._number(self.headers["content-length"].encode(), 10))
            return
        raise Garbage("an answer of unknown length")

    def _read_status(self) -> int:
        version, _, rest = self._line().partition(b" ")
        if not version.startswith(b"HTTP/1."):
            raise Garbage("not HTTP/1.1")
        return self._number(rest.partition(b" ")[0], 10)

    def _read_headers(self) -> Iterator[tuple[str, str]]:
        size = 0
        while line := self._line():
            size += len(line) + 2
            if size > MAX_HEAD:
                raise Garbage(f"headers of more than {MAX_HEAD} bytes")
            name, _, value = line.decode("latin-1").partition(":")
            yield name.lower(), value.strip()

    def _number(self, text: bytes, base: int) -> int:
        digits = text.strip()
        if not digits.isalnum() or len(digits) > 16:
            raise Garbage(f"not a number: {digits[:16]!r}")
        try:
            return int(digits, base)
        except ValueError as error:
            raise Garbage(str(error)) from None

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise Garbage(f"a line of more than {MAX_HEAD} bytes")
            self._fill()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._buffer:
                self._fill()
            piece = bytes(self._buffer[:size])
            del self._buffer[:size]
            size -= len(piece)
            yield piece

    def _fill(self) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise Silence
        self._connection.settimeout(remaining)
        try:
            received = self._connection.recv(_CHUNK)
        except TimeoutError:
            raise Silence from None
        if not received:
            raise ConnectionAbortedError("the answer breaks off")
        self._buffer += received
