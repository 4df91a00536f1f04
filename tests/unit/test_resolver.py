"""Names are looked up beside the daemon, never in its way."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from anubis.daemon import resolver
from anubis.daemon.resolver import resolve
from anubis.errors import LocalFailure
from anubis.files.authorized_peers import NamedEndpoint

DEADLINE = 10.0  # seconds

ENDS_WHILE_LOOKING_UP = """
import asyncio, socket, time
from anubis.daemon.resolver import resolve
from anubis.files.authorized_peers import NamedEndpoint

socket.getaddrinfo = lambda *_arguments, **_options: time.sleep(60)

async def main():
    asyncio.create_task(resolve(NamedEndpoint("slow.example", 1)))
    await asyncio.sleep(0.01)

asyncio.run(main())
"""


class Library:
    """Stands for the C library: knows every name but `slow…` until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, **_options: int) -> list[tuple[object, ...]]:
        """Answer like `socket.getaddrinfo`."""
        self.asked.append(host)
        if host.startswith("slow"):
            self.released.wait(DEADLINE)
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("192.0.2.1", port))]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """Replace the C library; at the end nothing waits for it."""
    found = Library()
    monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
    yield found
    found.released.set()


async def test_a_slow_name_keeps_no_other_waiting(library: Library) -> None:
    """However many names hang, the next one is looked up at once."""
    slow = [asyncio.create_task(resolve(NamedEndpoint(f"slow{n}", 1))) for n in range(40)]
    await asyncio.wait_for(resolve(NamedEndpoint("quick", 1)), DEADLINE)
    assert not any(task.done() for task in slow)
    library.released.set()
    await asyncio.gather(*slow)


async def test_many_who_want_one_name_ask_once(library: Library) -> None:
    """A name that hangs does not gather threads; one who leaves does not spoil it for others."""
    waiting = [asyncio.create_task(resolve(NamedEndpoint("slow", 1))) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    library.released.set()
    found = await asyncio.gather(*waiting[1:])
    assert {str(each[0].address) for each in found} == {"192.0.2.1"}
    assert library.asked == ["slow"]


async def test_names_under_way_are_bounded(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound an error says so, and afterwards there is room again."""
    monkeypatch.setattr(resolver, "_MAX_THREADS", 2)
    slow = [asyncio.create_task(resolve(NamedEndpoint(f"slow{n}", 1))) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(LocalFailure, match="2 names are being looked up"):
        await resolve(NamedEndpoint("quick", 1))
    library.released.set()
    await asyncio.gather(*slow)
    await resolve(NamedEndpoint("quick", 1))


async def test_a_name_that_is_not_resolved_in_time_says_so(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait has an end, and the error has the name."""
    monkeypatch.setattr(resolver, "_TIMEOUT", 0.01)
    with pytest.raises(LocalFailure, match=r"slow\.example was not resolved within"):
        await resolve(NamedEndpoint("slow.example", 1))
    assert library.asked == ["slow.example"]


def test_a_look_up_under_way_does_not_hold_up_the_end_of_the_daemon() -> None:
    """The process ends while the C library still waits for a name server."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", ENDS_WHILE_LOOKING_UP], check=True, timeout=DEADLINE * 3)
    assert time.monotonic() - began < 30
