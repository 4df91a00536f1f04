"""Telling systemd how the daemon is (sd_notify(3)): one datagram to $NOTIFY_SOCKET, if set.

Owns the readiness protocol and the watchdog's pace. Refuses to know what the daemon does: that its
event loop turns is what the watchdog is told, and nothing in it waits without a deadline.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

__all__ = ["feed_watchdog", "notify", "watchdog_seconds"]

_SEND_SECONDS = 1.0  # for a systemd whose queue is full


def notify(*states: str) -> None:
    """Send assignments such as "READY=1". Without systemd, or if it is deaf, nothing happens."""
    with suppress(OSError), _sender() as sender:
        _send(sender, *states)


def _sender() -> socket.socket:
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    sender.settimeout(_SEND_SECONDS)
    return sender


def _send(sender: socket.socket, *states: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError):
        sender.sendto("\n".join(states).encode(), address)


def watchdog_seconds(environment: Mapping[str, str], process: int) -> float | None:
    """Return how often systemd wants a sign of life of a process; None if it wants none.

    As sd_watchdog_enabled(3) has it, a request that names another process is not for this one.
    """
    if environment.get("WATCHDOG_PID", str(process)) != str(process):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() and int(text) > 0 else None


async def feed_watchdog() -> None:
    """Give a sign of life in half of the time that systemd allows, until cancelled."""
    allowed = watchdog_seconds(os.environ, os.getpid())
    if allowed is None:
        await asyncio.Event().wait()
        return
    with _sender() as sender:  # kept: when it is needed there may be no descriptor left
        while True:
            _send(sender, "WATCHDOG=1")
            await asyncio.sleep(allowed / 2)
