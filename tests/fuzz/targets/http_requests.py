"""The daemon's HTTP server (`anubis/daemon/api.py`, `http.py`), aiohttp and its parser included.

Whatever a caller sends, in whatever pieces: all that comes back are whole HTTP answers with a
documented status and JSON in them, that do not tell what software serves; nothing is asked of the
daemon but what a documented call may ask for; no error is logged; and when the caller has left,
nothing of it is left.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anubis.daemon.api import ApiServer, Report
from anubis.daemon.aside import Aside
from anubis.daemon.audience import Audience
from anubis.daemon.calls import Terms
from anubis.daemon.http import Server
from anubis.diagnosis import Diagnosis
from anubis.errors import ConfigError, Location, NoAnswer, Problem, UnknownConnection
from anubis.events import (
    LEASE_SECONDS,
    TIMEOUT_SECONDS,
    Approval,
    ConnectionStatus,
    Reloaded,
    Result,
)
from anubis.forecast import Difference, Plan
from anubis.happening import Happening
from tests.fuzz.tools import Input

RUNS = 6_000
MAX_LENGTH = 9500
TOKENS = (
    b"GET /v1/status HTTP/1.1\r\n", b"POST /v1/connections/jacinth/up HTTP/1.1\r\n", b"/down ",
    b"/switch ", b"POST /v1/reload HTTP/1.1\r\n", b"POST /v1/approve HTTP/1.1\r\n",
    b"Host: a\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n",
    b"\r\n\r\n", b"0\r\n\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\n",
    b"Content-Encoding: gzip\r\n", b'{"pinned": true}', b"HTTP/1.0", b"?", b"%00", b"http://a/",
    b"OPTIONS * ", b"CONNECT a:1 ", b"Cookie: ", b"\r\n ", b"\x00",
)  # fmt: skip

_VERSION = re.compile(rb"HTTP/\d\.\d")  # aiohttp repeats the one that it was asked with
_STATUS = {100, 200, 400, 403, 404, 405, 409, 413, 422, 503, 504}
_TURNS = 100_000  # of the event loop; a call of 64 KiB in small chunks takes some hundred


class _Operations:
    """Does nothing, and sees that it is asked for nothing but what is documented."""

    async def status(self, name: str | None) -> list[ConnectionStatus]:
        """Tell of one connection."""
        _check_name(name or "all")
        return [ConnectionStatus(name or "surya", "down")]

    async def up(self, name: str, terms: Terms, report: Report) -> Result:
        """Succeed, but for one name."""
        _check_name(name)
        _check_wishes(terms.lease_seconds, terms.timeout_seconds)
        assert type(terms.pinned) is bool
        report("control", "203.0.113.1:4297")
        if name == "leaf":
            raise NoAnswer("no answer")
        return Result(name, "up", "done", terms.lease_seconds)

    switch = up

    async def down(self, name: str, timeout_seconds: float, report: Report) -> Result:
        """Fail before the first step."""
        _check_name(name)
        _check_wishes(None, timeout_seconds)
        raise UnknownConnection("unknown", "hint")

    async def reload(self) -> Reloaded:
        """Fail, for a file that has a mistake."""
        raise ConfigError([Problem(Location(Path("/etc/anubis/authorized_peers"), 7), "no key")])

    async def foresee(self) -> Difference:
        """Tell that nothing would change."""
        return Difference(1)

    async def plan(self, name: str) -> Plan:
        """Tell that nothing would be done."""
        _check_name(name)
        return Plan(name, "down", 60)

    async def approve(self, name: str | None, at: str | None, timeout_seconds: float) -> Approval:
        """Tell that nobody waits."""
        for given in (name, at):
            _check_name(given or "xena")
        _check_wishes(None, timeout_seconds)
        return Approval(name)

    async def why(self, name: str) -> Diagnosis:
        """Tell that nothing is broken."""
        _check_name(name)
        return Diagnosis(name, "down", ())


class _Records:
    """Checks what arrives, and has nothing to tell."""

    def __init__(self) -> None:
        self.audience = Audience()

    def log(self, name: str) -> list[Happening]:
        """Tell that nothing has happened."""
        _check_name(name)
        return []

    async def metrics(self) -> str:
        """Tell something that can be read as all the other answers are."""
        return "{}"


def _check_name(name: str) -> None:
    assert name == name.lower()
    assert 1 <= len(name) <= 63
    assert name.isascii()
    assert "/" not in name


def _check_wishes(lease: int | None, timeout: float) -> None:
    assert lease is None or LEASE_SECONDS[0] <= lease <= LEASE_SECONDS[1]
    assert TIMEOUT_SECONDS[0] <= timeout <= TIMEOUT_SECONDS[1]


class _AtOnce(Aside[None]):
    """Does work when it is given, so that a run repeats itself."""

    def begin(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """Do it now."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            work()
            future.set_result(None)
        except Exception as error:  # noqa: BLE001  it is handed on
            future.set_exception(error)
        return future


