"""Metrics over TCP: to anybody who asks for them properly, and nothing else to anybody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

import pytest

from anubis.daemon import scrape as module
from anubis.daemon.log import tapped
from anubis.daemon.scrape import MAX_CALLERS, MAX_HEAD, Scrape
from anubis.exposition import CONTENT_TYPE
from anubis.wireguard.types import Endpoint

DEADLINE = 10.0  # seconds
TEXT = 'anubis_connection_up{connection="jacinth"} 1\n'


async def metrics() -> str:
    """Return what is served."""
    return TEXT


def free(host: str = "127.0.0.1") -> Endpoint:
    """Return a port that nobody has."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as probe:
        return Endpoint(ip_address(host), probe.getsockname()[1])


@asynccontextmanager
async def serving(
    address: Endpoint | None, text: Callable[[], object] = metrics
) -> AsyncIterator[Scrape]:
    """Serve as the daemon does, once it listens."""
    listens = asyncio.Event()
    scrape = Scrape(address, text)  # type: ignore[arg-type]
    with tapped(lambda name, _: listens.set() if name == "metrics_served" else None):
        running = asyncio.create_task(scrape.run())
        async with asyncio.timeout(DEADLINE):
            await listens.wait()
        yield scrape
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def ask(address: Endpoint, request: bytes) -> bytes:
    """Send bytes and return all that comes."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection(str(address.address), address.port)
        writer.write(request)
        answer = b""
        with suppress(ConnectionResetError):
            answer = await reader.read()
        writer.close()
        return answer


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_curl_reads_them(host: str) -> None:
    """The text, with the type that Prometheus wants."""
    address = free(host)
    async with serving(address):
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--noproxy", "*", "-i", f"http://{address}/metrics"),
            stdout=asyncio.subprocess.PIPE,
        )
        shown, _ = await curl.communicate()
    head, _, body = shown.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert f"Content-Type: {CONTENT_TYPE}" in head
    assert body == TEXT


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics?a=1 HTTP/1.1\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /v1/connections/jacinth/up HTTP/1.1\r\n\r\n", b"404"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", b"400"),
    ],
)
async def test_there_is_nothing_else(request_: bytes, status: bytes) -> None:
    """Whatever is asked for."""
    address = free()
    async with serving(address):
        answer = await ask(address, request_)
    assert answer.split(b" ")[1] == status
    assert (TEXT.encode() in answer) == (status == b"200")


async def test_a_long_head_is_not_read() -> None:
    """The caller is closed, the next one is served."""
    address = free()
    async with serving(address):
        assert await ask(address, b"GET /metrics HTTP/1.1\r\nA: " + b"b" * 2 * MAX_HEAD) == b""
        assert TEXT.encode() in await ask(address, b"GET /metrics HTTP/1.1\r\n\r\n")


async def test_callers_are_few_and_have_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is closed; those who say nothing are, too, and then there is room again."""
    monkeypatch.setattr(module, "SECONDS", 0.3)
    address = free()
    async with serving(address) as scrape:
        silent = [
            await asyncio.open_connection(str(address.address), address.port)
            for _ in range(MAX_CALLERS)
        ]
        async with asyncio.timeout(DEADLINE):
            while scrape._callers < MAX_CALLERS:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert await ask(address, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        for reader, writer in silent:
            assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
            writer.close()
        assert TEXT.encode() in await ask(address, b"GET /metrics HTTP/1.1\r\n\r\n")


async def test_an_address_that_is_taken_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, however often it is tried."""
    monkeypatch.setattr(module, "RETRY", 0.001)
    address, said, tries = free(), list[str](), list[None]()
    create = socket.create_server

    def create_server(where: tuple[str, int], *, family: int) -> socket.socket:
        tries.append(None)
        return create(where, family=family)

    with (
        tapped(lambda name, _: said.append(name)),
        socket.create_server((str(address.address), address.port)) as taken,
    ):
        monkeypatch.setattr(socket, "create_server", create_server)
        running = asyncio.create_task(Scrape(address, metrics).run())
        async with asyncio.timeout(DEADLINE):
            while len(tries) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert said == ["metrics_not_served"]
        taken.close()
        async with asyncio.timeout(DEADLINE):
            while "metrics_served" not in said:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_bug_is_no_reason_to_end() -> None:
    """The caller is closed, and the next one is taken."""
    address, bugs = free(), [KeyError("a")]

    async def text() -> str:
        if bugs:
            raise bugs.pop()
        return TEXT

    async with serving(address, text):
        assert await ask(address, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        assert TEXT.encode() in await ask(address, b"GET /metrics HTTP/1.1\r\n\r\n")
