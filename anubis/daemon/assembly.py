"""The daemon assembled: which parts there are, started in their order and stopped in the reverse.

Owns what every part is given, and the moments at which the state file is written. Every part that
it starts, it stops, also when a later one fails to start: a daemon that cannot run leaves nothing
behind. Refuses to know signals and systemd, which are `main`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from anubis.daemon.api import ApiServer
from anubis.daemon.approving import Approving
from anubis.daemon.carrier import Carrier
from anubis.daemon.chronicle import Chronicle
from anubis.daemon.clock import Clock
from anubis.daemon.control_plane import ControlPlane
from anubis.daemon.goodbye import Goodbyes, Reason
from anubis.daemon.guard import Guard
from anubis.daemon.heritage import inherit
from anubis.daemon.hooks import Hooks
from anubis.daemon.idle import Idle
from anubis.daemon.inquiry import Inquiry
from anubis.daemon.interface import Making, explained
from anubis.daemon.leases import Leases
from anubis.daemon.log import event
from anubis.daemon.metrics import Metrics
from anubis.daemon.notify import feed_watchdog
from anubis.daemon.one_shot import OneShot
from anubis.daemon.operations import DaemonOperations
from anubis.daemon.parts import Parts
from anubis.daemon.production import Production
from anubis.daemon.records import DaemonRecords
from anubis.daemon.reload import Reload
from anubis.daemon.responding import Responding
from anubis.daemon.roaming import Roaming
from anubis.daemon.scrape import Scrape
from anubis.daemon.serving import Serving
from anubis.daemon.shares import Shares
from anubis.daemon.silence import Silence
from anubis.daemon.sleep import Sleep
from anubis.daemon.state import SavedState, StateFile, StateKeeper
from anubis.daemon.suspend import Suspend
from anubis.daemon.watermarks import Watermarks
from anubis.errors import AnubisError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers, HostFiles
from anubis.gatekeeper import Gatekeeper, Role
from anubis.network.apply import Network
from anubis.network.state import NetworkState
from anubis.protocol.channel import Keyring
from anubis.protocol.responder import Responder
from anubis.wireguard.backend import Backend

__all__ = ["RUN_DIRECTORY", "STATE_DIRECTORY", "Daemon", "first"]

RUN_DIRECTORY = Path("/run/anubis")
STATE_DIRECTORY = Path("/var/lib/anubis")


async def first(*works: Coroutine[None, None, object]) -> None:
    """Wait until one ends, cancel the others, and pass on what went wrong."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


