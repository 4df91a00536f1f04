"""What happens when the WireGuard program, or what listens in its place, misbehaves.

The programs are shell scripts and the sockets are served by the test: no privilege is needed.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from anubis.wireguard.errors import (
    BackendError,
    BackendPermissionDenied,
    BackendUnavailable,
    DeviceExists,
    DeviceNotFound,
)
from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import DeviceChange, PeerChange
from anubis.wireguard.userspace import UserspaceBackend

DEADLINE = 0.2  # seconds


def backend_of(directory: Path, script: str, deadline: float = DEADLINE) -> UserspaceBackend:
    """Make a backend whose program is a shell script; it leaves its process id in `pid`."""
    program = directory / "program"
    program.write_text(f"#!/bin/sh\necho $$ > {directory}/pid\n{script}\n")
    program.chmod(0o755)
    return UserspaceBackend(str(program), directory, deadline)


def assert_nothing_is_left(directory: Path) -> None:
    """Check that the program has ended and is reaped, and that there is no socket."""
    pid = (directory / "pid").read_text().strip()
    assert not Path("/proc", pid).exists()
    assert not list(directory.glob("*.sock"))


async def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """Without the program, the error names it and the package that has it."""
    backend = UserspaceBackend("no-such-wireguard", tmp_path)
    with pytest.raises(BackendUnavailable) as caught:
        await backend.create("wg0")
    assert str(caught.value) == "no-such-wireguard is not installed: apt install wireguard-go"
    assert caught.value.interface == "wg0"


async def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    """A file that the system refuses to run is an error with the system's reason."""
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    with pytest.raises(BackendUnavailable, match=r"wg0: cannot start .*program: Exec format error"):
        await UserspaceBackend(str(program), tmp_path).create("wg0")


async def test_a_program_that_dies_is_quoted(tmp_path: Path) -> None:
    """What it said on either output is in the message, without its banner; it is reaped."""
    script = "echo '│ use the kernel │' >&2; echo 'no tun' >&2; echo nor tap; exit 3"
    backend = backend_of(tmp_path, script)
    with pytest.raises(BackendUnavailable, match=r"ended at its start: no tun; nor tap$"):
        await backend.create("wg0")
    assert_nothing_is_left(tmp_path)


async def test_a_program_that_dies_silently(tmp_path: Path) -> None:
    """Without words, the exit status is in the message."""
    with pytest.raises(BackendUnavailable, match=r"ended at its start: exit status 3$"):
        await backend_of(tmp_path, "exit 3").create("wg0")


async def test_a_program_without_privilege(tmp_path: Path) -> None:
    """A refusal by the system is BackendPermissionDenied."""
    backend = backend_of(tmp_path, "echo 'create TUN: operation not permitted' >&2; exit 1")
    with pytest.raises(BackendPermissionDenied):
        await backend.create("wg0")


async def test_endless_words_are_cut(tmp_path: Path) -> None:
    """What it says is kept up to a bound; beyond that it cannot write, but goes on."""
    script = (
        f"head -c 1000000 /dev/zero | tr '\\0' x >&2 || echo bounded > {tmp_path}/outcome; exit 1"
    )
    with pytest.raises(BackendUnavailable) as caught:
        await backend_of(tmp_path, script, 10).create("wg0")
    assert 1000 < len(str(caught.value)) < 10_000
    assert (tmp_path / "outcome").read_text() == "bounded\n"
    assert_nothing_is_left(tmp_path)


async def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    """A program that opens no socket is killed at the deadline, even one that ignores SIGTERM."""
    backend = backend_of(tmp_path, "trap '' TERM; exec sleep 60")
    with pytest.raises(BackendUnavailable, match=r"did not start within 0\.2 s"):
        await backend.create("wg0")
    assert_nothing_is_left(tmp_path)


async def test_a_cancelled_creation_leaves_nothing(tmp_path: Path) -> None:
    """Who gives up on `create` need not clean up after it."""
    backend = backend_of(tmp_path, "exec sleep 60", 60)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(DEADLINE):
            await backend.create("wg0")
    assert_nothing_is_left(tmp_path)


async def test_a_taken_name_starts_nothing(tmp_path: Path) -> None:
    """The name of an existing interface of any kind, or of a live socket, is refused at once."""
    backend = backend_of(tmp_path, "exit 1")
    with pytest.raises(DeviceExists, match="lo"):
        await backend.create("lo")
    async with listening(tmp_path, answering(b"")):
        with pytest.raises(DeviceExists, match="wg0"):
            await backend.create("wg0")
        assert (tmp_path / "wg0.sock").exists()
    assert not (tmp_path / "pid").exists()


