"""One command of the administrator, run to its end or to its deadline, with all that it started.

Owns the process and its group, and how much is kept of what it says. Refuses to know what it is for
(`hooks`). No shell is between: each word is an argument.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["Ended", "run_command"]

_MAX_SAID = 4096  # bytes kept of both outputs together
_CHUNK = 65536
_DEATH_SECONDS = 1.0  # for the kernel to end what was killed


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and the beginning of what it said.

    `status` is its exit status, negative for a signal, and None if it was late and was killed.
    """

    status: int | None
    said: str


async def run_command(
    words: Sequence[str], environment: Mapping[str, str], seconds: float
) -> Ended:
    """Run a command with this environment and nothing else of ours. Raises OSError if it can't be.

    It is the first of a process group of its own, and when it ends, or after so many seconds, or
    when this is cancelled, the whole group is killed: what shall go on is not for a hook to start.
    """
    said, write = os.pipe2(os.O_CLOEXEC)
    try:
        process = subprocess.Popen(  # noqa: ASYNC220  it returns when the program is executed
            words,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError:
        os.close(said)
        raise
    finally:
        os.close(write)
    with _Output(said) as output:
        status = await _end_of(process, seconds)
        return Ended(status, output.text())


async def _end_of(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait for the end, and see to it; return the exit status, or None if it was late."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ended.wait()
        in_time = ended.is_set()
    finally:
        # Until it is reaped, no other group can have its number.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_SECONDS):
                    await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            process.poll()
    return process.returncode if in_time else None


class _Output:
    """Reads what a command says as long as it says something, and keeps the beginning."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._kept = b""

    def __enter__(self) -> _Output:
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        return self

    def __exit__(self, *_exception: object) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def text(self) -> str:
        """Return the beginning of all that was said until now."""
        while len(self._kept) < _MAX_SAID and self._read():
            pass  # bounded: what has left the group may still be talking
        return self._kept[:_MAX_SAID].decode(errors="replace").strip()

    def _read(self) -> bool:
        """Read what is there; return whether there may be more."""
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self._kept += data[: max(0, _MAX_SAID - len(self._kept))]
        return bool(data)
