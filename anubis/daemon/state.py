"""What the daemon must find again after it was killed: one small file under /run/anubis.

The kernel is the database; this file says only what the kernel cannot: whose connections there
are, until when, and what was borrowed. It holds no secrets. Written before a thing is done, whole
and atomically, so that at any instant it is either the old or the new one.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anubis.daemon import lasting
from anubis.daemon.hooks import Owed
from anubis.daemon.log import event
from anubis.errors import LocalFailure
from anubis.gatekeeper import Connection, Role
from anubis.wireguard.keys import PublicKey
from anubis.wishes import Wish

__all__ = ["SavedState", "StateFile", "StateKeeper"]

# What reading text, JSON and the values in it can raise.
_UNREADABLE = (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
               RecursionError)  # fmt: skip
_SAVE_AGAIN_SECONDS = 10.0
_HINTS = {
    errno.ENOSPC: "make room in /run (df /run), then try again; what is up stays up",
    errno.EROFS: "make /run writable (mount -o remount,rw /run), then try again;"
    " what is up stays up",
    errno.EMFILE: "the daemon has no descriptors left: raise LimitNOFILE of its unit, or see who"
    " uses them (ls -l /proc/$(pidof anubis)/fd)",
}


@dataclass(frozen=True, slots=True)
class SavedState:
    """The content of the file.

    `peers` are the production peers that Anubis put there, by connection. `borrowed_mark` tells
    that the fwmark of a stranger's interface was 0 and is set for as long as a connection is up.
    `unfinished` are the connections whose ends were about to differ.
    """

    connections: tuple[Connection, ...] = ()
    peers: dict[str, PublicKey] = field(default_factory=dict)
    controls: dict[str, PublicKey] = field(default_factory=dict)  # control keys, by connection
    sysctls: dict[str, str] = field(default_factory=dict)
    borrowed_mark: bool = False
    making: tuple[str, ...] = ()  # interfaces that do not bear yet who made them
    mtu_before: int | None = None  # bytes; of a production interface while a connection is up
    unfinished: dict[str, float] = field(default_factory=dict)  # until when, by connection
    heard: tuple[str, ...] = ()  # peers whose control tunnel is yet to be forgotten
    bare: tuple[str, ...] = ()  # peers that have WireGuard only
    owed: dict[str, Owed] = field(default_factory=dict)  # PreDowns to be run, by connection
    wishes: tuple[Wish, ...] = ()  # what is wanted; when to ask again is decided anew

    def to_json(self) -> dict[str, Any]:
        """Return the form that the file has."""
        return {
            "connections": [
                {
                    "name": c.name,
                    "role": c.role.value,
                    "since": c.since,
                    "lease": c.lease,
                    "expires": c.expires,
                    "renew_at": c.renew_at if c.role is Role.INITIATOR else None,
                }
                for c in self.connections
            ],
            "peers": {name: key.base64() for name, key in self.peers.items()},
            "controls": {name: key.base64() for name, key in self.controls.items()},
            "sysctls": self.sysctls,
            "borrowed_mark": self.borrowed_mark,
            "making": list(self.making),
            "mtu_before": self.mtu_before,
            "unfinished": self.unfinished,
            "heard": list(self.heard),
            "bare": list(self.bare),
            "owed": {n: {"role": o.role.value, "lease": o.lease} for n, o in self.owed.items()},
            "wishes": [
                {
                    "name": wish.name,
                    "lease": wish.lease,
                    "until": None if wish.pinned else wish.until,
                }
                for wish in self.wishes
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SavedState:
        """Read that form. Raises KeyError, TypeError or ValueError."""
        return cls(
            connections=tuple(
                Connection(
                    name=str(c["name"]),
                    role=Role(c["role"]),
                    since=float(c["since"]),
                    lease=int(c["lease"]),
                    expires=float(c["expires"]),
                    renew_at=float("inf") if c["renew_at"] is None else float(c["renew_at"]),
                )
                for c in data["connections"]
            ),
            peers={n: PublicKey.from_base64(key) for n, key in data["peers"].items()},
            controls={n: PublicKey.from_base64(k) for n, k in data.get("controls", {}).items()},
            sysctls={str(k): str(v) for k, v in data["sysctls"].items()},
            borrowed_mark=bool(data["borrowed_mark"]),
            making=tuple(map(str, data["making"])),
            mtu_before=None if data["mtu_before"] is None else int(data["mtu_before"]),
            unfinished={str(n): float(until) for n, until in data["unfinished"].items()},
            heard=tuple(map(str, data["heard"])),
            bare=tuple(map(str, data.get("bare", ()))),
            owed={
                str(n): Owed(Role(o["role"]), int(o["lease"]))
                for n, o in data.get("owed", {}).items()
            },
            wishes=tuple(
                Wish(
                    name=str(w["name"]),
                    lease=None if w["lease"] is None else int(w["lease"]),
                    until=float("inf") if w.get("until") is None else float(w["until"]),
                )
                for w in data["wishes"]
            ),
        )


class StateFile:
    """Reads and writes the state; knows when nothing changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = ""

    def load(self) -> SavedState:
        """Return what an earlier run left; an unreadable file is reported and counts as none."""
        try:
            return SavedState.from_json(json.loads(self._path.read_text()))
        except FileNotFoundError:
            return SavedState()
        except _UNREADABLE as error:
            event(logging.WARNING, "state_unreadable", path=self._path, reason=error)
            return SavedState()

    def save(self, state: SavedState) -> None:
        """Write the state if it differs from what was written last. Raises LocalFailure."""
        text = json.dumps(state.to_json())
        if text == self._written:
            return
        try:
            lasting.put(self._path, text.encode(), lasting=False)  # /run is gone with the power
        except OSError as error:
            raise LocalFailure(
                f"{error.strerror}: {self._path}, which has to say what is about to be done",
                _HINTS.get(error.errno or 0, f"see: ls -ld {self._path.parent}"),
            ) from error
        self._written = text


class StateKeeper:
    """Writes what `state` returns; what could not be written is tried again now and then."""

    def __init__(self, file: StateFile, state: Callable[[], SavedState]) -> None:
        self._file = file
        self._state = state
        self._again: asyncio.TimerHandle | None = None

    def save(self) -> None:
        """Write the state. Raises LocalFailure if that cannot be.

        Who is about to change something has to heed that: a daemon that is killed could not find
        again what it did.
        """
        self._write(self._state())

    def leave(self, state: SavedState) -> None:
        """Write what is left at the end, if that can be."""
        with suppress(LocalFailure):
            self._write(state)
        if self._again is not None:
            self._again.cancel()

    def _write(self, state: SavedState) -> None:
        failed_before = self._again is not None
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            self._file.save(state)
        except LocalFailure as error:
            if not failed_before:
                event(logging.ERROR, "state_not_saved", reason=error.message)
            loop = asyncio.get_running_loop()
            self._again = loop.call_later(_SAVE_AGAIN_SECONDS, self._try)
            raise
        if failed_before:
            event(logging.INFO, "state_saved")

    def _try(self) -> None:
        with suppress(LocalFailure):
            self.save()
