"""WireGuard in a process of its own: `wireguard-go`, and whatever else speaks its protocol.

Owns the life of the program, from start to the last trace, and the connection to its control
socket. Refuses to know the protocol's text, which is `uapi`. An interface that somebody else
started is served as well: the socket is all that counts.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from anubis.wireguard import uapi
from anubis.wireguard.child import Child
from anubis.wireguard.errors import (
    BackendError,
    BackendPermissionDenied,
    BackendUnavailable,
    DeviceExists,
    DeviceNotFound,
    backend_error,
)
from anubis.wireguard.names import check_interface_name
from anubis.wireguard.types import Device, DeviceChange

__all__ = ["UserspaceBackend"]

_QUIT_SECONDS = 0.2  # for a program to notice that its interface was deleted
_FIRST_PAUSE, _LAST_PAUSE, _GROWTH = 0.001, 0.02, 1.25  # seconds between looks at a condition


class UserspaceBackend:
    """Starts `program -f INTERFACE` for each interface and controls it through its socket.

    Interfaces live on when this process ends, however it ends; the next one finds their sockets.
    `deadline` is the time in seconds within which a program has to start, answer or quit.
    """

    def __init__(
        self,
        program: str = "wireguard-go",
        socket_directory: Path = Path("/var/run/wireguard"),
        deadline: float = 5.0,
    ) -> None:
        self._program = program
        self._directory = socket_directory
        self._deadline = deadline
        self._children: dict[str, Child] = {}
        self._one_at_a_time = asyncio.Lock()  # two that start one name would take each other's

    async def create(self, interface: str) -> None:
        """Start the program. Raises DeviceExists, BackendUnavailable, BackendPermissionDenied."""
        check_interface_name(interface)
        async with self._one_at_a_time:
            if not _link_exists(interface):
                # A program whose interface was just deleted is about to quit.
                await _until(lambda: not self.serves(interface), _QUIT_SECONDS)
            self._refuse_taken_name(interface)
            await self._end_child(interface)
            self._remove_stale_socket(interface)
            child = self._start(interface)
            try:
                await self._wait_for_answer(interface, child)
            except BaseException:
                child.kill()
                self._remove_stale_socket(interface)
                raise
            child.settle()
            self._children[interface] = child

    async def configure(self, interface: str, change: DeviceChange) -> None:
        """Apply a change in one operation. Raises DeviceNotFound or BackendError."""
        check_interface_name(interface)
        answer = await self._exchange(interface, uapi.set_request(change))
        uapi.check_answer(interface, answer)

    async def device(self, interface: str) -> Device:
        """Read an interface with all its peers. Raises DeviceNotFound or BackendError."""
        check_interface_name(interface)
        return uapi.parse_device(interface, await self._exchange(interface, uapi.GET_REQUEST))

    async def delete(self, interface: str) -> None:
        """End the program, whoever started it, and wait until its interface is gone.

        Raises DeviceNotFound or BackendError.
        """
        check_interface_name(interface)
        async with self._one_at_a_time:
            served = self.serves(interface)
            ours = interface in self._children and _link_exists(interface)
            await self._end_child(interface)
            if not served and not ours:
                raise self._not_found(interface)
            self._unlink(interface)  # the programs' custom: without it they quit
            if not await _until(lambda: not _link_exists(interface), self._deadline):
                raise self._late(interface, "its program did not quit")

    async def close(self) -> None:
        """Let go of the programs; they and their interfaces stay."""
        for child in self._children.values():
            child.leave()
        self._children.clear()

    def serves(self, interface: str) -> bool:
        """Tell whether somebody listens on the interface's control socket. Raises BackendError."""
        try:
            unused = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise _no_socket(interface, error) from error
        with closing(unused) as probe:
            probe.settimeout(0)
            try:
                probe.connect(str(self._socket(interface)))
            except (BlockingIOError, PermissionError):
                # A full queue; or a socket that is not for us, as the next operation will say.
                return True
            except OSError:
                return False
        return True

    # The program

    def _refuse_taken_name(self, interface: str) -> None:
        if _link_exists(interface):
            raise DeviceExists(
                f"{interface}: an interface of that name is there already",
                interface,
                errno.EEXIST,
            )
        if self.serves(interface):
            raise DeviceExists(
                f"{interface}: a program listens on {self._socket(interface)} already; "
                "its interface may be in another network namespace",
                interface,
                errno.EEXIST,
            )

    def _start(self, interface: str) -> Child:
        path = shutil.which(self._program)
        if path is None:
            raise BackendUnavailable(
                f"{self._program} is not installed: apt install wireguard-go",
                interface,
                errno.ENOENT,
            )
        try:
            return Child([path, "-f", interface])
        except OSError as error:
            raise BackendUnavailable(
                f"{interface}: cannot start {path}: {error.strerror}", interface, error.errno
            ) from error

    async def _wait_for_answer(self, interface: str, child: Child) -> None:
        def started_or_ended() -> bool:
            return self.serves(interface) or not child.running()

        if not await _until(started_or_ended, self._deadline):
            raise BackendUnavailable(
                f"{interface}: {self._program} did not start within {self._deadline:g} s",
                interface,
                errno.ETIMEDOUT,
            )
        try:
            await self.device(interface)  # it listens before it is ready, and answers when it is
        except BackendError:
            if child.running():
                raise
        if not child.running():
            raise self._ended(interface, child)

    def _ended(self, interface: str, child: Child) -> BackendError:
        said = child.last_words()
        message = f"{interface}: {self._program} ended at its start: {said}"
        if _link_exists(interface):
            return DeviceExists(message, interface, errno.EEXIST)
        if "operation not permitted" in said or "permission denied" in said:
            return BackendPermissionDenied(message, interface, errno.EPERM)
        return BackendUnavailable(message, interface)

    async def _end_child(self, interface: str) -> None:
        """End and reap the program that we started for this name, even if its link is gone."""
        if (child := self._children.get(interface)) is None:
            return
        child.terminate()
        if not await _until(lambda: not child.running(), self._deadline):
            child.kill()
        del self._children[interface]

    # The socket

    def _socket(self, interface: str) -> Path:
        return self._directory / f"{interface}.sock"

    def _not_found(self, interface: str) -> DeviceNotFound:
        return DeviceNotFound(
            f"{interface}: no WireGuard program listens on {self._socket(interface)}",
            interface,
            errno.ENODEV,
        )

    def _late(self, interface: str, what: str) -> BackendError:
        text = f"{interface}: {what} within {self._deadline:g} s"
        return BackendError(text, interface, errno.ETIMEDOUT)

    def _remove_stale_socket(self, interface: str) -> None:
        if not self.serves(interface):
            self._unlink(interface)

    def _unlink(self, interface: str) -> None:
        try:
            self._socket(interface).unlink(missing_ok=True)
        except OSError as error:
            number = error.errno or errno.EIO
            raise backend_error(interface, number, "cannot remove its control socket") from error

    async def _exchange(self, interface: str, request: bytes) -> bytes:
        """Do one operation; return the answer up to and with its blank line."""
        try:
            async with asyncio.timeout(self._deadline):
                reader, writer = await asyncio.open_unix_connection(
                    self._socket(interface), limit=uapi.ANSWER_SIZE
                )
                try:
                    writer.write(request)
                    return await reader.readuntil(uapi.ANSWER_END)
                finally:
                    writer.transport.abort()  # all is said: close() would wait for a hung reader
        except (FileNotFoundError, ConnectionRefusedError):
            raise self._not_found(interface) from None
        except TimeoutError:
            raise self._late(interface, "its control socket did not answer") from None
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            cut = isinstance(error, asyncio.IncompleteReadError)
            text = "closed in the middle of an answer" if cut else "answers without end"
            raise BackendError(f"{interface}: its control socket {text}", interface) from None
        except OSError as error:
            number = error.errno or errno.EIO
            raise backend_error(interface, number, "cannot use its control socket") from error


def _link_exists(interface: str) -> bool:
    # Not /sys/class/net, which shows the network namespace in which /sys was mounted.
    try:
        names = socket.if_nameindex()
    except OSError as error:
        raise _no_socket(interface, error) from error
    return any(name == interface for _index, name in names)


def _no_socket(interface: str, error: OSError) -> BackendError:
    return backend_error(interface, error.errno or errno.EIO, "cannot open a socket")


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; False if it did not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    pause = _FIRST_PAUSE
    while not condition():
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(pause * _GROWTH, _LAST_PAUSE)
    return True
