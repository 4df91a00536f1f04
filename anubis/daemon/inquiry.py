"""One look along the chain from here to a far end, for whoever asks why it does not work.

Owns what is looked at, in which order, and the deadlines. What it means is judged in `findings` and
`far_findings`. Nothing that is up is changed: the far end is asked for its status, and a few small
packets go through a tunnel that is there.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterator

from anubis.daemon import far_findings, findings, soundings
from anubis.daemon.far_findings import Asked
from anubis.daemon.findings import Lookup
from anubis.daemon.parts import Parts
from anubis.daemon.resolver import resolve
from anubis.daemon.road import Contact
from anubis.daemon.shares import Shares
from anubis.daemon.sounder import Sounder, one_of
from anubis.diagnosis import OK, Check, Diagnosis
from anubis.errors import AnubisError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.files.config import Config
from anubis.forecast import Difference
from anubis.gatekeeper import Connection
from anubis.network.errors import NetworkError
from anubis.network.firewall import Obstruction, Packet, obstruction
from anubis.network.plan import SERVICE_PORT, SPECIFIC
from anubis.network.rtnetlink import Netlink
from anubis.network.state import NetworkState
from anubis.network.sysctl import read_sysctl
from anubis.network.ways import IPAddress, foreign_rules, way_to
from anubis.protocol.wire import Reply, State, Verb
from anubis.wireguard.types import Endpoint

__all__ = ["Inquiry"]

_ASK_SECONDS = 5.0  # for the far end, and for a name server
_GUARD_SECONDS = 0.5  # in which the guard puts back what a stranger took
_MAX_LOOKUPS = 32
_PARAMETERS = ("net.ipv4.conf.all.src_valid_mark", "net.ipv4.conf.all.rp_filter")


class Inquiry:
    """Looks, when asked. `foresee` reads the files as a reload would."""

    def __init__(
        self,
        parts: Parts,
        shares: Shares,
        config: Config,
        foresee: Callable[[], Awaitable[Difference]],
    ) -> None:
        self._parts = parts
        self._shares = shares
        self._config = config
        self._foresee = foresee
        self._sounder = Sounder(parts.production, shares.network, parts.clock)

    async def why(self, entry: AuthorizedPeer) -> Diagnosis:
        """Return the chain to a far end, as it is now. Raises LocalFailure."""
        connection = self._parts.gatekeeper.connection(entry.name)
        checks = [await self._files(entry), Check("daemon", OK, "it runs")]
        endpoints = await self._endpoints(entry)
        checks += await self._this_host(entry, connection, endpoints)
        port = endpoints[0] if endpoints and isinstance(endpoints[0], Endpoint) else None
        # At once: routers say no sparingly, and not any more when WireGuard has asked in vain.
        knock = asyncio.create_task(soundings.knock(port, self._parts.production.mark))
        try:
            asked = await self._ask(entry)
            answer = 0 if isinstance(asked.outcome, Reply) else await knock
        finally:
            knock.cancel()
        checks += await self._the_way(entry, endpoints, asked, answer)
        checks += await self._together(entry, connection, asked)
        checks.append(far_findings.clock(entry, asked))
        return Diagnosis(entry.name, "up" if connection else "down", tuple(checks))

    async def _files(self, entry: AuthorizedPeer) -> Check:
        try:
            return findings.files(entry.name, await self._foresee())
        except AnubisError as error:
            return findings.files(entry.name, error)

    async def _endpoints(self, entry: AuthorizedPeer) -> list[Endpoint | LocalFailure]:
        """Return where the far end's two ports are, that of the control plane first."""
        deadline = asyncio.get_running_loop().time() + _ASK_SECONDS
        found: list[Endpoint | LocalFailure] = []
        seen = (
            (entry.control_endpoint, self._parts.control.peer),
            (entry.endpoint, self._parts.production.peer),
        )
        for named, look in seen:
            try:
                if named is not None:
                    found.append((await resolve(named, deadline))[0])
                elif (peer := await look(entry)) is not None and peer.endpoint is not None:
                    found.append(peer.endpoint)
            except LocalFailure as error:
                found.append(error)
        return found

    # This host

    async def _this_host(
        self,
        entry: AuthorizedPeer,
        connection: Connection | None,
        endpoints: list[Endpoint | LocalFailure],
    ) -> list[Check]:
        missing = await self._missing()
        lookups = await self._lookups(entry) if connection else []
        foreign = {v: await foreign_rules(self._netlink, v) for v in (4, 6)}
        first = {v: self._netlink.standing(SPECIFIC, v) for v in (4, 6)}
        table = self._config.production.table
        routes, rules = findings.routes_and_rules(missing, lookups, foreign, table, first)
        bearer = next((each for each in endpoints if isinstance(each, Endpoint)), None)
        out = (await self._lookup(bearer.address, "")).way if bearer else None
        interface = out.interface if out else None
        reverse = findings.reverse_path(self._shares.wanted, _parameters(interface), interface)
        firewall = await self._firewall(missing, endpoints, interface, is_up=bool(connection))
        return [await self._peer(entry, connection), routes, rules, reverse, firewall]

    async def _missing(self) -> NetworkState:
        """Return what is not there of ours; what the guard is about to put back is given time."""
        missing = await self._shares.missing()
        if missing:
            await asyncio.sleep(_GUARD_SECONDS)
            missing = await self._shares.missing()
        return missing

    async def _peer(self, entry: AuthorizedPeer, connection: Connection | None) -> Check:
        in_the_way: list[LocalFailure] = []
        production, gatekeeper = self._parts.production, self._parts.gatekeeper
        try:
            if connection is None:
                gatekeeper.check_free(entry)
                prospect = await production.foresee(entry, None, gatekeeper.up_peers())
                in_the_way += prospect.in_the_way
                return findings.peer(entry, prospect.device, in_the_way, is_up=False)
            device = await production.device()
        except LocalFailure as error:
            return findings.peer(entry, error, in_the_way, is_up=connection is not None)
        return findings.peer(entry, device, in_the_way, is_up=True)

    async def _lookups(self, entry: AuthorizedPeer) -> list[Lookup]:
        excluded = set(self._config.production.throw)
        networks = sorted(entry.allowed_ips - excluded, key=str)[:_MAX_LOOKUPS]
        name = self._parts.production.name
        return [await self._lookup(one_of(each), name) for each in networks]

    async def _lookup(self, address: IPAddress, wanted: str, mark: int = 0) -> Lookup:
        mark = mark or (0 if wanted else self._parts.production.mark)
        try:
            return Lookup(address, wanted, await way_to(self._netlink, address, mark))
        except NetworkError as error:
            return Lookup(address, wanted, None, error.message)

    @property
    def _netlink(self) -> Netlink:
        return self._shares.network.netlink

    async def _firewall(
        self,
        missing: NetworkState,
        endpoints: list[Endpoint | LocalFailure],
        interface: str | None,
        *,
        is_up: bool,
    ) -> Check:
        try:
            ruleset = await self._shares.network.nft.ruleset()
        except NetworkError as error:
            return findings.firewall(missing, [], error)
        found: list[tuple[str, Packet, Obstruction | None]] = []
        for what, packet in self._packets(endpoints, interface, is_up=is_up):
            found.append((what, packet, obstruction(ruleset, packet)))
        return findings.firewall(missing, found, None)

    def _packets(
        self, endpoints: list[Endpoint | LocalFailure], interface: str | None, *, is_up: bool
    ) -> Iterator[tuple[str, Packet]]:
        """Yield what must pass: bearer packets of both ports, their answers, and the tunnel's."""
        ports = (self._config.control.listen_port, self._config.production.listen_port)
        mark = self._parts.production.mark
        for endpoint, own in zip(endpoints, ports, strict=False):
            if isinstance(endpoint, Endpoint):
                address, port = endpoint.address, endpoint.port
                out = Packet("output", interface, address.version, None, address, own, port, mark)
                yield f"what is sent to UDP port {port}", out
                back = Packet("input", interface, address.version, address, None, port, own)
                yield f"what comes from UDP port {port}", back
        control = self._parts.control.name
        yield (
            f"what is asked through {control}",
            Packet("output", control, 6, sport=SERVICE_PORT, dport=SERVICE_PORT),
        )
        yield (
            f"what is answered through {control}",
            Packet("input", control, 6, sport=SERVICE_PORT, dport=SERVICE_PORT),
        )
        if is_up:
            name = self._parts.production.name
            for version in (4, 6):
                yield f"what is sent into {name}", Packet("output", name, version)
                yield f"answers out of {name}", Packet("input", name, version)

    # The way, and the far end

    async def _ask(self, entry: AuthorizedPeer) -> Asked:
        """Ask the far end for its status; a session that is only for that is given up after it."""
        contact = Contact()
        outcome: Reply | AnubisError
        deadline = asyncio.get_running_loop().time() + _ASK_SECONDS
        try:
            outcome = await self._parts.control.ask(
                entry, Verb.STATUS, deadline=deadline, contact=contact
            )
        except AnubisError as error:
            outcome = error
        finally:
            await self._parts.silence.fall(entry)
        return Asked(outcome, self._parts.clock.unix_ns(), contact.reached)

    async def _the_way(
        self,
        entry: AuthorizedPeer,
        endpoints: list[Endpoint | LocalFailure],
        asked: Asked,
        answer: int,
    ) -> list[Check]:
        """Judge the way; `answer` is the errno with which the network answered a knock."""
        lookups: list[Lookup | LocalFailure] = [
            await self._lookup(each.address, "") if isinstance(each, Endpoint) else each
            for each in endpoints
        ]
        first = endpoints[0] if endpoints else None
        port = first.port if isinstance(first, Endpoint) else 0
        asked = Asked(asked.outcome, asked.unix_ns, asked.reached, answer == errno.ECONNREFUSED)
        ours = (self._parts.control.name, self._parts.production.name)
        reachable = findings.reachability(entry, lookups, ours, soundings.said(answer))
        return [reachable, *far_findings.control_and_far(entry, asked, port)]

    async def _together(
        self, entry: AuthorizedPeer, connection: Connection | None, asked: Asked
    ) -> list[Check]:
        """Return what both ends know together: policy, handshake, MTU, return path."""
        links = ("production_handshake", "mtu", "return_path")
        reply = asked.outcome
        if not isinstance(reply, Reply):
            why = f"{entry.name} could not be asked"
            return [findings.skipped(name, why) for name in ("policy", *links)]
        policy = far_findings.policy(entry, reply, is_up=connection is not None)
        if connection is None:
            why = "the connection is down"
        elif reply.state is State.DOWN or reply.transfer is None:
            why = f"{entry.name} does not tell what it counts"
        else:
            sounding = await self._sounder.sound(entry, reply, self._ask)
            return [policy, *far_findings.tunnel(entry, reply.installed, sounding)]
        return [policy, *(findings.skipped(name, why) for name in links)]


def _parameters(interface: str | None) -> dict[str, str]:
    """Return the kernel parameters that can be read of those that matter."""
    names = (*_PARAMETERS, f"net.ipv4.conf.{interface}.rp_filter") if interface else _PARAMETERS
    found = {}
    for name in names:
        try:
            found[name] = read_sysctl(name)
        except NetworkError:
            continue
    return found
