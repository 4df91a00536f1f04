"""The unix socket in the file system: made safely, and taken away if it is still ours.

Anybody may connect; who may do what is decided for each caller (`callers`). Owns the path, its
modes, and how callers are taken, from this or another socket; refuses to know what is spoken.

asyncio's own server, when it is out of descriptors, complains of each caller that might be waiting,
and wakes up as often a second later; so callers are taken here, one at a time.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anubis.daemon.log import Throttle, event
from anubis.errors import LocalFailure

__all__ = ["Listener", "accept", "close", "listen"]

_BACKLOG = 128
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 1.0  # seconds, before another caller is taken when there is no descriptor
_SHORT_SECONDS = 60.0  # between lines that say so


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, and the inode number of its path, by which it is known again."""

    path: Path
    socket: socket.socket
    inode: int

    def remove(self) -> None:
        """Take the path away, unless it belongs to another socket by now."""
        try:
            if self.path.lstat().st_ino == self.inode:
                self.path.unlink()
        except FileNotFoundError:
            return


async def accept(listening: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> None:
    """Take callers until cancelled; while there is no descriptor for one, they wait."""
    loop = asyncio.get_running_loop()
    throttle = Throttle(_SHORT_SECONDS)
    while True:
        try:
            connection, _ = await loop.sock_accept(listening)
            await loop.connect_accepted_socket(factory, connection)
        except OSError as error:
            if error.errno not in _SHORT:
                continue  # the caller has left already
            if throttle.passes("short", loop.time()) is not None:
                reason = error.strerror
                event(logging.ERROR, "short_of_resources", callers="wait", reason=reason)
            await asyncio.sleep(_PAUSE)


def close(listening: socket.socket, accepting: asyncio.Task[None]) -> None:
    """Take no more callers, and close a socket that `accept` waits on in a task."""
    accepting.cancel()
    # asyncio would stop watching its number when it comes to the cancelled task, and by then that
    # may be the number of somebody else's socket, which would never be heard.
    asyncio.get_running_loop().remove_reader(listening.fileno())
    listening.close()


def listen(path: Path) -> Listener:
    """Listen at `path`, mode 0666, in a directory that is made with mode 0755 where absent.

    A socket on which nobody answers is replaced. Raises LocalFailure if another daemon answers,
    if something else is at the path, or if somebody else could replace the socket.
    """
    try:
        _prepare_directory(path.parent)
        _clear(path)
        return _bind(path)
    except OSError as error:
        raise LocalFailure(f"cannot listen on {path}: {error.strerror or error}") from error


def _bind(path: Path) -> Listener:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.bind(str(path))
        listener = Listener(path, listening, path.lstat().st_ino)
        path.chmod(0o666)  # connect(2) wants write permission, and the umask took it away
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listener


def _prepare_directory(directory: Path) -> None:
    try:
        directory.mkdir()
        directory.chmod(0o755)  # whatever the umask is
    except FileExistsError:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise LocalFailure(f"{directory} is in the way: it is not a directory") from None
        if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
            raise LocalFailure(
                f"{directory} is unsafe: others could replace the socket in it",
                f"sudo chown root: {directory} && sudo chmod 755 {directory}",
            ) from None


def _clear(path: Path) -> None:
    """Remove a socket that nobody serves; raise LocalFailure for anything else at the path."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise LocalFailure(f"{path} is in the way: it is not a socket", f"see: ls -l {path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue of callers is full: somebody serves them
    raise LocalFailure(f"another daemon answers on {path}", "see: systemctl status anubis")
