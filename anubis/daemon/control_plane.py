"""The control plane: the permanent, confined interface, and asking others through it.

Owns `anubis0`, its peers and its confinement. Refuses to know what is asked, and how the tunnel to
one peer is brought to life, which is `road`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Interface
from itertools import chain

from anubis.addresses import control_addresses
from anubis.daemon.clock import Clock
from anubis.daemon.courier import Courier
from anubis.daemon.faults import control_faults, own_faults
from anubis.daemon.interface import Allow, Interface, Making, Settings
from anubis.daemon.road import Contact, Road, resident
from anubis.daemon.shares import Shares
from anubis.errors import LocalFailure, NoAnswer
from anubis.exposition import Histogram
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers
from anubis.files.config import Control
from anubis.network.changes import Mended
from anubis.network.plan import control_plane_state
from anubis.network.state import NetworkState
from anubis.protocol.channel import Keyring
from anubis.protocol.initiator import Initiator, NoReply
from anubis.protocol.wire import Reply, Verb
from anubis.wireguard.backend import Backend
from anubis.wireguard.keys import PrivateKey, PublicKey
from anubis.wireguard.types import Device, DeviceChange, Endpoint, Peer, PeerChange

__all__ = ["ControlPlane"]

_SENT_SECONDS = 0.2  # for WireGuard to encrypt and send what it was given
_POLL_FIRST = 0.001  # seconds
_ROUND_TRIPS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
KEEPALIVE = 25  # seconds; keeps a NAT mapping while a connection is up


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
        making: Making,
        clock: Clock,
        random: Callable[[int], bytes],
    ) -> None:
        self.addresses = control_addresses(private_key.public_key())
        self.round_trips = Histogram(_ROUND_TRIPS)  # of what was answered
        self.unanswered = 0  # requests
        self._config = config
        self._private_key = private_key
        self._keyring = keyring
        self._interface = Interface(config.interface, backend, shares.network, making)
        self._shares = shares
        self._clock = clock
        self._random = random
        self._courier = Courier()
        self._mark = 0
        self._lock = asyncio.Lock()  # of what is put right
        self._peers = AuthorizedPeers()
        self._leaving: dict[PublicKey, AuthorizedPeer] = {}  # not authorized, but still to be told
        self._on_request: Callable[[bytes, IPv6Address, int], None] | None = None
        self.on_interface: Callable[[], None] = lambda: None  # another one is there
        self._kept_alive: set[PublicKey] = set()
        self._endpoints: dict[PublicKey, Endpoint] = {}  # as last seen

    async def start(
        self,
        peers: AuthorizedPeers,
        *,
        mark: int,
        table: int,
        on_request: Callable[[bytes, IPv6Address, int], None],
        leaving: Iterable[AuthorizedPeer] = (),
    ) -> None:
        """Make the interface, confine it, and only then let peers in. Raises LocalFailure.

        Who is `leaving`, and is still there, stays until expelled.
        """
        await self._interface.ensure()
        if not self._interface.made:
            raise LocalFailure(
                f"{self._config.interface} exists already and is not Anubis's",
                f"ip link delete {self._config.interface}, or set another Interface in [Control]",
            )
        self._mark, self._peers, self._on_request = mark, peers, on_request
        await self._interface.set_up(self._settings())
        await self._shares.put(
            "control",
            control_plane_state(self._config.interface, self.addresses.routable, table),
        )
        self._leaving = {peer.control_public_key: peer for peer in leaving}
        await self._admit(peers)
        await self._listen()

    async def _admit(self, peers: Iterable[AuthorizedPeer]) -> None:
        """Let these peers in and no others; who was in before a crash keeps session and endpoint.

        Without them we could not reach a peer behind NAT until it speaks, and it would send into a
        session that only it knows for 15 s.
        """
        before = {peer.public_key for peer in (await self._interface.device()).peers}
        wanted = [resident(peer) for peer in peers]
        changes = [
            replace(change, endpoint=None) if change.public_key in before else change
            for change in wanted
        ]
        gone = before - {change.public_key for change in wanted} - self._leaving.keys()
        changes += [PeerChange(key, remove=True) for key in gone]
        await self._interface.configure(DeviceChange(peers=tuple(changes)))

    async def replace_peers(
        self,
        peers: AuthorizedPeers,
        *,
        added: Iterable[AuthorizedPeer],
        removed: Iterable[AuthorizedPeer],
    ) -> None:
        """Have another file in force: let in who is new; the others stay until they are expelled.

        Nobody of `removed` is listened to any more, but can be told so. Raises LocalFailure.
        """
        self._peers = peers
        self._leaving |= {peer.control_public_key: peer for peer in removed}
        async with self._lock:
            changes = tuple(resident(peer) for peer in added)
            await self._interface.configure(DeviceChange(peers=changes))

    async def expel(self, peers: Iterable[AuthorizedPeer]) -> None:
        """End the tunnels of peers that are not authorized any more, and forget their secrets.

        Another entry may have a key of theirs by now; then it is that one's. Raises LocalFailure.
        """
        changes = []
        async with self._lock:
            for peer in peers:
                key = peer.control_public_key
                if self._peers.by_public_key(peer.public_key) is None:
                    self._keyring.forget(peer.public_key)
                self._leaving.pop(key, None)
                if not self._is_admitted(peer):
                    self._kept_alive.discard(key)
                    self._endpoints.pop(key, None)
                    changes.append(PeerChange(key, remove=True))
            await self._interface.configure(DeviceChange(peers=tuple(changes)))

    def _is_admitted(self, peer: AuthorizedPeer) -> bool:
        """Tell whether a peer belongs on the interface: what is under way may outlive its entry."""
        key = peer.control_public_key
        entry = self._peers.by_control_address(peer.control.routable)
        return key in self._leaving or (entry is not None and entry.control_public_key == key)

    def _all(self) -> Iterable[AuthorizedPeer]:
        return chain(self._peers, self._leaving.values())

    async def stop(self) -> None:
        """Close the socket and remove the interface; the confinement goes last."""
        self._courier.close()
        await self._interface.remove()
        await self._shares.put("control", NetworkState())

    @property
    def over_budget(self) -> int:
        """How many datagrams were not looked at, because their source had sent too many."""
        return self._courier.over_budget

    @property
    def name(self) -> str:
        """The interface's name."""
        return self._config.interface

    def _settings(self) -> Settings:
        own = (self.addresses.routable, self.addresses.link_local)
        return Settings(
            self._private_key,
            self._config.listen_port,
            self._mark,
            tuple(IPv6Interface((address, 128)) for address in own),
        )

    async def mend(self, allow: Allow, *, deep: bool) -> tuple[Mended, ...]:
        """Put right what strangers did to the interface; `deep`: and to what WireGuard has on it.

        Raises LocalFailure. Not to be cancelled.
        """
        async with self._lock:
            mended = await self._interface.mend(self._settings(), allow)
            if Mended(f"interface {self.name}", "vanished") in mended:
                changes = tuple(self._wanted(peer) for peer in self._all())
                await self._interface.configure(DeviceChange(peers=changes))
                await self._listen()
            elif deep:
                mended += await self._mend_device(await self._interface.device(), allow)
            return mended

    async def _listen(self) -> None:
        """Open the socket; one that was open served an interface that is gone."""
        if self._on_request is not None:
            self._courier.close()
            await self._courier.open(self.name, self.addresses.routable, self._on_request)
            self.on_interface()

    def _wanted(self, peer: AuthorizedPeer) -> PeerChange:
        key = peer.control_public_key
        keepalive = KEEPALIVE if key in self._kept_alive else 0
        change = resident(peer, endpoint=self._endpoints.get(key))
        return replace(change, persistent_keepalive=keepalive)

    async def _mend_device(self, device: Device, allow: Allow) -> tuple[Mended, ...]:
        for peer in device.peers:
            if peer.endpoint is not None:
                self._endpoints[peer.public_key] = peer.endpoint
        own = own_faults(device, self._settings(), allow)
        found = control_faults(device, self._all(), self._wanted, allow)
        for faults in (own, found):
            if faults.mended:
                await self._interface.configure(faults.change())
        return (*own.mended, *found.mended)

    async def set_mark(self, mark: int) -> None:
        """Mark the bearer packets like those of production."""
        async with self._lock:
            if mark != self._mark:
                await self._interface.configure(DeviceChange(fwmark=mark))
                self._mark = mark

    async def keep_alive(self, peer: AuthorizedPeer, *, on: bool) -> None:
        """Keep the way to a peer open through NAT, or fall silent again."""
        kept = {peer.control_public_key}
        self._kept_alive = self._kept_alive | kept if on else self._kept_alive - kept
        change = PeerChange(
            peer.control_public_key, update_only=True, persistent_keepalive=KEEPALIVE if on else 0
        )
        await self._interface.configure(DeviceChange(peers=(change,)))

    def keeps_alive(self, peer: AuthorizedPeer) -> bool:
        """Tell whether the way to a peer is kept open."""
        return peer.control_public_key in self._kept_alive

    def is_asking(self, peer: AuthorizedPeer) -> bool:
        """Tell whether a request of ours to a peer is under way."""
        return self._courier.is_waiting_for(peer.control.routable)

    async def peer(self, peer: AuthorizedPeer) -> Peer | None:
        """Return the control peer of an entry as WireGuard sees it, or None."""
        return (await self._interface.device()).peer(peer.control_public_key)

    async def has_session(self, peer: AuthorizedPeer) -> bool:
        """Tell whether a peer has shaken hands since it was made."""
        seen = await self.peer(peer)
        return seen is not None and seen.last_handshake > 0

    async def bytes_sent(self, peer: AuthorizedPeer) -> int:
        """Return how many bytes WireGuard has sent to a peer since it was made."""
        seen = (await self._interface.device()).peer(peer.control_public_key)
        return seen.tx_bytes if seen else 0

    async def await_sent(self, peer: AuthorizedPeer, before: int) -> None:
        """Wait until WireGuard has sent more than `before` bytes, but not for long."""
        pause = _POLL_FIRST
        with suppress(TimeoutError):
            async with asyncio.timeout(_SENT_SECONDS):
                while await self.bytes_sent(peer) <= before:
                    await asyncio.sleep(pause)
                    pause *= 1.5

    async def forget(self, peer: AuthorizedPeer) -> None:
        """Make a peer as it was before anybody spoke: no session, nothing learned, and silent."""
        if not self._is_admitted(peer):
            return
        change = replace(resident(peer), replace=True)
        await self._interface.configure(DeviceChange(peers=(change,)))

    async def take_back(self, peer: AuthorizedPeer) -> None:
        """Have nothing delivered any more of what a peer was asked and did not answer.

        WireGuard would keep it for a later handshake. Where the peer was stays known.
        """
        seen = (await self._interface.device()).peer(peer.control_public_key)
        change = replace(
            resident(peer, endpoint=seen.endpoint if seen else None),
            replace=True,
            persistent_keepalive=seen.persistent_keepalive if seen else 0,
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
        subject: str | None = None,
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
            subject=subject,
        )
        road = await self._open_road(peer, deadline)
        exchange = self._courier.exchange(initiator, peer.control.routable)
        contact.asked = True
        watch = asyncio.create_task(road.watch(contact, exchange))
        began = asyncio.get_running_loop().time()
        try:
            outcome = await exchange.run()
        finally:
            watch.cancel()
            road.close()
            self._courier.finish(exchange, peer.control.routable)
            await asyncio.gather(watch, return_exceptions=True)
        if isinstance(outcome, NoReply):
            self.unanswered += 1
            raise _no_answer(peer, contact, outcome)
        self.round_trips.observe(asyncio.get_running_loop().time() - began)
        contact.asked_anew = initiator.asked_anew
        contact.reach(road.endpoint)
        return outcome

    async def _open_road(self, peer: AuthorizedPeer, deadline: float) -> Road:
        road = Road(self._interface, peer, self._clock, lambda: self._is_admitted(peer))
        try:
            async with asyncio.timeout_at(deadline):
                await road.open()
        except TimeoutError:
            raise _not_resolved(peer) from None
        return road


def _not_resolved(peer: AuthorizedPeer) -> NoAnswer:
    host = peer.control_endpoint.host if peer.control_endpoint else peer.name
    return NoAnswer(
        f"{peer.name} was not asked: the name {host} was not resolved in time",
        "check the name servers of this host, or use an address in Endpoint",
    )


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
