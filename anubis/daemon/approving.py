"""Approving what somebody waits for: at this host, or as a peer at another.

Owns what a person here can do about it. Refuses to know how long anybody waits (`approvals`), and
how a peer that was approved is let in (`serving`).
"""

from __future__ import annotations

import asyncio

from anubis.daemon.parts import Parts
from anubis.daemon.serving import Serving
from anubis.errors import LocalFailure, Refused
from anubis.events import Approval
from anubis.protocol.wire import Result, Verb
from anubis.refusal import refusal

__all__ = ["Approving"]

_BY = "a person at this host"


class Approving:
    """Approves, and tells who waits."""

    def __init__(self, parts: Parts, serving: Serving) -> None:
        self._parts = parts
        self._serving = serving

    async def approve(self, name: str | None, at: str | None, timeout_seconds: float) -> Approval:
        """Approve `name`, if one is given, here or at another host; return who waits there still.

        Here everybody may be approved, there who waits for us. Raises UnknownConnection,
        LocalFailure if nobody of that name waits here, and of another host Refused and NoAnswer.
        """
        if at is None:
            return self._here(name)
        return await self._there(name, at, timeout_seconds)

    def _here(self, name: str | None) -> Approval:
        gatekeeper, now = self._parts.gatekeeper, self._parts.clock.boot()
        if name is not None:
            peer = gatekeeper.peer(name)
            if not gatekeeper.approve(peer, now):
                raise LocalFailure(
                    f"{peer.name} does not wait for an approval", "anubis approve tells who does"
                )
            self._serving.admit(peer, by=_BY)
        return Approval(name, gatekeeper.waiting(now))

    async def _there(self, name: str | None, at: str, timeout_seconds: float) -> Approval:
        peer = self._parts.gatekeeper.peer(at)
        control = self._parts.control
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        try:
            reply = await control.ask(peer, Verb.APPROVE, deadline=deadline, subject=name)
        finally:
            if not control.is_asking(peer):
                await self._parts.silence.fall(peer)
        if reply.granted:
            return Approval(name, reply.waiting)
        error = refusal(peer.name, reply)
        if reply.result == Result.NOT_PERMITTED:
            hint = f"anubis approve --at {peer.name} tells who waits for this host"
            raise Refused(error.message, hint, error.result)
        raise error
