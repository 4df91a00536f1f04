"""The layout of datagrams and bodies (`anubis/protocol/wire.py`, `options.py`).

Any bytes are a value or `Malformed` with a stated reason. What was read is written as bytes that
read the same again, but for options that nobody understood and for texts that had to be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from anubis.protocol.wire import HEADER_SIZE, MAX_DATAGRAM, Header, Malformed, Reply, Request
from tests.fuzz.tools import Input
from tests.vectors.vectorfile import load_all

RUNS = 80_000
MAX_LENGTH = 1300
TOKENS: tuple[bytes, ...] = ()

_T = TypeVar("_T")
_REASONS = {"bad_size", "unknown_version", "unknown_type", "reserved_bits", "malformed"}


def run(data: bytes) -> None:
    """Read the input as one of the three, which its first byte chooses."""
    given = Input(data)
    which, body = given.number() % 3, given.rest()
    if which == 0:
        header = _decode(Header.decode, body)
        assert header is None or header.encode() == body[:HEADER_SIZE]
    elif which == 1:
        request = _decode(Request.decode, body)
        if request is not None:
            texts = request.reason + (request.subject or "")
            assert texts.isprintable(), "a terminal would be upset"
            again = Request.decode(request.encode())
            assert request.reason.startswith(again.reason)
            assert again == replace(request, unknown_critical=(), reason=again.reason)
            assert Request.decode(again.encode()) == again
    else:
        reply = _decode(Reply.decode, body)
        if reply is not None and len(body) <= MAX_DATAGRAM:
            texts = reply.reason + "".join(reply.waiting)
            assert texts.isprintable(), "a terminal would be upset"
            again_ = Reply.decode(reply.encode(limit=2 * MAX_DATAGRAM))
            assert reply.reason.startswith(again_.reason)
            assert again_ == replace(reply, unknown_critical=(), reason=again_.reason)
            assert len(reply.encode()) <= MAX_DATAGRAM


def _decode(read: Callable[[bytes], _T], data: bytes) -> _T | None:
    try:
        return read(data)
    except Malformed as error:
        assert error.reason in _REASONS, error.reason
        return None


def seeds() -> Iterator[bytes]:
    """Give the datagrams and bodies of the vectors."""
    for blocks in load_all().values():
        for block in blocks:
            if "datagram" in block:
                yield b"\0" + bytes.fromhex(block["datagram"])
            if "body" in block:
                yield b"\1" + bytes.fromhex(block["body"])
                yield b"\2" + bytes.fromhex(block["body"])
