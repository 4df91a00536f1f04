"""The daemon's socket takes nobody's place, lets nobody take its own, and is cleared away."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from anubis.daemon.listener import accept, close, listen
from anubis.errors import LocalFailure

DEADLINE = 5.0  # seconds


def test_everybody_can_connect_whatever_the_umask(tmp_path: Path) -> None:
    """The directory is made with mode 0755 and the socket with 0666."""
    path = tmp_path / "anubis" / "anubis.sock"
    old = os.umask(0o077)
    try:
        listener = listen(path)
    finally:
        os.umask(old)
    with listener.socket:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
    listener.remove()
    assert not path.exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed daemon left behind is no obstacle."""
    path = tmp_path / "anubis.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listener = listen(path)
    with listener.socket, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    listener.remove()


@pytest.mark.parametrize("queue", [0, 8])
def test_another_daemon_keeps_its_socket(tmp_path: Path, queue: int) -> None:
    """A socket on which somebody answers is left alone, also if its queue of callers is full."""
    path = tmp_path / "anubis.sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(queue)
        waiting.connect(str(path))
        inode = path.stat().st_ino
        with pytest.raises(LocalFailure, match="another daemon answers"):
            listen(path)
        assert path.stat().st_ino == inode


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    """Only a socket is ever replaced."""
    path = tmp_path / "anubis.sock"
    path.write_text("precious")
    with pytest.raises(LocalFailure, match="not a socket"):
        listen(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o775, 0), (0o755, 65534)])
def test_a_directory_in_which_others_can_write_is_refused(
    tmp_path: Path, mode: int, owner: int
) -> None:
    """Nobody else may be able to put a socket of his own in the place of ours."""
    directory = tmp_path / "anubis"
    directory.mkdir()
    directory.chmod(mode)
    os.chown(directory, owner, -1)
    with pytest.raises(LocalFailure, match="unsafe"):
        listen(directory / "anubis.sock")


def test_a_link_to_a_directory_is_refused(tmp_path: Path) -> None:
    """Where the socket stands is not for others to choose."""
    (tmp_path / "link").symlink_to("/tmp")
    with pytest.raises(LocalFailure, match="not a directory"):
        listen(tmp_path / "link" / "anubis.sock")


@pytest.mark.parametrize("name", ["a" * 200, "absent/anubis.sock"])
def test_what_the_system_refuses_is_explained(tmp_path: Path, name: str) -> None:
    """A path that cannot be is a LocalFailure that names it."""
    with pytest.raises(LocalFailure, match="cannot listen on"):
        listen(tmp_path / "absent" / name)


def test_the_socket_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    """A daemon that ends late leaves the socket of the one that came after it."""
    path = tmp_path / "anubis.sock"
    first = listen(path)
    first.socket.close()
    path.rename(tmp_path / "elsewhere")  # so that its inode number stays in use
    second = listen(path)
    first.remove()
    with second.socket, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    second.remove()
    assert not path.exists()


async def test_the_number_of_a_closed_socket_is_anybody_s(tmp_path: Path) -> None:
    """A connection that gets it at once is heard, though the task that accepted ends later."""
    listening = listen(tmp_path / "anubis.sock").socket
    accepting = asyncio.create_task(accept(listening, asyncio.Protocol))
    await asyncio.sleep(0)  # it waits for callers now
    number = listening.fileno()
    close(listening, accepting)
    ours, theirs = socket.socketpair()
    with theirs:
        assert ours.fileno() == number
        reader, writer = await asyncio.open_connection(sock=ours)
        theirs.send(b"heard\n")
        async with asyncio.timeout(DEADLINE):
            assert await reader.readline() == b"heard\n"
        writer.close()
    assert accepting.cancelled()