class _Transport(asyncio.Transport):
    """Keeps what is written. Its socket is a real one, because the kernel says who calls."""

    def __init__(self, caller: socket.socket) -> None:
        super().__init__({"socket": caller})
        self.written = bytearray()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it, unless the connection is closed."""
        if not self.closed:
            self.written += data

    def writelines(self, list_of_data: Any) -> None:
        """Keep them all."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Close it, also where that should be done at once."""
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        """Tell whether it is closed."""
        return self.closed

    def pause_reading(self) -> None:
        """Be asked for patience; all that comes is here already."""

    resume_reading = pause_reading

    def get_write_buffer_size(self) -> int:
        """Say that nothing waits."""
        return 0


class _Log(logging.Handler):
    """Raises what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it with its traceback."""
        self.records.append(logging.Formatter().format(record))


_LOG = _Log()
_LOOP = asyncio.new_event_loop()
_CALLER, _OTHER_END = socket.socketpair(socket.AF_UNIX)
logging.getLogger("anubis").addHandler(_LOG)


def run(data: bytes) -> None:
    """Send the input, in pieces that its first bytes name, then leave."""
    _LOG.records.clear()
    _LOOP.run_until_complete(asyncio.wait_for(_talk(Input(data)), 20))
    assert not _LOG.records, _LOG.records


async def _talk(given: Input) -> None:
    operations = _Operations()
    records = _Records()
    api = ApiServer(operations, records, Path("/nowhere"))
    api._asking = _AtOnce("callers")
    server = Server(api._answer)
    cuts = [given.number(2) for _ in range(2)]
    connection, transport = server(), _Transport(_CALLER)
    connection.connection_made(transport)
    for piece in (given.take(cuts[0]), given.take(cuts[1]), given.rest()):
        if piece and not transport.closed:
            connection.data_received(piece)
            await _settle()
    records.audience.dismiss()
    await _settle()
    connection.connection_lost(None)
    await _settle()
    assert not server.users, "a connection is counted that is gone"
    assert not api._changes, "a change goes on whose caller has left"
    assert len(asyncio.all_tasks()) <= 2, asyncio.all_tasks()
    await server.shutdown(0)
    _check_answers(bytes(transport.written), closed=transport.closed)


async def _settle() -> None:
    """Wait until the event loop has nothing to do but to wait for us."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
        if not _LOOP._ready:  # type: ignore[attr-defined]  # asyncio has no word for this
            return
    raise AssertionError("it never comes to rest")


def _check_answers(written: bytes, *, closed: bool) -> None:
    while written:
        head, found, written = written.partition(b"\r\n\r\n")
        assert found, head
        line, *fields = head.split(b"\r\n")
        version, status, _ = line.split(b" ", 2)
        assert _VERSION.fullmatch(version), line
        assert int(status) in _STATUS, line
        if status == b"100":
            continue
        headers = {name.lower(): value for name, value in (f.split(b": ", 1) for f in fields)}
        assert headers[b"server"] == b"anubis"
        assert b"aiohttp" not in head
        body, written = _body(headers, written)
        lines = [json.loads(each) for each in body.splitlines()]
        assert all(isinstance(each, dict) for each in lines)


def _body(headers: dict[bytes, bytes], rest: bytes) -> tuple[bytes, bytes]:
    """Return the body of an answer and what follows it."""
    if headers.get(b"transfer-encoding") == b"chunked":
        body = b""
        while True:
            size, _, rest = rest.partition(b"\r\n")
            chunk, rest = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            if not chunk:
                return body, rest
            body += chunk
    if b"content-length" not in headers:
        return rest, b""
    size_ = int(headers[b"content-length"])
    return rest[:size_], rest[size_:]


def seeds() -> Iterator[bytes]:
    """Give every call, with every framing, in one piece and in three; and what is no HTTP."""
    up = b'{"lease_seconds": 60, "pinned": false}'
    head = b"POST /v1/connections/%s HTTP/1.1\r\nHost: a\r\n"
    whole = [
        b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/status/Jacinth HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        head % b"jacinth/up" + b"Content-Length: %d\r\n\r\n" % len(up) + up,
        head % b"leaf/up" + b"Content-Length: 0\r\n\r\n",
        head % b"surya/down" + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        head % b"surya/switch" + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        head % b"surya/switch" + b"Content-Length: 9\r\n\r\n{}",
        b"POST /v1/connections/a/up HTTP/1.0\r\n\r\n",
        b"GET /v1/connections/jacinth/log HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/metrics HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD /v1/status HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/nothing?a=1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT http://a/v1/status HTTP/1.1\r\nHost: a\r\n\r\n",
        b"garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
    ]
    for each in whole:
        yield b"\0\0\0\0" + each
        yield b"\0\x0a\0\x20" + each
    yield b"\0\0\0\0" + b"".join(whole[:4]) + whole[4]
