"""The metrics over TCP, for a Prometheus that cannot read a unix socket: off unless configured.

Answers `GET /metrics` and nothing else, to whoever reaches the address that is configured. Owns
its bounds: a few callers at a time, each with a short head and little time. It reads nothing but
the head's first line, so aiohttp, which gives a slow head all the time in the world, has no part
in it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing

from anubis.daemon.log import event
from anubis.exposition import CONTENT_TYPE
from anubis.wireguard.types import Endpoint

__all__ = ["Scrape"]

MAX_CALLERS = 8  # at one time; Prometheus is one
MAX_HEAD = 8192  # bytes
SECONDS = 5.0  # for a caller to ask, and to take the answer
PAUSE = 1.0  # seconds, before another caller is taken when there is no descriptor
RETRY = 10.0  # seconds until an address that cannot be listened on is tried again

_TEXT = "text/plain; charset=utf-8"


class Scrape:
    """Serves `text` at an address, or nothing where there is none."""

    def __init__(self, address: Endpoint | None, text: Callable[[], Awaitable[str]]) -> None:
        self._address = address
        self._text = text
        self._callers = 0

    async def run(self) -> None:
        """Serve until cancelled.

        An address that is not there yet, as one of an interface that comes later, is waited for.
        """
        address, reported = self._address, False
        while address is None:
            await asyncio.Event().wait()
        while True:
            try:
                await self._serve(address)
            except OSError as error:
                if not reported:
                    reason = error.strerror
                    event(logging.ERROR, "metrics_not_served", address=address, reason=reason)
                reported = True
            await asyncio.sleep(RETRY)

    async def _serve(self, address: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if address.address.version == 6 else socket.AF_INET
        with socket.create_server((str(address.address), address.port), family=family) as listening:
            listening.settimeout(0)
            event(logging.INFO, "metrics_served", address=address)
            async with asyncio.TaskGroup() as group:
                while True:
                    try:
                        caller, _ = await loop.sock_accept(listening)
                    except OSError:  # the caller has left, or there is no descriptor for it
                        await asyncio.sleep(PAUSE)
                        continue
                    if self._callers < MAX_CALLERS:
                        group.create_task(self._answer(caller))
                    else:
                        caller.close()

    async def _answer(self, caller: socket.socket) -> None:
        """Answer one request and close; who is slow is only closed."""
        self._callers += 1
        try:
            async with asyncio.timeout(SECONDS):
                reader, writer = await asyncio.open_connection(sock=caller, limit=MAX_HEAD)
                with closing(writer):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._reply(head))
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # TimeoutError is an OSError
        except Exception:  # a bug, which is no reason to end the daemon
            logging.getLogger(__name__).exception("internal-error")
        finally:
            self._callers -= 1

    async def _reply(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _response("400 Bad Request", _TEXT, "this is HTTP/1.1\n")
        if path.partition(b"?")[0] != b"/metrics":
            return _response("404 Not Found", _TEXT, "there is only /metrics\n")
        if method != b"GET":
            return _response("405 Method Not Allowed", _TEXT, "it can only be read: GET\n")
        return _response("200 OK", CONTENT_TYPE, await self._text())


def _response(status: str, content_type: str, text: str) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nServer: anubis\r\nConnection: close\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
