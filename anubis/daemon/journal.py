"""The journal's own protocol: one datagram an entry, its fields apart from one another.

Owns the form (https://systemd.io/JOURNAL_NATIVE_PROTOCOL) and the way into it. Refuses to know what
is logged. What the journal does not take goes to standard error, where it reads lines.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path

__all__ = ["PRIORITIES", "SOCKET", "JournalHandler", "encode", "leads_to_journal"]

SOCKET = Path("/run/systemd/journal/socket")
PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}  # RFC 5424


def encode(fields: Mapping[str, str]) -> bytes:
    """Return the datagram of an entry. Names are capitals, digits and underscores."""
    parts = []
    for name, text in fields.items():
        value = text.encode(errors="backslashreplace")
        # A value in which lines end is preceded by its length, so that it cannot forge a field.
        size = b"\n" + len(value).to_bytes(8, "little") if b"\n" in value else b"="
        parts.append(name.encode("ascii") + size + value + b"\n")
    return b"".join(parts)


def leads_to_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """Tell whether what is written to a descriptor ends in the journal (systemd.exec(5))."""
    stream = environment.get("JOURNAL_STREAM")
    if not stream:
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Sends records to the journal; those that it does not take go to `otherwise`.

    A record's attribute `anubis` holds its own fields, with names without the prefix.
    """

    def __init__(self, otherwise: logging.Handler, path: Path = SOCKET) -> None:
        super().__init__()
        self._otherwise = otherwise
        self._path = str(path)
        flags = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_UNIX, flags)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record. It never waits: a journal that is behind holds nobody up."""
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(PRIORITIES.get(record.levelname, 6)),
            "SYSLOG_IDENTIFIER": "anubisd",
        }
        for name, value in getattr(record, "anubis", {}).items():
            fields[f"ANUBIS_{name}"] = value
        try:
            self._socket.sendto(encode(fields), self._path)
        except OSError:  # there is none, it is full, or the entry is too long for it
            self._otherwise.emit(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()
