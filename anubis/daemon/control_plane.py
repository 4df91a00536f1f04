"""The control plane: the permanent, confined interface, and asking others through it.

Owns `anubis0`, its peers, its confinement, and the repair of a handshake that was lost. Refuses to
know what is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Interface, ip_address

from anubis.addresses import control_addresses
from anubis.daemon.clock import Clock
from anubis.daemon.courier import Courier, Exchange
from anubis.daemon.interface import Interface
from anubis.daemon.log import event
from anubis.daemon.resolver import resolve
from anubis.daemon.shares import Shares
from anubis.errors import LocalFailure, NoAnswer
from anubis.files.authorized_peers import AuthorizedPeer, NamedEndpoint
from anubis.files.config import Control
from anubis.network.plan import control_plane_state
from anubis.network.state import NetworkState
from anubis.protocol.channel import Keyring
from anubis.protocol.initiator import Initiator, NoReply
from anubis.protocol.wire import Reply, Verb
from anubis.wireguard.backend import Backend
from anubis.wireguard.keys import PrivateKey
from anubis.wireguard.types import DeviceChange, Endpoint, Peer, PeerChange

__all__ = ["Contact", "ControlPlane"]

KEEPALIVE = 25  # seconds; keeps a NAT mapping while a connection is up
SESSION_SECONDS = 120.0  # REKEY_AFTER_TIME of the WireGuard paper: younger sessions need no shake
KICK_INTERVAL = 1.0  # seconds without a handshake, after which WireGuard is made to start anew
_POLL_FIRST = 0.002  # seconds
_POLL_LAST = 0.05  # seconds


class Contact:
    """How far we got with a peer.

    `asked` once a request may be on its way, `ready` when its control tunnel stands, `reached`
    when it was heard.
    """

    def __init__(self, on_reached: Callable[[str], None] | None = None) -> None:
        self.asked = False
        self.ready = asyncio.Event()
        self.reached = False
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


class ControlPlane:
    """The control plane of this host."""

    def __init__(
        self,
        config: Control,
        private_key: PrivateKey,
        keyring: Keyring,
        *,
        backend: Backend,
        shares: Shares,
        clock: Clock,
        random: Callable[[int], bytes],
    ) -> None:
        self.addresses = control_addresses(private_key.public_key())
        self._config = config
        self._private_key = private_key
        self._keyring = keyring
        self._interface = Interface(config.interface, backend, shares.network)
        self._shares = shares
        self._clock = clock
        self._random = random
        self._courier = Courier()
        self._mark = 0

    async def start(
        self,
        peers: Iterable[AuthorizedPeer],
        *,
        mark: int,
        table: int,
        on_request: Callable[[bytes, IPv6Address, int], None],
    ) -> None:
        """Make the interface, confine it, and only then let peers in. Raises LocalFailure."""
        await self._interface.ensure()
        if not self._interface.made:
            raise LocalFailure(
                f"{self._config.interface} exists already and is not Anubis's",
                f"ip link delete {self._config.interface}, or set another Interface in [Control]",
            )
        self._mark = mark
        own = (
            IPv6Interface((self.addresses.routable, 128)),
            IPv6Interface((self.addresses.link_local, 128)),
        )
        await self._interface.set_up(self._private_key, self._config.listen_port, mark, own)
        await self._shares.put(
            "control",
            control_plane_state(self._config.interface, self.addresses.routable, table),
        )
        changes = tuple(_resident(peer) for peer in peers)
        await self._interface.configure(DeviceChange(replace_peers=True, peers=changes))
        await self._courier.open(self._config.interface, self.addresses.routable, on_request)

    async def stop(self) -> None:
        """Close the socket and remove the interface; the confinement goes last."""
        self._courier.close()
        await self._interface.remove()
        await self._shares.put("control", NetworkState())

    async def set_mark(self, mark: int) -> None:
        """Mark the bearer packets like those of production."""
        if mark != self._mark:
            await self._interface.configure(DeviceChange(fwmark=mark))
            self._mark = mark

    async def keep_alive(self, peer: AuthorizedPeer, *, on: bool) -> None:
        """Keep the way to a peer open through NAT, or fall silent again."""
        change = PeerChange(
            peer.control_public_key, update_only=True, persistent_keepalive=KEEPALIVE if on else 0
        )
        await self._interface.configure(DeviceChange(peers=(change,)))

    def send(self, datagram: bytes, address: IPv6Address, port: int) -> None:
        """Send a reply."""
        self._courier.send(datagram, address, port)

    async def ask(
        self,
        peer: AuthorizedPeer,
        verb: Verb,
        *,
        deadline: float,
        lease: int | None = None,
        reason: str = "",
        contact: Contact | None = None,
    ) -> Reply:
        """Ask a peer and return its reply, granted or not. `deadline` is in the loop's time.

        Raises NoAnswer, or LocalFailure if there is no way to ask.
        """
        contact = contact or Contact()
        initiator = Initiator(
            keyring=self._keyring,
            peer=peer.public_key,
            verb=verb,
            suites=self._config.suites,
            deadline=deadline,
            clock=self._clock.unix_ns,
            random=self._random,
            lease=lease,
            reason=reason,
        )
        road = _Road(self._interface, peer, self._clock)
        await road.open()
        exchange = self._courier.exchange(initiator, peer.control.routable)
        contact.asked = True
        watch = asyncio.create_task(road.watch(contact, exchange))
        try:
            outcome = await exchange.run()
        finally:
            watch.cancel()
            self._courier.finish(exchange, peer.control.routable)
            await asyncio.gather(watch, return_exceptions=True)
        if isinstance(outcome, NoReply):
            if not contact.ready.is_set():
                await road.forget()
            raise _no_answer(peer, contact, outcome)
        contact.reach(road.endpoint)
        return outcome


class _Road:
    """The control tunnel to one peer while an exchange is under way."""

    def __init__(self, interface: Interface, peer: AuthorizedPeer, clock: Clock) -> None:
        self._interface = interface
        self._peer = peer
        self._clock = clock
        self._endpoints: tuple[Endpoint, ...] = ()
        self._kicks = 0
        self._keepalive = 0
        self.endpoint: Endpoint | None = None

    async def open(self) -> None:
        """See to it that the peer has an endpoint. Raises LocalFailure."""
        seen = await self._look()
        if seen is not None:
            self.endpoint, self._keepalive = seen.endpoint, seen.persistent_keepalive
            if self._is_live(seen):
                return
        if self._peer.control_endpoint is not None:
            self._endpoints = await resolve(self._peer.control_endpoint)
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

    async def watch(self, contact: Contact, exchange: Exchange) -> None:
        """Tell when the tunnel stands; while it does not, make WireGuard try again and again.

        WireGuard itself repeats a lost handshake only after 5 s; a peer that is made anew begins
        at once.
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
                return
            if loop.time() >= kick_at:
                await self._kick()
                exchange.resend()
                last, pause = 0.0, _POLL_FIRST
                kick_at = loop.time() + KICK_INTERVAL

    async def _kick(self) -> None:
        """Make the peer anew, at its next address if it has several."""
        self._kicks += 1
        if not self._endpoints and self._peer.control_endpoint is not None:
            self._endpoints = await resolve(self._peer.control_endpoint)
        if self._endpoints:
            self.endpoint = self._endpoints[self._kicks % len(self._endpoints)]
        await self.forget()
        event(logging.DEBUG, "control_retry", peer=self._peer.name, endpoint=self.endpoint)

    async def forget(self) -> None:
        """Make the peer anew, without the requests that WireGuard keeps for its next handshake.

        It keeps them for 90 s: one that was given up by then would still be carried out.
        """
        change = replace(
            _resident(self._peer, endpoint=self.endpoint),
            replace=True,
            persistent_keepalive=self._keepalive,
        )
        await self._interface.configure(DeviceChange(peers=(change,)))

    async def _look(self) -> Peer | None:
        return (await self._interface.device()).peer(self._peer.control_public_key)

    def _is_live(self, seen: Peer) -> bool:
        return self._clock.unix_ns() / 1e9 - seen.last_handshake < SESSION_SECONDS


def _resident(peer: AuthorizedPeer, *, endpoint: Endpoint | None = None) -> PeerChange:
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


def _no_answer(peer: AuthorizedPeer, contact: Contact, outcome: NoReply) -> NoAnswer:
    if contact.reached:
        return NoAnswer(
            f"{peer.name} is reached at {contact.endpoint}, but its Anubis does not answer"
            f" ({outcome.sent} requests sent)",
            f"is anubis running on {peer.name}, and does its authorized_peers name both of this"
            " host's public keys?",
        )
    where = peer.control_endpoint or "its last address"
    return NoAnswer(
        f"no answer from the control plane of {peer.name} at {where}",
        f"is {peer.name} up, is its UDP port open to you, and does it know this host's control"
        " key? (anubis check shows it)",
    )
