"""The authorized-peers file read anew while the daemon lives.

Owns what a new file does to what is up: who is no longer authorized is cut off, at once and before
anybody is told; a connection whose entry changed gets what it says now; the others notice nothing.
One mistake in the file, and all stays as it is. Refuses to know when it is time (`main`, `api`,
`edits`).

`anubis.conf` and the keys are read at a start only; that they differ is said. An entry that expires
is gone as if it were removed then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from math import inf

from anubis.daemon.aside import Aside
from anubis.daemon.foresight import foreseen, reason_to_end, would_end
from anubis.daemon.goodbye import Reason
from anubis.daemon.log import event
from anubis.daemon.parts import Parts
from anubis.errors import AnubisError, ConfigError, LocalFailure, Problem
from anubis.events import Reloaded
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers, HostFiles
from anubis.files.revision import Revision, revise
from anubis.forecast import Difference
from anubis.wireguard.types import Device

__all__ = ["Reload"]

_LOOK_SECONDS = 60.0  # between looks at the calendar: somebody may set the clock
_RESTART = "systemctl restart anubis takes that up, and cuts no connection"


class Reload:
    """Brings the running daemon to what the file says now.

    `read` reads all files of the host, and may take long; `on_peers` has the machines of the
    protocol know the new entries.
    """

    def __init__(
        self,
        host: HostFiles,
        parts: Parts,
        read: Callable[[], HostFiles],
        on_peers: Callable[[AuthorizedPeers], None],
    ) -> None:
        self._host = host
        self._latest = host  # as read last, and found right
        self._parts = parts
        self._read = read
        self._on_peers = on_peers
        self._reading: Aside[HostFiles] = Aside("reload")  # one at a time
        self._lock = asyncio.Lock()
        self._wanted = False
        self._stirred = asyncio.Event()  # it is wanted, or something else will expire next
        self._asked = False  # by somebody who waits for what the log says
        self._mistakes: tuple[Problem, ...] = ()  # of the last reading, as they were told
        self._farewells: set[asyncio.Task[None]] = set()

    def want(self) -> None:
        """Have it done soon: a signal has come."""
        self._asked = True
        self.notice()

    def notice(self) -> None:
        """Have it done soon: a file was changed. What is as it was is not told again."""
        self._wanted = True
        self._stirred.set()

    async def run(self) -> None:
        """Serve until cancelled; what is wrong with a file is in the log."""
        while True:
            await self._sleep()
            try:
                if self._wanted:
                    asked, self._wanted, self._asked = self._asked, False, False
                    await self._now(asked=asked)
                else:
                    await self._expire()
            except ConfigError:
                pass  # each problem was logged
            except AnubisError as error:
                event(logging.ERROR, "reload_failed", reason=error.message)

    async def _sleep(self) -> None:
        """Sleep until a reload is wanted, or an entry may have expired."""
        left = self._latest.entries.next_expiry(self._latest.at) - self._parts.clock.unix()
        pause = None if left == inf else max(0.0, min(left, _LOOK_SECONDS))
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._stirred.wait()
        self._stirred.clear()

    async def _expire(self) -> None:
        """Cut off those whose entries have expired; no file is read for that."""
        async with self._lock:
            host, at = self._latest, self._parts.clock.unix()
            if host.entries.next_expiry(host.at) <= at:
                await self._carry_out(replace(host, at=at), asked=False)

    async def now(self) -> Reloaded:
        """Read the file and carry out what it changes; return when all who had to be are cut off.

        Raises ConfigError, and then nothing has changed; every problem is in the log. What has
        begun is brought to its end also when cancelled: a file cannot be half in force.
        """
        return await self._now(asked=True)

    async def _now(self, *, asked: bool) -> Reloaded:
        async with self._lock:
            try:
                host = await self._reading.begin(self._read)
            except ConfigError as error:
                known, self._mistakes = self._mistakes, error.problems
                if asked or known != error.problems:
                    for problem in error.problems:
                        event(logging.ERROR, "not_reloaded", reason=problem)
                raise
            asked |= bool(self._mistakes)  # whoever read of them wants to know that they are gone
            self._mistakes = ()
            return await self._carry_out(host, asked=asked)

    async def _carry_out(self, host: HostFiles, *, asked: bool) -> Reloaded:
        """Have this in force, also when cancelled."""
        self._latest = host
        self._stirred.set()
        work = asyncio.create_task(self._bring_about(host, asked=asked))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise

    async def foresee(self) -> Difference:
        """Read the file and tell what `now` would do, doing nothing. Raises ConfigError."""
        async with self._lock:
            host = await self._reading.begin(self._read)
            gatekeeper, production = self._parts.gatekeeper, self._parts.production
            device = Device(production.name, None, 0, 0)
            with suppress(LocalFailure):  # without one it would be made anew, with nobody on it
                device = await production.device()
            revision = revise(gatekeeper.peers, host.peers)
            connections = {connection.name: connection for connection in gatekeeper}
            at = self._parts.clock.unix()
            ended = would_end(revision, connections, device, production.peers, at)
            return foreseen(revision, ended, len(host.peers), self._other_files(host))

    def see_off(self, peers: Iterable[AuthorizedPeer]) -> None:
        """Begin to say goodbye to those who are not authorized any more, and expel them."""
        for peer in peers:
            self._begin(self._see_off(peer))

    async def stop(self) -> None:
        """Wait for the last words to those who were cut off, which have their own deadline."""
        if self._farewells:
            await asyncio.wait(set(self._farewells))

    async def _bring_about(self, host: HostFiles, *, asked: bool) -> Reloaded:
        gatekeeper, control = self._parts.gatekeeper, self._parts.control
        revision = revise(gatekeeper.peers, host.peers)
        is_news = asked or revision != Revision()
        warnings = self._other_files(host)
        were_up = {peer.name for peer in gatekeeper.up_peers()}
        # From here on nobody who was removed is listened to, whatever comes of the rest.
        gatekeeper.replace_peers(host.peers, revision.removed)
        self._on_peers(host.peers)
        self._parts.try_to_save()
        ended = [peer for peer in revision.removed if peer.name in were_up]
        for peer in ended:
            await self._cut(peer, Reason.REVOKED)
        await control.replace_peers(host.peers, added=revision.added, removed=revision.removed)
        await control.expel([peer for peer in revision.removed if peer.name not in were_up])
        self.see_off(ended)
        ended += await self._refit_all(revision)
        done = _summed_up(revision, ended, len(host.peers), warnings)
        if is_news:
            _tell(done)
        return done

    def _other_files(self, host: HostFiles) -> tuple[str, ...]:
        """Return what only a start takes up, in words."""
        found = []
        if host.config != self._host.config:
            found.append(f"{host.config.path} has changed: {_RESTART}")
        if host.own_keys() != self._host.own_keys():
            found.append(f"the keys of this host have changed: {_RESTART}")
        return tuple(found)

    async def _cut(self, peer: AuthorizedPeer, reason: Reason) -> None:
        """End this side of a connection."""
        await self._parts.end(peer, reason)
        event(logging.WARNING, "down", connection=peer.name, reason=reason)

    async def _refit_all(self, revision: Revision) -> list[AuthorizedPeer]:
        """Give connections that are up what their entries say now; return those that had to end.

        First each gives up what it no longer has: by the new file it may be another's.
        """
        gatekeeper = self._parts.gatekeeper
        up = [both for both in revision.changed if gatekeeper.connection(both[1].name) is not None]
        ended: list[AuthorizedPeer] = []
        for wants in (_less, _all):
            for old, new in up:
                if new not in ended and (reason := await self._refit(wants(old, new))):
                    ended.append(new)
                    gatekeeper.wishes.drop(new.name)
                    await self._cut(new, reason)
                    self._begin(self._tell(new, reason))
        return ended

    async def _refit(self, peer: AuthorizedPeer) -> Reason | None:
        """Give a connection the networks of its entry; return why it has to end if it has to."""
        gatekeeper, production = self._parts.gatekeeper, self._parts.production
        connection = gatekeeper.connection(peer.name)
        if connection is None:
            return None  # it ended by itself
        now, at = self._parts.clock.boot(), self._parts.clock.unix()
        if (reason := reason_to_end(connection, peer, at)) is not None:
            return reason
        gatekeeper.curtail(peer.name, now, at)
        try:
            gatekeeper.check_free(peer)
            await production.commit(peer, None)
            await production.settle(peer)
        except AnubisError as error:
            event(logging.ERROR, "not_refitted", connection=peer.name, reason=error.message)
            return Reason.CHANGED
        return None

    def _begin(self, farewell: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(farewell)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _tell(self, peer: AuthorizedPeer, reason: Reason) -> None:
        """Say goodbye to one whose entry stays."""
        await self._parts.goodbyes.say(peer, reason)
        await self._parts.silence.fall(peer)

    async def _see_off(self, peer: AuthorizedPeer) -> None:
        """Say goodbye to one who was removed, and close the control plane to it."""
        await self._parts.goodbyes.say(peer, Reason.REVOKED)
        try:
            await self._parts.control.expel([peer])
        except AnubisError as error:
            event(logging.ERROR, "not_expelled", peer=peer.name, reason=error.message)


def _less(old: AuthorizedPeer, new: AuthorizedPeer) -> AuthorizedPeer:
    return replace(new, allowed_ips=old.allowed_ips & new.allowed_ips)


def _all(_old: AuthorizedPeer, new: AuthorizedPeer) -> AuthorizedPeer:
    return new


def _summed_up(
    revision: Revision, ended: Collection[AuthorizedPeer], peers: int, warnings: tuple[str, ...]
) -> Reloaded:
    added = {peer.name for peer in revision.added}
    removed = {peer.name for peer in revision.removed}
    rekeyed = added & removed
    return Reloaded(
        peers=peers,
        added=tuple(sorted(added - rekeyed)),
        removed=tuple(sorted(removed - rekeyed)),
        changed=tuple(sorted({new.name for _, new in revision.changed} | rekeyed)),
        ended=tuple(sorted(peer.name for peer in ended)),
        warnings=warnings,
    )


def _tell(done: Reloaded) -> None:
    for text in done.warnings:
        event(logging.WARNING, "needs_restart", reason=text)
    event(
        logging.INFO,
        "reloaded",
        peers=done.peers,
        added=len(done.added),
        removed=len(done.removed),
        changed=len(done.changed),
        ended=",".join(done.ended) or None,
    )