class Daemon:
    """All parts of one running daemon."""

    def __init__(
        self,
        host: HostFiles,
        read: Callable[[], HostFiles],
        backend: Backend,
        state_file: StateFile,
        saved: SavedState,
        *,
        chronicle: Chronicle,
    ) -> None:
        clock, random = Clock(), os.urandom
        config, peers = host.config, host.peers
        self.network = Network(saved.sysctls, lambda _: self.save())
        self._config = config
        self._keeper = StateKeeper(state_file, self._state)
        keyring = Keyring(host.production_key)
        shares = self._shares = Shares(self.network)
        making = self._making = Making(set(saved.making), self.save)
        self._gatekeeper = Gatekeeper(peers, config.production)
        self._responder = Responder(
            keyring, peers, random, config.control.suites, floor_ns=clock.unix_ns()
        )
        self.control = ControlPlane(
            config.control,
            host.control_key,
            keyring,
            backend=backend,
            shares=shares,
            making=making,
            clock=clock,
            random=random,
        )
        self._carrier = Carrier(
            config.production,
            host.production_key,
            backend=backend,
            network=self.network,
            making=making,
            save=self.save,
        )
        self._production = Production(config.production, self._carrier, shares, self.save)
        self.goodbyes = Goodbyes(self.control, self._gatekeeper)
        silence = self._silence = Silence(self.control, self._gatekeeper, self._try_to_save)
        guard = self._guard = Guard(shares, self.control, self._production, config.production.table)
        self._hooks = Hooks(self._try_to_save)
        parts = self._parts = Parts(
            gatekeeper=self._gatekeeper,
            control=self.control,
            goodbyes=self.goodbyes,
            production=self._production,
            clock=clock,
            random=random,
            silence=silence,
            hooks=self._hooks,
            save=self.save,
            look_again=guard.look_again,
        )
        self._watermarks = Watermarks(
            STATE_DIRECTORY / "watermarks",
            RUN_DIRECTORY / "watermarks",
            self._responder,
        )
        serving = Serving(parts)
        self._responding = Responding(self._responder, self._watermarks, serving, parts)
        self._one_shot = OneShot(
            parts,
            serving,
            self.control.addresses.routable,
            host.config.host.name or socket.gethostname().partition(".")[0],
            host.control_key,
        )
        self.control.on_interface = lambda: self._one_shot.wake(anew=True)
        self.reload = Reload(host, parts, read, self._authorize)
        self._operations = operations = DaemonOperations(
            parts,
            self.reload.now,
            self.reload.foresee,
            Inquiry(parts, shares, config, self.reload.foresee),
            Approving(parts, serving).approve,
        )
        self._leases = Leases(parts, operations.revive)
        self._chronicle = chronicle
        metrics = Metrics(parts, self._responder, serving, guard, chronicle)
        records = DaemonRecords(self._gatekeeper, chronicle, metrics)
        self._scrape = Scrape(config.metrics_listen, metrics.text)
        self._api = ApiServer(operations, records, RUN_DIRECTORY / "anubis.sock")
        self._roaming = Roaming(parts, self._leases.wake)
        self._idle = Idle(parts, self._leases.finish)
        suspend = Suspend(parts)
        self._sleep = Sleep(suspend.before, suspend.after)
        guard.on_connectivity(self._roaming.moved)
        self._clock = clock
        self.lets_go = False  # at the end, instead of stopping

    def _authorize(self, peers: AuthorizedPeers) -> None:
        self._responder.directory = peers
        self._one_shot.wake()

    async def start(self, saved: SavedState) -> None:
        """Start every part, taking up what an earlier run left.

        Raises AnubisError. A start that fails is no reason to end what is up: that is left as it
        is, as by a crash, for the next one.
        """
        try:
            await self._start(saved)
        except AnubisError:
            self.lets_go = any(self._gatekeeper)
            raise

    async def _start(self, saved: SavedState) -> None:
        departed = self._take_up(saved)
        await self._watermarks.record()  # anew; and if that is impossible, it is known at once
        async with explained("cannot start"):
            await self.network.adopt(NetworkState())
            with self._shares.held():
                await self._production.start()
                up = self._gatekeeper.up_peers()
                for peer in await self._production.reconcile(saved.peers, up):
                    self._parts.note_end(peer)  # the far end is told
                    self._gatekeeper.closed(peer.name)
            await self.control.start(
                self._gatekeeper.peers,
                mark=self._production.mark,
                table=self._config.production.table,
                on_request=self._responding.on_request,
                leaving=departed,
            )
        for connection in self._gatekeeper:
            if connection.role is Role.INITIATOR:
                await self.control.keep_alive(self._gatekeeper.peer(connection.name), on=True)
        self._try_to_save()
        await self._api.start()
        self.reload.see_off(departed)
        await self._run_owed_hooks()

    async def _run_owed_hooks(self) -> None:
        """Run, beside, the PreDown of what ended with an earlier run, or could not be taken up."""
        for name in tuple(self._hooks.owed):
            peer = self._gatekeeper.peers.by_name(name)
            if peer is None:
                event(
                    logging.WARNING,
                    "hook_failed",
                    connection=name,
                    hook="PreDown",
                    reason="its entry is gone",
                )
                del self._hooks.owed[name]
            elif self._gatekeeper.connection(name) is None:
                await self._parts.leave(peer, Reason.UNDONE, 0.0)

    def _take_up(self, saved: SavedState) -> tuple[AuthorizedPeer, ...]:
        """Know again what an earlier run knew, as far as it still holds; return who departed."""
        self._responder.restore(*self._watermarks.load())
        self._carrier.borrowed_mark = saved.borrowed_mark
        self._carrier.mtu_before = saved.mtu_before
        self._production.peers = dict(saved.peers)
        self._hooks.owed.update(saved.owed)
        now, wishes = self._clock.boot(), self._gatekeeper.wishes
        heritage = inherit(saved, self._gatekeeper.peers, now)
        for wish in heritage.wishes:
            wishes.want(wish.name, wish.lease, wish.until)
        for name, until in heritage.unfinished.items():
            self._gatekeeper.begun(name, until)
        for connection in heritage.connections:
            self._gatekeeper.adopt(connection)
        for wish in wishes:
            # What is not pinned was noted for a suspend: the far end has let go.
            if not wish.pinned or self._gatekeeper.connection(wish.name) is None:
                wishes.lose(wish.name, now, 0.0)
        wishes.hurry(now)
        self._gatekeeper.bare.update({peer.name for peer in self._gatekeeper.peers} & {*saved.bare})
        self._responding.take_up(saved.heard)  # last, for what is known is written down anew
        return heritage.departed

    async def until(self, stopping: asyncio.Event) -> None:
        """Wait for the end; what is undone from then on shares the time for goodbyes."""
        await stopping.wait()
        self.goodbyes.hurry()

    async def serve(self) -> None:
        """Serve until cancelled."""
        works = (
            self._leases.run(),
            self._guard.run(),
            self._roaming.run(),
            self._sleep.run(),
            self._idle.run(),
            self._one_shot.run(),
            self.reload.run(),
            self._chronicle.run(),
            self._scrape.run(),
        )
        await first(*works, self._operations.settle(), feed_watchdog())

    async def end(self) -> None:
        """Let go if that was asked for, else stop."""
        await (self._let_go() if self.lets_go else self._stop())

    async def _let_go(self) -> None:
        """End what is half done and leave the rest as it is, for the next daemon to take up."""
        async with AsyncExitStack() as stack:
            stack.callback(self._try_to_save)
            stack.push_async_callback(self._hooks.stop)
            stack.push_async_callback(self._watermarks.close)
            stack.push_async_callback(self.reload.stop)
            stack.push_async_callback(self._responding.stop)
            stack.push_async_callback(self._stop_api)
        event(logging.INFO, "let-go", connections=len(list(self._gatekeeper)))

    async def _stop(self) -> None:
        """Tell the far ends, then remove everything that is ours; each step whatever the others do.

        The state file is cut down last, and only if all went well: it knows what is left. What far
        ends have still to be told stays, and the watermarks: a request from a clock that is ahead
        of ours would otherwise be later than our next start, and so fresh once more.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._watermarks.close)
            stack.push_async_callback(self._hooks.stop)
            stack.push_async_callback(self.control.stop)
            stack.push_async_callback(self._production.stop)
            stack.push_async_callback(self._part)
        self._keeper.leave(SavedState(unfinished=dict(self._gatekeeper.unfinished)))
        event(logging.INFO, "stopped")

    async def _part(self) -> None:
        """Have the calls under way rolled back, and at the same time every far end told."""
        self.goodbyes.hurry()
        ends = await asyncio.gather(self._stop_api(), self._take_leave(), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _stop_api(self) -> None:
        await self._api.stop(self.goodbyes.deadline() - asyncio.get_running_loop().time())

    async def _take_leave(self) -> None:
        await self._responding.stop()
        await asyncio.gather(self._leases.farewell(), self.reload.stop())

    def save(self) -> None:
        """Write the state, and let those who go by it look again. Raises LocalFailure."""
        self._leases.wake()
        self._roaming.wake()
        self._idle.wake()
        self._guard.wake()
        self._keeper.save()

    def _try_to_save(self) -> None:
        with suppress(LocalFailure):
            self.save()

    def _state(self) -> SavedState:
        """Return what the next run has to know.

        A connection whose PostUp has not ended is not up yet: if that is cut short, it is undone.
        """
        coming = {c.name: c.expires for c in self._gatekeeper if c.name in self._hooks.coming}
        return SavedState(
            connections=tuple(self._gatekeeper),
            peers=dict(self._production.peers),
            controls={peer.name: peer.control_public_key for peer in self._gatekeeper.up_peers()},
            sysctls=dict(self.network.saved_sysctls),
            borrowed_mark=self._carrier.borrowed_mark,
            making=tuple(sorted(self._making.names)),
            mtu_before=self._carrier.mtu_before,
            unfinished={**coming, **self._gatekeeper.unfinished},
            heard=self._silence.names,
            bare=tuple(sorted(self._gatekeeper.bare)),
            wishes=tuple(self._gatekeeper.wishes),
            owed=dict(self._hooks.owed),
        )
