"""The service: as whom systemd runs the daemon, and how it comes by files that root alone reads.

Owns the names that `systemd/` and the code have to agree on. Refuses to know what the files say and
whether they can be trusted (`keyfile`).
"""

from __future__ import annotations

import grp
import os
import shlex
from pathlib import Path

__all__ = ["SERVICE", "credential", "denied_hint", "denied_key_hint", "service_group"]

SERVICE = "anubisd"  # its user and its group (systemd/anubis.sysusers)


def service_group() -> int | None:
    """Return the number of the service's group, or None where it is not installed."""
    try:
        return grp.getgrnam(SERVICE).gr_gid
    except KeyError:
        return None


def credential(path: Path, directory: Path | None) -> bytes | None:
    """Return what systemd handed over for a file, in `directory`; None if that is nothing.

    A blank one stands for a file that does not exist: the unit says so, because systemd would not
    even start us without a file that it shall hand over. Raises OSError.
    """
    if directory is None:
        return None
    try:
        data = (directory / _credential_name(path)).read_bytes()
    except FileNotFoundError:
        return None
    return data if data.strip() else None


def denied_hint(path: Path) -> str:
    """Say what helps whoever may not read a file."""
    if os.getegid() != service_group():
        return "become root, with sudo"
    file = shlex.quote(str(path))
    return f"let the service read it: chgrp {SERVICE} {file} && chmod 640 {file}"


def denied_key_hint(path: Path) -> str:
    """Say what helps whoever may not read a private key."""
    if os.getegid() != service_group():
        return "become root, with sudo"
    line = f"LoadCredential={_credential_name(path)}:{path}"
    return f"systemctl edit anubis, and add to [Service]: {line}"


def _credential_name(path: Path) -> str:
    """Return a path without its first slash and with dashes for the others, as units have it."""
    return str(path).strip("/").replace("/", "-")
