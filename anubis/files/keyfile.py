"""Files that only their owner may have written, and keys that only their owner may read.

Owns the rule which file is trusted, be it read or run: as OpenSSH has it, a regular file of root or
of the running user that nobody else can write, below directories that nobody else can write.
Refuses to know what the files say, but for private keys in the form of `wg genkey`.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from anubis.errors import ConfigError, Location, Problem
from anubis.files.service import (
    SERVICE,
    credential,
    denied_hint,
    denied_key_hint,
    service_group,
)
from anubis.wireguard.errors import KeyFormatError
from anubis.wireguard.keys import PrivateKey

__all__ = [
    "MAX_FILE",
    "GuardedFile",
    "check_directories",
    "check_program",
    "private_hint",
    "read_guarded",
    "read_private_key",
]

MAX_FILE = 64 * 2**20  # bytes
_MAX_KEY_FILE = 1024  # bytes; `wg genkey` writes 45

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_READABLE = stat.S_IRGRP | stat.S_IROTH


@dataclass(frozen=True, slots=True)
class GuardedFile:
    """The content of a trusted file, and who by its mode can read it."""

    path: Path
    data: bytes
    private: bool  # nobody but the owner and the service
    owner_only: bool = False


def read_guarded(
    path: Path, *, limit: int = MAX_FILE, missing: str | None = None, denied: str | None = None
) -> GuardedFile:
    """Read a trusted file of at most `limit` bytes. Raises ConfigError otherwise.

    Symbolic links are followed, so that files may be kept by a tool elsewhere; what counts is the
    file that the name leads to, and every directory on the way. `missing` is the hint for a file
    that does not exist, `denied` for one that we may not read, instead of the usual one.
    """
    with _problems_of(path, missing, denied or denied_hint(path)):
        real = path.resolve(strict=True)
        check_directories(path)
        # The real path has no link at its end: one that appears now was put there to deceive.
        # O_NONBLOCK keeps a named pipe from holding us until somebody writes.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(real, flags)
        try:
            status = os.fstat(descriptor)
            _check_file(path, status)
            data = _read(descriptor, limit + 1)
        finally:
            os.close(descriptor)
    if len(data) > limit:
        raise _refusal(path, f"more than {limit} bytes", "this cannot be the right file")
    readers = status.st_mode & _READABLE
    private = not readers or (readers == stat.S_IRGRP and status.st_gid == service_group())
    return GuardedFile(path, data, private=private, owner_only=not readers)


def read_private_key(path: Path, credentials: Path | None = None) -> PrivateKey:
    """Read a key file as `wg genkey` writes it: 44 characters and a line feed.

    `credentials` is the directory of what systemd hands to its service. A key that is there is
    taken from there; its file, if there is one, must be as it has to be all the same.

    Raises ConfigError, which never shows anything of the content, if the file is not trusted,
    readable by others, or holds no key.
    """
    data = _handed_over(path, credentials)
    if data is None:
        missing, denied = "`anubis keygen` makes it", denied_key_hint(path)
        file = read_guarded(path, limit=_MAX_KEY_FILE, missing=missing, denied=denied)
        if not file.owner_only:
            raise _exposed(path)
        data = file.data
    try:
        key = PrivateKey.from_base64(data.rstrip(b" \t\r\n").decode("ascii"))
    except (UnicodeDecodeError, KeyFormatError):
        raise _refusal(
            path,
            "this is no private key (not shown)",
            f"44 characters, as `wg genkey` prints; rm {_quoted(path)} && anubis keygen makes one",
        ) from None
    if not any(bytes(key)):
        raise _refusal(
            path,
            "this private key is all zeros, which WireGuard takes for none",
            f"rm {_quoted(path)} && anubis keygen makes one",
        )
    return key


def _handed_over(path: Path, credentials: Path | None) -> bytes | None:
    """Return the key that systemd handed over, unless its file is unsafe; None if there is none.

    The copy that systemd made for us is not looked at: its modes are an access control list's.
    """
    with _problems_of(path, None, None):
        data = credential(path, credentials)
    if data is not None:
        # A file that does not exist here, or cannot be seen, is one that nobody else sees either.
        with suppress(FileNotFoundError, PermissionError):
            status = path.stat()
            check_directories(path)
            _check_file(path, status)
            if status.st_mode & _READABLE:
                raise _exposed(path)
    return data


def _exposed(path: Path) -> ConfigError:
    return _refusal(path, "others can read this private key", f"chmod 600 {_quoted(path)}")


def private_hint(path: Path) -> str:
    """Return the command that keeps others, but not the service, from reading a file."""
    if service_group() is None:
        return f"chmod 600 {_quoted(path)}"
    return f"chgrp {SERVICE} {_quoted(path)} && chmod 640 {_quoted(path)}"


def check_directories(path: Path) -> None:
    """Refuse a file below a directory in which somebody else could put another in its place.

    Looks at the directories of the name as given and at those of the file that it leads to. Raises
    ConfigError, and OSError if one cannot be looked at.
    """
    given = Path(os.path.abspath(path))  # noqa: PTH100  links must stay, absolute() leaves ".."
    for directory in dict.fromkeys([*given.parents, *path.resolve().parents]):
        status = directory.stat()
        if status.st_uid not in _trusted_owners():
            raise _refusal(
                directory,
                f"this directory of {path} belongs to user {status.st_uid}",
                f"chown root {_quoted(directory)}",
            )
        # In a sticky directory, as /tmp, only the owner of a name can take it away.
        if status.st_mode & _WRITABLE and not status.st_mode & stat.S_ISVTX:
            raise _refusal(
                directory,
                f"others can write in this directory of {path}",
                f"chmod go-w {_quoted(directory)}",
            )


def check_program(path: Path) -> None:
    """Refuse a program that others could have put there, or that we may not run.

    It may still be replaced by its owner afterwards; who that is, is what is checked. Raises
    ConfigError.
    """
    with _problems_of(path, None, "chmod a+x its directories"):
        status = path.stat()
        check_directories(path)
    _check_file(path, status)
    if not os.access(path, os.X_OK):
        raise _refusal(path, "this program may not be run", f"chmod 755 {_quoted(path)}")


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(path, "this is not a regular file", "put a plain file there")
    if status.st_uid not in _trusted_owners():
        raise _refusal(
            path, f"this file belongs to user {status.st_uid}", f"chown root {_quoted(path)}"
        )
    if status.st_mode & _WRITABLE:
        raise _refusal(path, "others can write this file", f"chmod go-w {_quoted(path)}")


def _read(descriptor: int, limit: int) -> bytes:
    """Read up to `limit` bytes: the size of a file may change while it is read."""
    chunks = []
    while limit > 0 and (chunk := os.read(descriptor, min(limit, 2**20))):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


@contextmanager
def _problems_of(path: Path, missing: str | None, denied: str | None) -> Iterator[None]:
    """Turn what the system says about a file into a ConfigError."""
    try:
        yield
    except FileNotFoundError:
        raise _refusal(path, "there is no such file", missing) from None
    except PermissionError:
        raise _refusal(path, "you may not read this file", denied) from None
    except RuntimeError:  # Path.resolve, up to Python 3.12, for a circle of links
        raise _refusal(path, "a circle of symbolic links", "put a plain file there") from None
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror}", None) from None


def _trusted_owners() -> Iterable[int]:
    return {0, os.geteuid()}


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _refusal(path: Path, message: str, hint: str | None) -> ConfigError:
    return ConfigError([Problem(Location(path), message, hint)])
