"""What everything that acts on connections acts through, and the one way to end a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from anubis.daemon.clock import Clock
from anubis.daemon.control_plane import ControlPlane
from anubis.daemon.goodbye import Goodbyes, Reason
from anubis.daemon.hooks import Hooks, Occasion, Owed, known_reason, patience
from anubis.daemon.log import event
from anubis.daemon.production import Production
from anubis.daemon.silence import Silence
from anubis.errors import LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.gatekeeper import Gatekeeper, Role

__all__ = ["Parts"]

_UNUSED = "idle for too long, says the far end's administrator; anubis up brings it back"


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one daemon.

    `save` writes the state file and has the leases looked at; it raises LocalFailure if the file
    cannot be written. `look_again` has the guard look for what could not be taken away.
    """

    gatekeeper: Gatekeeper
    control: ControlPlane
    goodbyes: Goodbyes
    production: Production
    clock: Clock
    random: Callable[[int], bytes]
    silence: Silence
    hooks: Hooks
    save: Callable[[], None]
    look_again: Callable[[], None]

    def jitter(self) -> float:
        """Return a random number in [0, 1)."""
        return self.random(1)[0] / 256

    def note(self, peer: AuthorizedPeer, lease: int | None = None) -> None:
        """Write down that what the two ends have is about to differ, until it is `settled`.

        `lease` is what the far end is asked for, in seconds; without, it has what we have. Raises
        LocalFailure if that cannot be written; then it is not noted.
        """
        before = self.gatekeeper.unfinished.get(peer.name)
        self._note(peer, lease)
        try:
            self.save()
        except LocalFailure:
            self.gatekeeper.settled(peer.name)
            if before is not None:
                self.gatekeeper.begun(peer.name, before)
            raise

    def note_end(self, peer: AuthorizedPeer) -> None:
        """Note the same of a connection that is going down, which must always be possible."""
        self._note(peer)
        self.try_to_save()

    def note_bare(self, peer: AuthorizedPeer) -> None:
        """Note that a peer has nothing but WireGuard: nobody is there to be told anything."""
        if peer.name not in self.gatekeeper.bare:
            self.gatekeeper.bare.add(peer.name)
            self.try_to_save()

    def try_to_save(self) -> None:
        """Write the state file, or leave that for later: what it has is out of date, not wrong."""
        with suppress(LocalFailure):
            self.save()

    def _note(self, peer: AuthorizedPeer, lease: int | None = None) -> None:
        connection = self.gatekeeper.connection(peer.name)
        left = connection.expires if connection else self.clock.boot()
        self.gatekeeper.begun(peer.name, self.clock.boot() + lease if lease else left)

    def settled(self, peer: AuthorizedPeer) -> None:
        """Write down that both ends have the same again."""
        self.gatekeeper.settled(peer.name)
        self.try_to_save()

    async def begin(
        self,
        peer: AuthorizedPeer,
        role: Role,
        lease: int,
        instead_of: Iterable[AuthorizedPeer] = (),
    ) -> None:
        """Note that a connection is up for `lease` seconds, mark its packets and run its PostUp.

        In the same write of the state file those that it replaces are noted as about to go. Raises
        LocalFailure if that cannot be written, unless it was up before, if the administrator has
        removed or changed the entry meanwhile, and if PostUp fails.
        """
        self.gatekeeper.check_current(peer)
        is_new = self.gatekeeper.connection(peer.name) is None
        self.gatekeeper.settled(peer.name)
        for rival in instead_of:
            self._note(rival)
        self.gatekeeper.opened(
            peer.name,
            role,
            lease,
            self.clock.boot(),
            since=self.clock.unix(),
            jitter=self.jitter(),
        )
        if is_new:
            if peer.post_up:
                self.hooks.coming.add(peer.name)
            self.save()
        else:
            self.try_to_save()
        await self.control.set_mark(self.production.mark)
        if role is Role.INITIATOR:
            await self.control.keep_alive(peer, on=True)
        if is_new:
            await self._post_up(peer, Owed(role, lease))

    async def _post_up(self, peer: AuthorizedPeer, owed: Owed) -> None:
        """Run PostUp; if the connection has ended meanwhile, PreDown too. Raises LocalFailure."""
        began = self.gatekeeper.connection(peer.name)
        await self.hooks.post_up(await self._occasion(peer, owed))
        now = self.gatekeeper.connection(peer.name)
        if began is None or now is None or now.since != began.since:
            await self.leave(peer, self.gatekeeper.ended.get(peer.name, ""))
            raise LocalFailure(f"{peer.name} ended while it came up")

    async def leave(
        self, peer: AuthorizedPeer, reason: str, seconds: float | None = None
    ) -> str | None:
        """Run PreDown, unless that is done, and wait for it so long, or as `reason` lets us.

        Return why it failed, if that is known by then.
        """
        owed = self.hooks.owed.get(peer.name)
        if owed is None:
            return None
        occasion = await self._occasion(peer, owed, known_reason(reason))
        waits = patience(reason) if seconds is None else seconds
        return await self.hooks.pre_down(occasion, waits)

    async def _occasion(
        self, peer: AuthorizedPeer, owed: Owed, reason: str | None = None
    ) -> Occasion:
        endpoint = None
        if peer.post_up or peer.pre_down:
            with suppress(LocalFailure):
                seen = await self.production.peer(peer)
                endpoint = seen.endpoint if seen else None
        return Occasion(peer, owed, self.production.name, endpoint, reason)

    async def end(self, peer: AuthorizedPeer, reason: str) -> str | None:
        """Remove this side of a connection: PreDown, peer, routes, keepalive, and the note of it.

        `reason` is what the status tells from then on. What cannot be taken away now is tried again
        until it can; return why not, in words. A cancellation waits until all was tried.
        """
        ending = asyncio.create_task(self._end(peer, reason))
        try:
            return await asyncio.shield(ending)
        except asyncio.CancelledError:
            await ending
            raise

    async def _end(self, peer: AuthorizedPeer, reason: str) -> str | None:
        await self.leave(peer, reason)
        self.gatekeeper.closed(peer.name, reason)
        self.hooks.coming.discard(peer.name)
        wishes = self.gatekeeper.wishes
        if reason == Reason.IDLE and wishes.is_pinned(peer.name):
            # It would come up only to be idle there again.
            wishes.drop(peer.name)
            event(logging.WARNING, "unpinned", connection=peer.name, reason=_UNUSED)
        wishes.end(peer.name, self.clock.boot(), self.jitter())
        failures = []
        untold = peer.name in self.gatekeeper.bare
        for step in (
            self.production.remove(peer, untold=untold),
            self.control.keep_alive(peer, on=False),
        ):
            try:
                await step
            except LocalFailure as error:
                failures.append(error.message)
        self.try_to_save()
        if not failures:
            return None
        event(logging.ERROR, "not_taken_away", connection=peer.name, reason=failures[0])
        self.look_again()
        return failures[0]
