"""Many initiators on one host: each with a key, a WireGuard and sockets of its own.

Owns the crowd's keys and interfaces, and what one of it does: `up`, a packet through production
there and back, `down`. Each has one key and one interface for both planes, as a phone has, but
speaks from the service port, as a daemon does. Refuses to know what the gateway makes of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from anubis.addresses import control_addresses
from anubis.daemon.courier import Exchange
from anubis.daemon.road import ANSWER_SECONDS, KICK_INTERVAL
from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from anubis.lab.scene_files import INTERNET, common_files
from anubis.lab.topology import Host, Interface, Topology
from anubis.network.plan import SERVICE_PORT
from anubis.protocol.channel import Keyring
from anubis.protocol.initiator import Initiator, NoReply
from anubis.protocol.wire import Result, Verb
from anubis.wireguard.keys import PrivateKey, PublicKey
from anubis.wireguard.types import DeviceChange, Endpoint, PeerChange
from anubis.wireguard.userspace import UserspaceBackend
from tests.lab.caller import inside
from tests.lab.hostile import control_address, public_key

__all__ = ["Guest", "Identity", "crowd", "with_crowd"]

_GATEWAY, _CROWD = "jacinth", "crowd"
_THERE = IPv4Address("10.66.0.1")  # the gateway, through production
_FIRST = IPv4Address("10.66.1.1")
_CONTROL_PORT, _PRODUCTION_PORT = 4297, 4296
_START_SECONDS = 30.0
_DEADLINE = 60.0  # seconds for one exchange
_LOOK_SECONDS = 0.25  # between looks at a control tunnel through which no answer comes
_BUSY_SECONDS = 0.5  # until what was answered `busy` is asked again
_PAUSE_SECONDS = 0.3  # after a `down`: the gateway forgets the tunnel just after it has answered
_ECHO_SECONDS, _ECHOES = 1.0, 10
_ECHO_REQUEST, _ECHO_REPLY = 8, 0  # RFC 792
_ECHO = struct.Struct(">BBHHH")  # type, code, checksum, identifier, sequence number
_IPV4_HEADER = 20  # bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who one of the crowd is, before there is a lab."""

    number: int
    key: PrivateKey

    @classmethod
    def new(cls, number: int) -> Identity:
        """Make up somebody."""
        return cls(number, PrivateKey.generate(os.urandom))

    @property
    def name(self) -> str:
        """The name of its entry at the gateway, and of its interface."""
        return f"guest{self.number}"

    @property
    def address(self) -> IPv4Address:
        """Its address on production."""
        return _FIRST + self.number

    @property
    def stanza(self) -> str:
        """Its entry in the gateway's file."""
        key = self.key.public_key()
        return (
            f"[Peer]\nName = {self.name}\nPublicKey = {key}\nControlPublicKey = {key}\n"
            f"AllowedIPs = {self.address}/32\n\n"
        )


def with_crowd(topology: Topology, identities: Sequence[Identity]) -> Topology:
    """Return a topology with the host of the crowd, whom jacinth knows."""
    host = Host(
        name=_CROWD,
        interfaces=(Interface("internet", ("203.0.113.3/24",)),),
        files=common_files(_CROWD),
    )
    stanzas = "".join(one.stanza for one in identities)
    path = "/etc/anubis/authorized_peers"
    changed = topology.edit(
        _GATEWAY, path, "[Peer]\nName = xena\n", f"{stanzas}[Peer]\nName = xena\n"
    )
    return replace(changed, hosts=(*changed.hosts, host))


