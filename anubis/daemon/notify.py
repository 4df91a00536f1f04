"""Telling systemd how the daemon is (sd_notify(3)): one datagram to $NOTIFY_SOCKET, if set."""

from __future__ import annotations

import os
import socket

__all__ = ["notify"]


def notify(*states: str) -> None:
    """Send assignments such as "READY=1". Without systemd, or if it is deaf, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto("\n".join(states).encode(), address)
        except OSError:
            return
