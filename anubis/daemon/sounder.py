"""What becomes of packets in a tunnel that is up, seen from both of its ends.

Owns which packets are sent, and for how long anything is waited for: the far end's counters tell
whether they arrived, so whatever stands behind it need not answer. Refuses to judge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address

from anubis.daemon import soundings
from anubis.daemon.clock import Clock
from anubis.daemon.far_findings import HANDSHAKE_FRESH, Asked, Sounding
from anubis.daemon.production import Production
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.network.apply import Network
from anubis.network.state import IPNetwork
from anubis.network.ways import IPAddress
from anubis.protocol.wire import Reply
from anubis.wireguard.types import Peer

__all__ = ["Sounder", "one_of"]

_ANSWER_SECONDS = 1.0  # for what comes back through the tunnel
_SHAKE_SECONDS = 6.0  # for a handshake that is begun for it; WireGuard repeats one after 5 s
_POLL_SECONDS = 0.02
_SMALLER = (1400, 1380, 1340, 1280)  # bytes; packets that may pass where larger ones do not
_ELSEWHERE = {4: "192.0.2.1", 6: "3fff::1"}  # of a default route: RFC 5737, RFC 9637

Ask = Callable[[AuthorizedPeer], Awaitable[Asked]]


class Sounder:
    """Sends packets into tunnels of this host."""

    def __init__(self, production: Production, network: Network, clock: Clock) -> None:
        self._production = production
        self._network = network
        self._clock = clock

    async def sound(self, entry: AuthorizedPeer, before: Reply, ask: Ask) -> Sounding:
        """Send packets through the tunnel, and see at both ends what becomes of them.

        `before` is the far end's answer to an `ask` for its status. Raises LocalFailure.
        """
        production = self._production
        address = one_of(_most_likely(entry.allowed_ips))
        mtu = await self._network.mtu(production.name)
        here = await production.peer(entry)
        failure, may_echo, returned = "", False, False
        try:
            may_echo = soundings.send(address, 0)
            returned = await self._hears(entry, here)
        except OSError as error:
            failure = f"nothing can be sent to {address}: {error.strerror}"
        small = await _counted(entry, ask) or before
        whole, passes = False, None
        if small is not before and _received(small) > _received(before):
            whole = await self._passes(entry, address, mtu, small, ask)
            smaller = [size for size in _SMALLER if size < mtu] if not whole else []
            for size in smaller:
                if await self._passes(
                    entry, address, size, await _counted(entry, ask) or small, ask
                ):
                    passes = size
                    break
        return Sounding(
            interface=production.name,
            address=address,
            source=soundings.source_of(address),
            here=await production.peer(entry),
            now=self._clock.unix(),
            arrived=_received(small) > _received(before),
            returned=returned,
            answered=_sent(small) > _sent(before),
            may_echo=may_echo,
            mtu=mtu,
            arrived_whole=whole,
            passes=passes,
            failure=failure,
        )

    async def _passes(
        self, entry: AuthorizedPeer, address: IPAddress, size: int, before: Reply, ask: Ask
    ) -> bool:
        """Tell whether packets of so many bytes arrive."""
        here = await self._production.peer(entry)
        try:
            soundings.send(address, size)
        except OSError:
            return False
        await self._hears(entry, here)
        after = await _counted(entry, ask)
        return after is not None and _received(after) - _received(before) >= size

    async def _hears(self, entry: AuthorizedPeer, before: Peer | None) -> bool:
        """Wait for anything from the peer beyond what there was `before`; tell whether it came."""
        loop, now = asyncio.get_running_loop(), self._clock.unix()
        fresh = before is not None and now - before.last_handshake < HANDSHAKE_FRESH
        deadline = loop.time() + (_ANSWER_SECONDS if fresh else _SHAKE_SECONDS)
        heard = before.rx_bytes if before else 0
        while loop.time() < deadline:
            peer = await self._production.peer(entry)
            if peer is not None and peer.rx_bytes > heard:
                if peer.last_handshake == (before.last_handshake if before else 0.0):
                    return True
                # That was the handshake; what comes after it is an answer.
                before, heard = peer, peer.rx_bytes
            await asyncio.sleep(_POLL_SECONDS)
        return False


async def _counted(entry: AuthorizedPeer, ask: Ask) -> Reply | None:
    """Ask the far end what it has counted by now."""
    reply = (await ask(entry)).outcome
    return reply if isinstance(reply, Reply) and reply.transfer is not None else None


def _received(reply: Reply) -> int:
    return reply.transfer[0] if reply.transfer else 0


def _sent(reply: Reply) -> int:
    return reply.transfer[1] if reply.transfer else 0


def _most_likely(networks: Iterable[IPNetwork]) -> IPNetwork:
    """Return the network that is most likely an address of the far end itself."""
    return min(networks, key=lambda each: (-each.prefixlen + (each.version == 6) * 96, str(each)))


def one_of(network: IPNetwork) -> IPAddress:
    """Return an address of a network: itself, the first host's, or one that is nobody's."""
    if network.prefixlen == 0:
        return ip_address(_ELSEWHERE[network.version])
    return network.network_address + (network.num_addresses > 1)
