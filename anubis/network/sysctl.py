"""Read and write kernel parameters of the network namespace that the process is in.

Owns the path of a parameter under /proc/sys; refuses to know which are wanted or why.
"""

from __future__ import annotations

import errno
from pathlib import Path

from anubis.network.errors import explain

__all__ = ["read_sysctl", "write_sysctl"]

_ROOT = Path("/proc/sys")


def read_sysctl(name: str) -> str:
    """Return the value of a parameter such as "net.ipv4.ip_forward". Raises NetworkError."""
    try:
        return _path(name).read_text(encoding="ascii").strip()
    except OSError as error:
        raise explain(f"read the kernel parameter {name}", error.errno or errno.EIO) from error


def write_sysctl(name: str, value: str) -> None:
    """Set a parameter. Raises NetworkError."""
    try:
        _path(name).write_text(value, encoding="ascii")
    except OSError as error:
        what = f"set the kernel parameter {name} to {value}"
        raise explain(what, error.errno or errno.EIO) from error


def _path(name: str) -> Path:
    return _ROOT.joinpath(*name.split("."))
