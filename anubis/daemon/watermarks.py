"""How far the time of each initiator has come, kept where a reboot finds it again.

Owns the file: a record for each watermark that rose, appended before its request is acted on, and
on the disk before that is answered. Refuses to know what a watermark is for
(`anubis.protocol.freshness`).

Without it, a request that was recorded could be sent once more, after a reboot, to a host whose
clock has gone back, as one without a battery does. Appending costs the same for ten initiators and
for 65,536; what is superseded goes when the file is written anew. While the disk is full or
read-only, a second file under /run does: it outlives the daemon, but not the boot.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from anubis.daemon import lasting
from anubis.daemon.log import event
from anubis.errors import LocalFailure
from anubis.wireguard.keys import KEY_SIZE, PublicKey

__all__ = ["Watermarks"]

_RECORD = struct.Struct(f">{KEY_SIZE}s12s")  # key, ns since 1970
_CHECK = struct.Struct(">I")  # CRC-32 of the record: after a power cut the end may be anything
_SIZE = _RECORD.size + _CHECK.size  # bytes
_SPARE = 1024  # superseded records that are not worth writing the file anew

_FORGOTTEN = PublicKey(bytes(KEY_SIZE))  # stands for all initiators that have no record

Marks = Mapping[PublicKey, int]


class Source(Protocol):
    """Where watermarks come from, in ns since 1970: the `anubis.protocol.responder.Responder`."""

    @property
    def forgotten_ns(self) -> int:
        """The newest time of all initiators that have no watermark any more."""

    def watermarks(self) -> Marks:
        """Return the watermark of each initiator."""

    def risen(self) -> Marks:
        """Return those that have risen since this was asked last."""


class Watermarks:
    """The watermarks in `path`, or in `substitute` while that cannot be written."""

    def __init__(self, path: Path, substitute: Path, source: Source) -> None:
        self._main = _Log(path)
        self._substitute = _Log(substitute)
        self._source = source
        self._forgotten_ns = 0  # as it is written
        self._reported = False  # that the main file cannot be written
        self._writing = asyncio.Lock()
        self._syncing = asyncio.Lock()
        self._written = self._synced = 0  # how often
        # A thread of its own: those of the event loop may all be waiting for a name server.
        self._thread = ThreadPoolExecutor(1, "watermarks")

    def load(self) -> tuple[dict[PublicKey, int], int]:
        """Return the watermarks that earlier runs left, and how far those came that they forgot.

        In ns since 1970. A file that cannot be read is reported.
        """
        found: dict[PublicKey, int] = {}
        for log in (self._main, self._substitute):
            try:
                records = log.load()
            except OSError as error:
                event(logging.ERROR, "watermarks_unreadable", path=log.path, reason=error.strerror)
                continue
            for key, unix_ns in records:
                found[key] = max(unix_ns, found.get(key, unix_ns))
        return found, found.pop(_FORGOTTEN, 0)

    async def record(self) -> None:
        """Write the watermarks that have risen, so that they outlive the daemon.

        Raises LocalFailure if neither file can be written.
        """
        async with self._writing:
            risen, forgotten_ns = dict(self._source.risen()), self._source.forgotten_ns
            if forgotten_ns > self._forgotten_ns:
                risen[_FORGOTTEN] = forgotten_ns
            try:
                await self._write(self._main, risen)
            except OSError as error:
                self._report(error)
                await self._write_substitute(risen)
            else:
                self._written += 1
                self._main_is_good()
            self._forgotten_ns = forgotten_ns

    async def sync(self) -> None:
        """Have what was recorded so far on the disk, so that it outlives a power cut.

        Many that wait at one time share one wait. A disk that fails is reported.
        """
        wanted = self._written
        async with self._syncing:
            if self._synced >= wanted or not self._main.whole:
                return
            covered = self._written
            try:
                await self._in_thread(self._main.sync)
            except OSError as error:
                self._main.whole = False  # what is on the disk now, nobody knows
                self._report(error)
            self._synced = covered

    async def close(self) -> None:
        """Write everything anew, and let go of the thread."""
        self._main.whole = False
        try:
            await self.record()
        except LocalFailure as error:
            event(logging.ERROR, "watermarks_not_saved", reason=error.message)
        self._thread.shutdown()

    async def _write(self, log: _Log, risen: Marks) -> None:
        """Append to a file that is whole and not too long, else write it anew. Raises OSError."""
        if log.takes(len(risen)):
            log.append(risen)
        else:
            everything = {**self._source.watermarks(), _FORGOTTEN: self._source.forgotten_ns}
            await self._in_thread(log.replace, everything)

    async def _write_substitute(self, risen: Marks) -> None:
        try:
            await self._write(self._substitute, risen)
        except OSError as error:
            raise LocalFailure(
                "cannot note that a request was received:"
                f" {self._substitute.path}: {error.strerror}"
            ) from error

    async def _in_thread(self, work: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _report(self, error: OSError) -> None:
        if not self._reported:
            event(
                logging.ERROR,
                "watermarks_not_saved",
                path=self._main.path,
                reason=error.strerror,
                instead=self._substitute.path,
            )
        self._reported = True

    def _main_is_good(self) -> None:
        if self._substitute.remove() or self._reported:
            event(logging.INFO, "watermarks_saved", path=self._main.path)
        self._reported = False


class _Log:
    """One file of records. `whole` says that every watermark is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.whole = False
        self._records = 0
        self._useful = 0  # records, when it was written anew

    def load(self) -> list[tuple[PublicKey, int]]:
        """Return the records that are not damaged; none if there is no file. Raises OSError."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        found = []
        for offset in range(0, len(content) - _SIZE + 1, _SIZE):
            record = content[offset : offset + _RECORD.size]
            (check,) = _CHECK.unpack_from(content, offset + _RECORD.size)
            if zlib.crc32(record) == check:
                key, unix_ns = _RECORD.unpack(record)
                found.append((PublicKey(key), int.from_bytes(unix_ns, signed=True)))
        return found

    def takes(self, more: int) -> bool:
        """Tell whether so many records may be appended."""
        return self.whole and self._records + more <= 2 * self._useful + _SPARE

    def append(self, marks: Marks) -> None:
        """Append records, not yet for a power cut. Raises OSError, and then it is not whole."""
        self.whole = False
        lasting.append(self.path, _encode(marks.items()))
        self._records += len(marks)
        self.whole = True

    def replace(self, marks: Marks) -> None:
        """Write the file anew, durably: at any instant it is the old or the new one.

        Raises OSError.
        """
        self.whole = False
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lasting.put(self.path, _encode(marks.items()), lasting=True)
        lasting.sync(self.path.parent)
        self._records = self._useful = len(marks)
        self.whole = True

    def sync(self) -> None:
        """Have on the disk what was appended. Raises OSError."""
        lasting.sync(self.path)

    def remove(self) -> bool:
        """Remove the file, which is superseded; return whether there was one."""
        self.whole = False
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            event(logging.WARNING, "not_removed", path=self.path, reason=error.strerror)
        return True


def _encode(records: Iterable[tuple[PublicKey, int]]) -> bytes:
    packed = (
        _RECORD.pack(bytes(key), unix_ns.to_bytes(12, signed=True)) for key, unix_ns in records
    )
    return b"".join(record + _CHECK.pack(zlib.crc32(record)) for record in packed)
