"""Falling silent after the last word to a peer, also when that peer speaks once more.

A daemon whose reply was lost makes its control tunnel anew and repeats the request, though we have
forgotten it by then; it is answered, and a session stands here that nobody ends. Owns when to look
again, also after a session could not be forgotten. Refuses to know what was said: that a peer has
spoken is all it is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from anubis.daemon.control_plane import ControlPlane
from anubis.daemon.log import event
from anubis.errors import AnubisError
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.gatekeeper import Gatekeeper

__all__ = ["QUIET_SECONDS", "Silence"]

QUIET_SECONDS = 6.0  # longer than a daemon waits in an exchange before it speaks again


class Silence:
    """Has the peers forgotten that said nothing for a while, and have no connection.

    `save` writes `names` down.
    """

    def __init__(
        self, control: ControlPlane, gatekeeper: Gatekeeper, save: Callable[[], None]
    ) -> None:
        self._control = control
        self._gatekeeper = gatekeeper
        self._save = save
        self._heard: dict[str, float] = {}  # loop time of the last word; authorized peers only
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopped = False

    def heard(self, peer: AuthorizedPeer) -> None:
        """Note that a peer's daemon has spoken."""
        if self._stopped:
            return
        self._heard[peer.name] = asyncio.get_running_loop().time()
        if peer.name not in self._tasks:
            task = self._tasks[peer.name] = asyncio.create_task(self._wait(peer))
            task.add_done_callback(lambda _: self._tasks.pop(peer.name, None))
            self._save()

    async def fall(self, peer: AuthorizedPeer) -> None:
        """After the last word to a peer whose connection is down: leave no session behind.

        Then `wg show` is what it was before, and not even WireGuard sends anything any more. If it
        fails it is tried again. Where only WireGuard runs nobody would make the other end anew: it
        would send into the session that is forgotten here for 15 s.
        """
        try:
            is_up = self._gatekeeper.connection(peer.name) is not None
            if not is_up and peer.name not in self._gatekeeper.bare:
                await self._control.forget(peer)
        except AnubisError as error:
            event(logging.WARNING, "not_silent", peer=peer.name, reason=error.message)
            self.heard(peer)

    @property
    def names(self) -> tuple[str, ...]:
        """The peers that are yet to be forgotten, for the next run should this one be killed."""
        return tuple(self._heard)

    def stop(self) -> None:
        """Look no more; the control plane is about to go."""
        self._stopped = True
        for task in tuple(self._tasks.values()):
            task.cancel()

    async def _wait(self, peer: AuthorizedPeer) -> None:
        """Wait until a peer has been quiet for long enough, then forget its session."""
        loop = asyncio.get_running_loop()
        while (heard := self._heard.get(peer.name)) is not None:
            if self._control.is_asking(peer):
                heard = self._heard[peer.name] = loop.time()  # we speak: the session is in use
            if (pause := heard + QUIET_SECONDS - loop.time()) > 0:
                await asyncio.sleep(pause)
            else:
                del self._heard[peer.name]
                await self._forget(peer)

    async def _forget(self, peer: AuthorizedPeer) -> None:
        try:
            has_session = await self._control.has_session(peer)
        except AnubisError:
            has_session = True  # perhaps
        if has_session:
            await self.fall(peer)
