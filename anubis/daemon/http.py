"""HTTP connections on the unix socket, on aiohttp: who is at the other end, and how many may be.

Owns the bounds and the form of every answer, also of those to what is no HTTP at all. Refuses to
know the calls.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from anubis.daemon.callers import Caller, caller_of
from anubis.daemon.calls import MAX_BODY, NoSuchCall, TooLarge, WrongMethod
from anubis.errors import (
    AnubisError,
    BadRequest,
    ConfigError,
    LocalFailure,
    NoAnswer,
    NotPermitted,
    Refused,
    UnknownConnection,
)
from anubis.events import ErrorEvent, Event, event_to_json

__all__ = [
    "Busy",
    "Connection",
    "Server",
    "begin_stream",
    "caller",
    "error_answer",
    "event_line",
    "internal_error",
    "is_short",
    "json_answer",
    "read_body",
    "text_answer",
]

MAX_CONNECTIONS = 512  # of everybody but root, so that root can always get in
MAX_CONNECTIONS_OF_USER = 64
OWN_DESCRIPTORS = 32  # kept from callers for the daemon's own work; of few, a quarter
BODY_TIMEOUT = 10.0  # seconds

_HEADERS = {"Server": "anubis"}  # aiohttp would tell its version and Python's

_logger = logging.getLogger(__name__)


class Busy(LocalFailure):
    """The daemon has as much to do as it takes on at once; nothing was begun."""


_STATUS: dict[type[AnubisError], int] = {
    NoSuchCall: 404,
    WrongMethod: 405,
    TooLarge: 413,
    BadRequest: 400,
    UnknownConnection: 404,
    ConfigError: 422,
    Refused: 409,
    NoAnswer: 504,
    Busy: 503,
    NotPermitted: 403,
    AnubisError: 500,
}


class Server(web.Server):
    """Makes a Connection for each caller; a caller who leaves cancels what was begun for it."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(handler, handler_cancellation=True)
        self.users: Counter[int] = Counter()  # connections by user

    def __call__(self) -> Connection:
        """Make a Connection, as asyncio asks of a protocol factory."""
        return Connection(self)

    def is_full(self, uid: int, descriptor: int) -> bool:
        """Tell whether a user must wait before another connection, `descriptor`, is taken."""
        if self.users[uid] >= MAX_CONNECTIONS_OF_USER:
            return True
        if uid == 0:
            return False
        return is_short(descriptor) or self.users.total() >= MAX_CONNECTIONS


def is_short(descriptor: int) -> bool:
    """Tell whether few descriptors are left, by the newest: the lowest free number is given out."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return descriptor >= allowed - min(OWN_DESCRIPTORS, allowed // 4)


class Connection(web.RequestHandler):
    """One HTTP connection. `caller` is who made it."""

    __slots__ = ("_server", "caller")

    def __init__(self, server: Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            logger=_logger,
            access_log=None,  # type: ignore[arg-type]  # documented as optional, typed as not
            auto_decompress=False,
            lingering_time=1.0,
        )
        self._server = server
        self.caller = Caller(-1, -1, frozenset())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the caller in, or answer 503."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        self.caller = caller_of(connection)
        full = self._server.is_full(self.caller.uid, connection.fileno())
        self._server.users[self.caller.uid] += 1
        if full and isinstance(transport, asyncio.WriteTransport):
            transport.write(_BUSY)
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the caller, and cancel what was begun for it."""
        self._server.users[self.caller.uid] -= 1
        self._server.users += Counter()  # drops the users with none
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp cannot: bytes that are no HTTP, and our own bugs."""
        if status < 500:
            # Anybody may send garbage as often as they like; it is not worth a log line.
            answer = error_answer(BadRequest(f"not HTTP: {message or exc}"))
        else:
            _logger.error("internal-error", exc_info=exc)
            answer = error_answer(internal_error())
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; a second one would be garbage")
        answer.force_close()
        return answer


def caller(request: web.BaseRequest) -> Caller:
    """Tell who sent a request."""
    if not isinstance(request.protocol, Connection):
        raise TypeError("this request did not come through Server")
    return request.protocol.caller


def internal_error() -> LocalFailure:
    """Make the error for what is our own bug."""
    return LocalFailure("internal error, see the journal", "journalctl -u anubis -n 50")


def json_answer(data: Mapping[str, object], status: int = 200) -> web.Response:
    """Answer with one JSON object."""
    return web.Response(
        status=status,
        headers=_HEADERS,
        content_type="application/json",
        body=json.dumps(data).encode() + b"\n",
    )


def text_answer(text: str, content_type: str) -> web.Response:
    """Answer with text; `content_type` is the whole header."""
    return web.Response(headers={**_HEADERS, "Content-Type": content_type}, body=text.encode())


def error_answer(error: AnubisError) -> web.Response:
    """Answer with an error before anything was begun."""
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    return json_answer(event_to_json(ErrorEvent.from_error(error)), status)


async def begin_stream(request: web.BaseRequest) -> web.StreamResponse:
    """Begin an answer of lines that are sent as things happen."""
    headers = {**_HEADERS, "Content-Type": "application/x-ndjson"}
    answer = web.StreamResponse(headers=headers)
    await answer.prepare(request)
    return answer


def event_line(event: Event) -> bytes:
    """Return one line of an event stream."""
    return json.dumps(event_to_json(event)).encode() + b"\n"


async def read_body(request: web.BaseRequest, limit: int = MAX_BODY) -> bytes:
    """Read at most `limit` bytes within BODY_TIMEOUT seconds. Raises BadRequest."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"the body is longer than {limit} bytes")
    except TimeoutError:
        raise BadRequest(f"the body did not come within {BODY_TIMEOUT:g} s") from None
    except web.RequestPayloadError as error:
        raise BadRequest(f"the body cannot be read: {error}") from None
    return bytes(body)


def _busy() -> bytes:
    error = Busy("too many connections to the daemon", "try again in a moment")
    body = event_line(ErrorEvent.from_error(error))
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nServer: anubis\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_BUSY = _busy()  # written before anything is read, so aiohttp has no part in it
