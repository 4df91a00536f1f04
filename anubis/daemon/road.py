"""The way to one peer through the control plane, while something is asked of it.

Owns the repair of a handshake that was lost, and the peer's change of address. Refuses to know what
is asked, and the interface's own life.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

from anubis.daemon.clock import Clock
from anubis.daemon.courier import Exchange
from anubis.daemon.interface import Interface
from anubis.daemon.log import event
from anubis.daemon.resolver import resolve
from anubis.errors import LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer, NamedEndpoint
from anubis.wireguard.types import DeviceChange, Endpoint, Peer, PeerChange

__all__ = ["Contact", "Road", "resident"]

SESSION_SECONDS = 120.0  # REKEY_AFTER_TIME of the WireGuard paper: younger sessions need no shake
KICK_INTERVAL = 1.0  # seconds without a handshake, after which WireGuard is made to start anew
ANSWER_SECONDS = 4.0  # without an answer over a new tunnel: the far end may have forgotten it
_POLL_FIRST = 0.002  # seconds
_POLL_LAST = 0.05  # seconds


class Contact:
    """How far we got with a peer.

    `asked` once a request may be on its way, `ready` when its control tunnel stands, `reached`
    when it was heard; `asked_anew` if the request that was answered was not the first.
    """

    def __init__(self, on_reached: Callable[[str], None] | None = None) -> None:
        self.asked = False
        self.ready = asyncio.Event()
        self.reached = False
        self.asked_anew = False
        self.endpoint: Endpoint | None = None
        self._on_reached = on_reached

    def reach(self, endpoint: Endpoint | None) -> None:
        """Note that the peer was heard through its control tunnel."""
        self.ready.set()
        self.endpoint = endpoint or self.endpoint
        if not self.reached:
            self.reached = True
            if self._on_reached:
                self._on_reached(str(self.endpoint or ""))


class Road:
    """The control tunnel to one peer while an exchange is under way.

    `is_admitted` tells whether the peer may still be on the interface.
    """

    def __init__(
        self,
        interface: Interface,
        peer: AuthorizedPeer,
        clock: Clock,
        is_admitted: Callable[[], bool],
    ) -> None:
        self._interface = interface
        self._peer = peer
        self._clock = clock
        self._is_admitted = is_admitted
        self._endpoints: tuple[Endpoint, ...] = ()
        self._before: Endpoint | None = None
        self._asked: asyncio.Task[tuple[Endpoint, ...]] | None = None
        self._keepalive = 0
        self.endpoint: Endpoint | None = None

    async def open(self) -> None:
        """See to it that the peer has an endpoint. Raises LocalFailure.

        One that served before serves again, while its name is looked up: no name server that is
        slow or gone keeps us from a peer whose address we know.
        """
        seen = await self._look()
        if seen is not None:
            self.endpoint, self._keepalive = seen.endpoint, seen.persistent_keepalive
            if self._is_live(seen):
                return
        name = self._peer.control_endpoint
        if name is not None:
            if self.endpoint is not None:
                self._before = self.endpoint
                self._asked = asyncio.create_task(resolve(name))
                return
            self._endpoints = await resolve(name)
            self.endpoint = self._endpoints[0]
            change = PeerChange(
                self._peer.control_public_key, update_only=True, endpoint=self.endpoint
            )
            await self._interface.configure(DeviceChange(peers=(change,)))
        elif self.endpoint is None:
            raise LocalFailure(
                f"{self._peer.name} has no Endpoint and has not called yet",
                f"give it an Endpoint in {self._peer.location.path}, or let it begin",
            )

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._asked is not None:
            self._asked.cancel()

    async def watch(self, contact: Contact, exchange: Exchange) -> None:
        """Tell when the tunnel stands; until an answer comes, make WireGuard try again and again.

        WireGuard itself repeats a lost handshake only after 5 s, and gives up a session that the
        far end has forgotten only after 15 s; a peer that is made anew begins at once.
        """
        loop = asyncio.get_running_loop()
        before = await self._look()
        if before is not None and self._is_live(before):
            contact.ready.set()
        last = before.last_handshake if before else 0.0
        kick_at = loop.time() + KICK_INTERVAL
        pause = _POLL_FIRST
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, _POLL_LAST)
            seen = await self._look()
            if seen is not None and seen.last_handshake > last:
                self.endpoint = seen.endpoint
                contact.reach(seen.endpoint)
                last = seen.last_handshake
                kick_at = loop.time() + ANSWER_SECONDS
            if loop.time() >= kick_at or self._has_moved():
                await self._kick()
                exchange.resend()
                last, pause = 0.0, _POLL_FIRST
                kick_at = loop.time() + KICK_INTERVAL

    def _has_moved(self) -> bool:
        """Take in the addresses of the name if they are known by now; return if it left ours.

        The one that served before stays the last resort: the name may be what is out of date.
        """
        if self._asked is None or not self._asked.done():
            return False
        asked, self._asked = self._asked, None
        try:
            found = asked.result()
        except LocalFailure as error:
            event(logging.DEBUG, "name_unknown", peer=self._peer.name, reason=error.message)
            return False
        news = not self._endpoints or not set(found) <= set(self._endpoints)
        before = self._before
        self._endpoints = (*found, before) if before and before not in found else found
        return news and self.endpoint not in found

    async def _kick(self) -> None:
        """Make the peer anew, at its next address if it has several, and ask for its name again."""
        if not self._is_admitted():
            return
        name, known = self._peer.control_endpoint, self._endpoints
        at = known.index(self.endpoint) if self.endpoint in known else -1
        if at + 1 == len(known) and name is not None and self._asked is None:
            self._asked = asyncio.create_task(resolve(name))
        if known:
            self.endpoint = known[(at + 1) % len(known)]
        change = replace(
            resident(self._peer, endpoint=self.endpoint),
            replace=True,
            persistent_keepalive=self._keepalive,
        )
        await self._interface.configure(DeviceChange(peers=(change,)))
        event(logging.DEBUG, "control_retry", peer=self._peer.name, endpoint=self.endpoint)

    async def _look(self) -> Peer | None:
        return (await self._interface.device()).peer(self._peer.control_public_key)

    def _is_live(self, seen: Peer) -> bool:
        return self._clock.unix() - seen.last_handshake < SESSION_SECONDS


def resident(peer: AuthorizedPeer, *, endpoint: Endpoint | None = None) -> PeerChange:
    """Return the control peer of an entry: silent, and confined to its two addresses."""
    return PeerChange(
        peer.control_public_key,
        endpoint=endpoint or _literal(peer.control_endpoint),
        persistent_keepalive=0,
        allowed_ips=frozenset(peer.control.networks()),
    )


def _literal(endpoint: NamedEndpoint | None) -> Endpoint | None:
    """Return an endpoint that needs no resolving, else None."""
    if endpoint is None:
        return None
    try:
        return Endpoint(ip_address(endpoint.host), endpoint.port)
    except ValueError:
        return None
