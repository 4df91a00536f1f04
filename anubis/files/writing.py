"""How a file comes into being, or gives way to another: complete and with its final mode, or not.

Owns that no reader and no power cut ever meets half a file, and that nothing is lost that somebody
else wrote. Refuses to know what is in a file.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from anubis.errors import LocalFailure, NotPermitted
from anubis.files.keyfile import check_directories, read_guarded

__all__ = ["WrittenFile", "create_file", "create_private", "edit_file"]

_DIRECTORY_MODE = 0o755  # the files guard themselves; anubis.conf is for everybody to read
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is there now: made just now, or kept as it was."""

    path: Path
    made: bool


def create_file(path: Path, text: str, mode: int, group: int | None = None) -> WrittenFile:
    """Write a new file, of this group if one is given, or keep the one that is there.

    The name appears with the complete content on the disk and the final mode, whatever the umask:
    the file is made under another name, synchronized, and then linked, which fails if the name is
    taken. Missing directories are made with mode 0755. Raises ConfigError if a directory is not
    safe, NotPermitted and LocalFailure if the file cannot be written.
    """
    with _failures(path):
        _make_directories(path.parent)
        check_directories(path)
        if path.is_symlink() or path.exists():
            return WrittenFile(path, made=False)
        with _new(path, text.encode(), mode, group=group) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return WrittenFile(path, made=False)
        _synchronize(path.parent)
    return WrittenFile(path, made=True)


def create_private(path: Path, data: bytes) -> None:
    """Write a new file that its owner alone can read, in a directory that may be anybody's.

    Raises LocalFailure if there is anything of that name, NotPermitted if it cannot be written.
    """
    with _failures(path), _new(path, data, _PRIVATE) as temporary:
        os.link(temporary, path)


def edit_file(path: Path, edit: Callable[[str], str]) -> None:
    """Replace what is in a file by what `edit` makes of it; owner and mode stay.

    `edit` may refuse by raising, and then nothing has changed. Editors like this one wait for one
    another; a person's editor does not, so what was written while `edit` thought is not overwritten
    but refused. A symbolic link stays one. Raises ConfigError if the file cannot be trusted,
    NotPermitted and LocalFailure if it cannot be written.
    """
    with _failures(path), _locked(path) as (real, status):
        before = read_guarded(path).data
        after = edit(before.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        if after == before:
            return
        mode = stat.S_IMODE(status.st_mode)
        with _new(real, after, mode, owner=status.st_uid, group=status.st_gid) as temporary:
            if read_guarded(path).data != before:
                raise LocalFailure(
                    f"{path} was changed by somebody else in the same moment; nothing was done",
                    "try again",
                )
            temporary.replace(real)
        _synchronize(real.parent)


@contextmanager
def _locked(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Hold the file that a name leads to, and not one that was replaced while we waited."""
    while True:
        real = path.resolve(strict=True)
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            status = os.fstat(descriptor)
            if os.path.samestat(status, path.stat()):
                yield real, status
                return
        finally:
            os.close(descriptor)


@contextmanager
def _new(
    path: Path, data: bytes, mode: int, *, owner: int = -1, group: int | None = None
) -> Iterator[Path]:
    """Write a file beside another, under a name of its own that is gone afterwards."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        _write(temporary, data, mode, owner, -1 if group is None else group)
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _write(path: Path, data: bytes, mode: int, owner: int, group: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    # Never more than the owner's rights while it is written, and no umask in the end.
    with open(os.open(path, flags, _PRIVATE), "wb") as file:  # noqa: PTH123  a descriptor
        file.write(data)
        file.flush()
        os.fchown(file.fileno(), owner, group)
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _make_directories(directory: Path) -> None:
    for missing in reversed([d for d in (directory, *directory.parents) if not d.exists()]):
        with suppress(FileExistsError):
            missing.mkdir(mode=0o700)
            missing.chmod(_DIRECTORY_MODE)
            _synchronize(missing.parent)


def _synchronize(directory: Path) -> None:
    """Put the names in a directory on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise LocalFailure(f"{path} exists, and is kept as it is", "choose another name") from None
    except PermissionError:
        raise NotPermitted(f"you may not write {path}", "become root, with sudo") from None
    except OSError as error:
        raise LocalFailure(f"cannot write {path}: {error.strerror}") from None