@asynccontextmanager
async def crowd(lab: Lab, identities: Sequence[Identity]) -> AsyncIterator[list[Guest]]:
    """Have the whole crowd's interfaces and sockets; nothing is up yet."""
    backend = UserspaceBackend(socket_directory=lab.path(_CROWD, "/run/wireguard"))
    for one in identities:
        # One thread each: it is the gateway that shall have the processors.
        program = f"GOMAXPROCS=1 wireguard-go -f {one.name} > /dev/null 2>&1 &"
        lab.run(_CROWD, "sh", "-c", program, check=True)
    for one in identities:
        name = one.name
        wait_until(partial(backend.serves, name), _START_SECONDS, f"{name} has a WireGuard")
    gateway = Gateway(
        production=PublicKey.from_base64(public_key(lab, _GATEWAY)),
        control=PublicKey.from_base64(public_key(lab, _GATEWAY, "control")),
        address=IPv6Address(control_address(lab, _GATEWAY)),
    )
    lines = [line for one in identities for line in _links(one, gateway)]
    lab.run(_CROWD, "ip", "-batch", "-", input="\n".join(lines) + "\n", check=True)
    async with AsyncExitStack() as stack:
        guests = []
        for one in identities:
            with inside(lab, _CROWD):
                guest = Guest(one, gateway, backend)
            stack.callback(guest.close)
            await guest.open()
            guests.append(guest)
        yield guests


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the crowd knows of jacinth."""

    production: PublicKey
    control: PublicKey
    address: IPv6Address  # on the control plane


def _links(one: Identity, gateway: Gateway) -> list[str]:
    """Return what `ip` does for one. All have the same ways; which counts is told by the socket."""
    own = control_addresses(one.key.public_key()).routable
    return [
        f"link set dev {one.name} mtu 1420 up",
        f"address add {own}/128 dev {one.name} nodad",
        f"address add {one.address}/32 dev {one.name}",
        f"route add {_THERE}/32 dev {one.name} metric {one.number + 1}",
        f"route add {gateway.address}/128 dev {one.name} metric {one.number + 1}",
    ]


class Guest(asyncio.DatagramProtocol):
    """One of the crowd. To be made inside its host's network."""

    def __init__(self, identity: Identity, gateway: Gateway, backend: UserspaceBackend) -> None:
        self.name = identity.name
        self._identity = identity
        self._gateway = gateway
        self._backend = backend
        self._keyring = Keyring(identity.key)
        self._control = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._echo = socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP
        )
        for one in (self._control, self._echo):
            device = f"{self.name}\0".encode()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        own = control_addresses(identity.key.public_key()).routable
        self._control.bind((str(own), SERVICE_PORT))
        self._echo.bind((str(identity.address), 0))
        self._exchange: Exchange | None = None
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self) -> None:
        """Set WireGuard up and listen."""
        loop = asyncio.get_running_loop()
        await self._backend.configure(self.name, DeviceChange(private_key=self._identity.key))
        await self.forget()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=self._control)

    def close(self) -> None:
        """Let the sockets go."""
        if self._transport is not None:
            self._transport.close()
        self._echo.close()

    async def cycle(self) -> None:
        """Be up, send something through the tunnel and hear the answer, be down again."""
        await self.ask(Verb.UP)
        await self._await_echo()
        await self.ask(Verb.DOWN)
        await self.forget()
        await asyncio.sleep(_PAUSE_SECONDS)

    async def ask(self, verb: Verb) -> None:
        """Have a request granted, however often that takes; anything but `done` is an error."""
        while True:
            result = await self._ask_once(verb)
            if result is not Result.BUSY:
                break
            await asyncio.sleep(_BUSY_SECONDS)
        assert result is Result.DONE, f"{self.name} got {result} for {verb.name}"

    async def forget(self) -> None:
        """Make both peers as they were before anybody spoke."""
        await self._backend.configure(
            self.name,
            DeviceChange(
                peers=(
                    _peer(self._gateway.control, _CONTROL_PORT, self._gateway.address),
                    _peer(self._gateway.production, _PRODUCTION_PORT, _THERE),
                )
            ),
        )

    async def _ask_once(self, verb: Verb) -> Result:
        loop = asyncio.get_running_loop()
        initiator = Initiator(
            keyring=self._keyring,
            peer=self._gateway.production,
            verb=verb,
            suites=(1,),
            deadline=loop.time() + _DEADLINE,
            clock=time.time_ns,
            random=os.urandom,
        )
        self._exchange = Exchange(initiator, self._send)
        kicking = asyncio.create_task(self._kick(self._exchange))
        try:
            outcome = await self._exchange.run()
        finally:
            kicking.cancel()
            await asyncio.gather(kicking, return_exceptions=True)
        assert not isinstance(outcome, NoReply), f"{self.name} got no answer to {verb.name}"
        return Result(outcome.result)

    async def _kick(self, exchange: Exchange) -> None:
        """Begin anew with a tunnel that the gateway may have forgotten, when a daemon would."""
        loop = asyncio.get_running_loop()
        last, kick_at = time.time(), loop.time() + KICK_INTERVAL
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            seen = (await self._backend.device(self.name)).peer(self._gateway.control)
            if seen is not None and seen.last_handshake > last:
                last, kick_at = seen.last_handshake, loop.time() + ANSWER_SECONDS
            if loop.time() >= kick_at:
                peer = _peer(self._gateway.control, _CONTROL_PORT, self._gateway.address)
                await self._backend.configure(self.name, DeviceChange(peers=(peer,)))
                exchange.resend()
                last, kick_at = 0.0, loop.time() + KICK_INTERVAL

    def _send(self, datagram: bytes) -> None:
        if self._transport is not None:
            self._transport.sendto(datagram, (str(self._gateway.address), SERVICE_PORT))

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Hand on what came."""
        if self._exchange is not None and not self._exchange.inbox.full():
            self._exchange.inbox.put_nowait(data)

    async def _await_echo(self) -> None:
        """Send echo requests through production until one is answered."""
        loop = asyncio.get_running_loop()
        for number in range(_ECHOES):
            header = _ECHO.pack(_ECHO_REQUEST, 0, 0, self._identity.number, number)
            sum_ = sum(struct.unpack(">4H", header))
            checksum = ~((sum_ & 0xFFFF) + (sum_ >> 16)) & 0xFFFF
            packet = _ECHO.pack(_ECHO_REQUEST, 0, checksum, self._identity.number, number)
            self._echo.sendto(packet, (str(_THERE), 0))
            with suppress(TimeoutError):
                async with asyncio.timeout(_ECHO_SECONDS):
                    while True:
                        kind = (await loop.sock_recv(self._echo, 2048))[_IPV4_HEADER]
                        if kind == _ECHO_REPLY:
                            return
        raise AssertionError(f"{self.name} is up, but nothing comes back through its tunnel")


def _peer(key: PublicKey, port: int, address: IPv4Address | IPv6Address) -> PeerChange:
    return PeerChange(
        key,
        replace=True,
        endpoint=Endpoint(IPv4Address(INTERNET[_GATEWAY]), port),
        allowed_ips=frozenset({ip_network(address)}),
    )
