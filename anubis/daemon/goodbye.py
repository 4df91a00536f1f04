"""Goodbyes: `gone`, said to a far end when a connection is down here, so that it need not guess.

Owns the words for why, for how long a goodbye is repeated until it is acknowledged, and that all of
them together do not hold up the end of the daemon. Refuses to know what is left to undo.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from enum import StrEnum
from math import inf

from anubis.daemon.control_plane import ControlPlane
from anubis.daemon.log import event
from anubis.errors import AnubisError
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.gatekeeper import Gatekeeper
from anubis.protocol.wire import Result, Verb

__all__ = ["GOODBYE_SECONDS", "Goodbyes", "Reason"]

GOODBYE_SECONDS = 2.0  # from a goodbye, or from the beginning of the daemon's end, to its last try


class Reason(StrEnum):
    """Why a connection ends: the words of REASON in `gone` (docs/protocol.md, section 11)."""

    SHUTDOWN = "shutdown"
    SUSPEND = "suspend"
    EXPIRED = "expired"
    DOWN = "down"
    UNDONE = "undone"
    REVOKED = "revoked"
    NOT_PERMITTED = "not_permitted"
    CHANGED = "changed"
    IDLE = "idle"


class Goodbyes:
    """Says goodbye through the control plane."""

    def __init__(self, control: ControlPlane, gatekeeper: Gatekeeper) -> None:
        self._control = control
        self._gatekeeper = gatekeeper
        self._cut_off = inf

    def hurry(self) -> None:
        """End all goodbyes together, also those that are still to come: the daemon is ending."""
        self._cut_off = min(self._cut_off, asyncio.get_running_loop().time() + GOODBYE_SECONDS)

    def deadline(self) -> float:
        """Return, in the loop's time, when a goodbye that begins now is given up."""
        return min(self._cut_off, asyncio.get_running_loop().time() + GOODBYE_SECONDS)

    async def say(self, peer: AuthorizedPeer, reason: str) -> bool:
        """Tell one far end; return whether it acknowledged that it is down. If not, log that.

        It may not refuse, whatever it lets us ask for: nothing is asked. Otherwise than after
        `down`, its side is not wanted down but cannot be up, as ours is not. Where only WireGuard
        runs, nobody is asked: what stays unanswered would cost the peer its session.
        """
        if peer.name in self._gatekeeper.bare:
            return False
        try:
            reply = await self._control.ask(
                peer, Verb.GONE, deadline=self.deadline(), reason=reason
            )
        except AnubisError as error:
            event(logging.WARNING, "not_told", connection=peer.name, reason=error.message)
            return False
        return reply.granted or reply.result == Result.NO_CONNECTION

    async def say_all(self, peers: Iterable[AuthorizedPeer], reason: str) -> None:
        """Tell several far ends at one time; none waits for another."""
        await asyncio.gather(*(self.say(peer, reason) for peer in peers))
