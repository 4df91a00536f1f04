"""Falling silent after the last word to a peer, also when that peer speaks once more.

A daemon whose reply was lost makes its control tunnel anew and repeats the request, though we have
forgotten it by then; it is answered, and a session stands here that nobody ends. Owns when to look
again. Refuses to know what was said: that a peer has spoken is all it is told.
"""

from __future__ import annotations

import asyncio
import logging

from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.errors import AnubisError
from anubis.files.authorized_peers import AuthorizedPeer

__all__ = ["QUIET_SECONDS", "Silence"]

QUIET_SECONDS = 6.0  # longer than a daemon waits in an exchange before it speaks again


class Silence:
    """Has the peers forgotten that said nothing for a while, and have no connection."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._heard: dict[str, float] = {}  # loop time of the last word; authorized peers only
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def heard(self, peer: AuthorizedPeer) -> None:
        """Note that a peer's daemon has spoken."""
        self._heard[peer.name] = asyncio.get_running_loop().time()
        if peer.name not in self._tasks:
            task = self._tasks[peer.name] = asyncio.create_task(self._wait(peer))
            task.add_done_callback(lambda _: self._tasks.pop(peer.name, None))

    @property
    def names(self) -> tuple[str, ...]:
        """The peers that are yet to be forgotten, for the next run should this one be killed."""
        return tuple(self._heard)

    def stop(self) -> None:
        """Look no more; the control plane is about to go."""
        for task in tuple(self._tasks.values()):
            task.cancel()

    async def _wait(self, peer: AuthorizedPeer) -> None:
        """Wait until a peer has been quiet for long enough, then forget its session."""
        loop = asyncio.get_running_loop()
        while (heard := self._heard.get(peer.name)) is not None:
            if self._parts.control.is_asking(peer):
                heard = self._heard[peer.name] = loop.time()  # we speak: the session is in use
            if (pause := heard + QUIET_SECONDS - loop.time()) > 0:
                await asyncio.sleep(pause)
            else:
                del self._heard[peer.name]
                await self._forget(peer)

    async def _forget(self, peer: AuthorizedPeer) -> None:
        try:
            if await self._parts.control.has_session(peer):
                await self._parts.fall_silent(peer)
        except AnubisError as error:
            event(logging.WARNING, "not_silent", peer=peer.name, reason=error.message)
