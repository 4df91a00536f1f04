"""The unix socket in the file system: made safely, and taken away if it is still ours.

Anybody may connect; who may do what is decided for each caller (`callers`). Owns the path and its
modes; refuses to know what is spoken.
"""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from anubis.errors import LocalFailure

__all__ = ["Listener", "listen"]

_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, and the inode number of its path, by which it is known again.

    Whoever serves the socket closes it.
    """

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
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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
