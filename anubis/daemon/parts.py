"""What everything that acts on connections acts through, and the one way to end a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from anubis.daemon.clock import Clock
from anubis.daemon.control_plane import ControlPlane
from anubis.daemon.goodbye import Goodbyes
from anubis.daemon.production import Production
from anubis.errors import AnubisError
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.gatekeeper import Gatekeeper, Role

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one daemon. `save` writes the state file and has the leases looked at."""

    gatekeeper: Gatekeeper
    control: ControlPlane
    goodbyes: Goodbyes
    production: Production
    clock: Clock
    random: Callable[[int], bytes]
    save: Callable[[], None]

    def jitter(self) -> float:
        """Return a random number in [0, 1)."""
        return self.random(1)[0] / 256

    def note(self, peer: AuthorizedPeer, lease: int | None = None) -> None:
        """Write down that what the two ends have is about to differ, until it is `settled`.

        `lease` is what the far end is asked for, in seconds; without, it has what we have.
        """
        self._note(peer, lease)
        self.save()

    def _note(self, peer: AuthorizedPeer, lease: int | None = None) -> None:
        connection = self.gatekeeper.connection(peer.name)
        left = connection.expires if connection else self.clock.boot()
        self.gatekeeper.begun(peer.name, self.clock.boot() + lease if lease else left)

    def settled(self, peer: AuthorizedPeer) -> None:
        """Write down that both ends have the same again."""
        self.gatekeeper.settled(peer.name)
        self.save()

    async def begin(
        self,
        peer: AuthorizedPeer,
        role: Role,
        lease: int,
        instead_of: Iterable[AuthorizedPeer] = (),
    ) -> None:
        """Note that a connection is up for `lease` seconds, and mark its bearer packets.

        In the same write of the state file those that it replaces are noted as about to go. Raises
        LocalFailure if the administrator has removed or changed the entry meanwhile.
        """
        self.gatekeeper.check_current(peer)
        self.gatekeeper.settled(peer.name)
        for rival in instead_of:
            self._note(rival)
        self.gatekeeper.opened(
            peer.name,
            role,
            lease,
            self.clock.boot(),
            since=self.clock.unix_ns() / 1e9,
            jitter=self.jitter(),
        )
        self.save()
        await self.control.set_mark(self.production.mark)
        if role is Role.INITIATOR:
            await self.control.keep_alive(peer, on=True)

    async def end(self, peer: AuthorizedPeer, reason: str) -> None:
        """Remove this side of a connection: peer, routes, keepalive, and the note of it.

        `reason` is what the status tells from then on. A cancellation waits until that is done.
        """
        ending = asyncio.create_task(self._end(peer, reason))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            with suppress(AnubisError):
                await ending
            raise

    async def _end(self, peer: AuthorizedPeer, reason: str) -> None:
        self.gatekeeper.closed(peer.name, reason)
        self.gatekeeper.wishes.end(peer.name, self.clock.boot(), self.jitter())
        await self.production.remove(peer)
        await self.control.keep_alive(peer, on=False)
        self.save()

    async def fall_silent(self, peer: AuthorizedPeer) -> None:
        """After the last word to a peer whose connection is down: leave no session behind.

        Then `wg show` is what it was before, and not even WireGuard sends anything any more.
        """
        if self.gatekeeper.connection(peer.name) is None:
            await self.control.forget(peer)