async def test_a_stale_socket_is_no_interface(tmp_path: Path) -> None:
    """A socket that nobody listens on is not found, and is no obstacle to `create`."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "wg0.sock"))
    backend = backend_of(tmp_path, f"[ -e {tmp_path}/wg0.sock ] && echo still there >&2; exit 1")
    assert not backend.serves("wg0")
    with pytest.raises(DeviceNotFound):
        await backend.device("wg0")
    with pytest.raises(DeviceNotFound):
        await backend.delete("wg0")
    with pytest.raises(BackendUnavailable, match="exit status 1"):
        await backend.create("wg0")


# The control socket

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(directory: Path, serve: Serve) -> AsyncIterator[list[bytes]]:
    """Listen in the place of a program; collect the requests."""
    requests: list[bytes] = []
    served: set[asyncio.Future[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done = asyncio.get_running_loop().create_future()
        served.add(done)
        requests.append(await reader.readuntil(b"\n\n"))
        await serve(reader, writer)
        writer.close()
        done.set_result(None)

    server = await asyncio.start_unix_server(connected, directory / "wg0.sock")
    try:
        yield requests
    finally:
        server.close()
        await server.wait_closed()
        if served:
            await asyncio.wait(served, timeout=10)


def answering(answer: bytes) -> Serve:
    """Answer with these bytes, in small pieces, and hang up."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(answer), 7):
            writer.write(answer[start : start + 7])
            await writer.drain()

    return serve


async def hanging(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Say nothing until the other side hangs up."""
    await reader.read()


async def test_a_change_is_one_request(tmp_path: Path) -> None:
    """All of a change goes in one operation on one connection."""
    backend = UserspaceBackend(socket_directory=tmp_path)
    key = PublicKey(bytes([1] * 32))
    async with listening(tmp_path, answering(b"errno=0\n\n")) as requests:
        change = DeviceChange(fwmark=7, peers=(PeerChange(key, replace=True),))
        await backend.configure("wg0", change)
    name = b"public_key=" + b"01" * 32
    assert requests == [b"set=1\nfwmark=7\n" + name + b"\nremove=true\n" + name + b"\n\n"]


async def test_answers_may_come_in_pieces(tmp_path: Path) -> None:
    """An answer is read up to its blank line however it is cut."""
    backend = UserspaceBackend(socket_directory=tmp_path)
    answer = b"listen_port=4296\n" + 300 * b"a_key=a value\n" + b"errno=0\n\n"
    async with listening(tmp_path, answering(answer)) as requests:
        assert (await backend.device("wg0")).listen_port == 4296
    assert requests == [b"get=1\n\n"]


async def test_a_refused_change_has_its_number(tmp_path: Path) -> None:
    """The number that the program gave is the error's."""
    backend = UserspaceBackend(socket_directory=tmp_path)
    async with listening(tmp_path, answering(b"errno=-98\n\n")):
        with pytest.raises(BackendError, match="wg0: cannot configure: Address already") as caught:
            await backend.configure("wg0", DeviceChange(listen_port=1))
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("answer", [b"", b"listen_port=1", b"listen_port=1\nerrno=0\n"])
async def test_hanging_up_is_an_error(tmp_path: Path, answer: bytes) -> None:
    """An end before the blank line is an error at once, not an empty interface."""
    backend = UserspaceBackend(socket_directory=tmp_path, deadline=60)
    async with listening(tmp_path, answering(answer)):
        with pytest.raises(BackendError, match="wg0: its control socket closed in the middle"):
            await backend.device("wg0")


async def test_silence_is_an_error(tmp_path: Path) -> None:
    """A program that accepts but never answers costs the deadline and no more."""
    backend = UserspaceBackend(socket_directory=tmp_path, deadline=DEADLINE)
    async with listening(tmp_path, hanging):
        with pytest.raises(BackendError, match=r"did not answer within 0\.2 s") as caught:
            await backend.device("wg0")
    assert caught.value.errno == errno.ETIMEDOUT


async def test_an_endless_answer_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading stops at a bound."""
    monkeypatch.setattr("anubis.wireguard.uapi.ANSWER_SIZE", 1000)
    backend = UserspaceBackend(socket_directory=tmp_path)

    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"a_key=a value\n" * 1000)
                await writer.drain()
        except ConnectionError:
            return

    async with listening(tmp_path, endless):
        with pytest.raises(BackendError, match="wg0: its control socket answers without end"):
            await backend.device("wg0")
