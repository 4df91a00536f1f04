"""HTTP on the control address, on aiohttp: one request for each connection, and not for long.

Owns the listening socket and the bounds of what a peer can take up. Refuses to know the calls: it
hands each on as text and sends the answer that it gets.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address

from aiohttp import web

from anubis.daemon.budget import CONNECTIONS, CONNECTIONS_OF_ALL, Budget
from anubis.daemon.http import is_short, read_body
from anubis.daemon.listener import accept, close
from anubis.errors import BadRequest, LocalFailure
from anubis.network.plan import SERVICE_PORT
from anubis.web.calls import MAX_BODY
from anubis.web.page import Answer

__all__ = ["Handler", "OneShotServer", "Request"]

MAX_CONNECTIONS = 64
MAX_CONNECTIONS_OF_PEER = 8  # a browser makes up to six
CONNECTION_SECONDS = 30.0  # from its beginning to the last byte of its one answer
_CUT_SECONDS = 0.1  # before a request under way is cut; 0 would be for ever
_MAX_LINE = 2048  # bytes; of a header, too
_BACKLOG = 64

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, as it came. `source` is proven by cryptokey routing."""

    source: IPv6Address
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Handler = Callable[[Request], Awaitable[Answer]]


class OneShotServer:
    """Listens on the control address, and on that interface only, from its making to `close`.

    `malformed` answers what is no HTTP, by its status. Raises LocalFailure if it cannot listen.
    """

    def __init__(
        self,
        interface: str,
        address: IPv6Address,
        handler: Handler,
        malformed: Callable[[int, str], Answer],
    ) -> None:
        self._listening = _listen(interface, address)
        self._server = _Server(handler, malformed)
        self._accepting = asyncio.create_task(accept(self._listening, self._server))

    def close(self) -> None:
        """Listen no more; requests under way are brought to their end."""
        if self._listening.fileno() != -1:
            close(self._listening, self._accepting)

    async def shutdown(self) -> None:
        """Close, and cut requests under way, which are undone."""
        self.close()
        await self._server.shutdown(_CUT_SECONDS)


class _Server(web.Server):
    """Makes a connection for each caller, and knows how many there are of each peer."""

    def __init__(self, handler: Handler, malformed: Callable[[int, str], Answer]) -> None:
        # Who leaves has asked all the same: handlers are not cancelled for that.
        super().__init__(self._handle, handler_cancellation=False)
        self.malformed = malformed
        self.sources: Counter[str] = Counter()
        self.budget = Budget(CONNECTIONS, CONNECTIONS_OF_ALL)
        self._handler = handler

    def __call__(self) -> _Connection:
        """Make a connection, as asyncio asks of a protocol factory."""
        return _Connection(self)

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        if not isinstance(request.protocol, _Connection):
            raise TypeError("this request did not come through OneShotServer")
        try:
            body = await read_body(request, MAX_BODY)
        except BadRequest as error:
            return _response(self.malformed(400, error.message))
        source, headers = IPv6Address(request.protocol.source), request.headers
        asked = Request(source, request.method, request.raw_path, headers, body)
        return _response(await self._handler(asked))


class _Connection(web.RequestHandler):
    """One HTTP connection."""

    __slots__ = ("_deadline", "_server", "source")

    def __init__(self, server: _Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            logger=_logger,
            access_log=None,  # type: ignore[arg-type]  # documented as optional, typed as not
            auto_decompress=False,
            lingering_time=1.0,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
        )
        self._server = server
        self._deadline: asyncio.TimerHandle | None = None
        self.source = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the caller in, or hang up."""
        super().connection_made(transport)
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a TCP connection has a Transport")
        self.source = str(transport.get_extra_info("peername")[0]).partition("%")[0]
        sources = self._server.sources
        sources[self.source] += 1
        many = sources.total() > MAX_CONNECTIONS or sources[self.source] > MAX_CONNECTIONS_OF_PEER
        loop = asyncio.get_running_loop()
        often = not self._server.budget.allows(self.source, loop.time())
        if many or often or is_short(transport.get_extra_info("socket").fileno()):
            transport.abort()
        self._deadline = loop.call_later(CONNECTION_SECONDS, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the caller."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._server.sources[self.source] -= 1
        self._server.sources += Counter()  # drops the sources with none
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp cannot: bytes that are no HTTP, and our own bugs."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; a second one would be garbage")
        if status < 500:
            _logger.debug("not HTTP: %s", message or exc)
            return _response(self._server.malformed(400, "this is not HTTP"))
        _logger.error("internal-error", exc_info=exc)
        return _response(self._server.malformed(500, "internal error; the gateway's log has it"))


def _response(answer: Answer) -> web.Response:
    """Return aiohttp's form of an answer, the last one on its connection."""
    found = web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    found.force_close()
    return found


def _listen(interface: str, address: IPv6Address) -> socket.socket:
    where = f"[{address}]:{SERVICE_PORT}"
    listening = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        # After a restart, connections of before are still in TIME_WAIT.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((str(address), SERVICE_PORT))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        hint = f"ss -ltnp sport = :{SERVICE_PORT} shows who else does"
        raise LocalFailure(f"cannot listen on {where}: {error.strerror}", hint) from error
    return listening
