"""The daemon's process and its directory: one daemon a host.

Owns what is settled before anything else is done, and needs no part of the daemon. Whoever runs the
daemon owns the directory: systemd hands it to the service before it starts it; root, who runs a
daemon by hand, takes it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anubis.errors import LocalFailure

__all__ = ["credentials_directory", "only_one"]


def credentials_directory() -> Path | None:
    """Return where systemd has put what it hands to us, or None where it did not start us."""
    path = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(path) if path else None


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold the lock of the running daemon, in a directory of ours that is made where absent.

    The kernel drops the lock however the daemon ends. Raises LocalFailure if another one runs.
    """
    # Not for writing: it may be another user's, from an earlier run.
    flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with _usable(directory):
        directory.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(directory / "lock", flags, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalFailure(
                "another anubis daemon is running on this host", "systemctl status anubis"
            ) from None
        with _usable(directory):
            if os.geteuid() == 0 != directory.stat().st_uid:
                os.chown(directory, 0, 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _usable(directory: Path) -> Iterator[None]:
    """Turn an OSError into a LocalFailure."""
    try:
        yield
    except OSError as error:
        raise LocalFailure(
            f"cannot use {directory}: {error.strerror}",
            f"see: df {directory}; findmnt -T {directory}; ls -l {directory}",
        ) from error
