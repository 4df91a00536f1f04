"""What the facts about one connection say of each link of its chain. Pure.

Owns the judgement and the words: what is broken, and the command that mends it. How the facts are
come by is `inquiry`. A link is called broken only by what was seen; what merely could be is
unknown, with the command that tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anubis.diagnosis import BROKEN, OK, SKIPPED, UNKNOWN, Check
from anubis.errors import AnubisError, ConfigError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.forecast import Difference
from anubis.network.firewall import Obstruction, Packet
from anubis.network.state import NetworkState, NftTable, Sysctl
from anubis.network.ways import ForeignRule, IPAddress, Way
from anubis.wireguard.types import Device

__all__ = [
    "Lookup",
    "files",
    "firewall",
    "peer",
    "reachability",
    "reverse_path",
    "routes_and_rules",
    "skipped",
]

_STRICT = "1"  # of rp_filter
_VALID_MARK = "net.ipv4.conf.all.src_valid_mark"
_LOG = "journalctl -u anubis -n 50"


@dataclass(frozen=True, slots=True)
class Lookup:
    """Where a packet to an address would go, or why nowhere; `wanted` is where it should."""

    address: IPAddress
    wanted: str
    way: Way | None
    failure: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it goes where it should."""
        return self.way is not None and self.way.interface == self.wanted


def skipped(name: str, why: str) -> Check:
    """Return a link that is not looked at."""
    return Check(name, SKIPPED, why)


def files(name: str, read: Difference | AnubisError) -> Check:
    """Judge what a reload of the files would say now."""
    if isinstance(read, ConfigError):
        first = str(read.problems[0])
        more = f" and {len(read.problems) - 1} more mistakes" if len(read.problems) > 1 else ""
        return Check(
            "files", BROKEN, f"{first}{more}", "anubis check tells all; then anubis reload"
        )
    if isinstance(read, AnubisError):
        return Check("files", UNKNOWN, read.message, "anubis check")
    changed = {each.name for each in read.changed} | {*read.removed, *read.added}
    if name in changed:
        finding = f"authorized_peers says something else about {name} than what is in force"
        return Check(
            "files", BROKEN, finding, "anubis check --diff shows it, anubis reload does it"
        )
    return Check("files", OK, "the files are right, and in force")


def peer(
    entry: AuthorizedPeer, device: Device | LocalFailure, in_the_way: Sequence[LocalFailure], *,
    is_up: bool,
) -> Check:  # fmt: skip
    """Judge what WireGuard has of the far end, or whether it could have it."""
    if in_the_way:
        return Check("peer", BROKEN, in_the_way[0].message, in_the_way[0].hint)
    if isinstance(device, LocalFailure):
        return Check("peer", BROKEN, device.message, device.hint or _LOG)
    if not is_up:
        return Check("peer", OK, f"nothing is in its way on {device.name}")
    there = device.peer(entry.public_key)
    if there is None:
        finding = f"{device.name} has no peer with the key of {entry.name}"
        return Check("peer", BROKEN, finding, _again(entry))
    missing = sorted(map(str, entry.allowed_ips - there.allowed_ips))
    if missing:
        finding = f"the peer on {device.name} lacks {', '.join(missing)}"
        return Check("peer", BROKEN, finding, f"wg show {device.name} allowed-ips tells who has it")
    return Check("peer", OK, f"on {device.name}, with all its AllowedIPs")


def _again(entry: AuthorizedPeer) -> str:
    return f"anubis down {entry.name} && anubis up {entry.name}"


def routes_and_rules(
    missing: NetworkState,
    lookups: Sequence[Lookup],
    foreign: Mapping[int, Sequence[ForeignRule]],
    table: int,
    priorities: Mapping[int, int],
) -> tuple[Check, Check]:
    """Judge the routes and the rules: those that are gone, and where packets go in truth.

    `foreign` are the rules of others by family, `priorities` that of our first one for production.
    """
    rules = _rules_that_are_gone(missing)
    routes = None
    if missing.routes:
        gone = ", ".join(sorted(map(str, missing.routes))[:3])
        routes = Check("routes", BROKEN, f"{gone}: gone, and not put back yet",
                       f"{_LOG} names what cannot be put right")  # fmt: skip
    for lookup in lookups:
        if lookup.is_right:
            continue
        if routes is None and lookup.way is not None and lookup.way.table == table:
            routes = _wrong_route(lookup, table)
        elif rules is None and not missing.routes:
            rules = _wrong_rule(lookup, foreign, priorities)
    ways = f"{len(lookups)} looked up" if lookups else "none for a connection that is down"
    return (
        routes or Check("routes", OK, f"ours are there; {ways}"),
        rules or Check("rules", OK, "ours are there, and none of others is in their way"),
    )


def _rules_that_are_gone(missing: NetworkState) -> Check | None:
    if not missing.rules:
        return None
    gone = ", ".join(sorted(map(str, missing.rules))[:3])
    remedy = f"{_LOG} names what cannot be put right"
    return Check("rules", BROKEN, f"{gone}: gone, and not put back yet", remedy)


def _wrong_route(lookup: Lookup, table: int) -> Check:
    way = lookup.way
    assert way is not None  # noqa: S101 (its caller saw to it)
    where = f"by {way.interface}" if way.interface else "nowhere"
    finding = f"{lookup.address} goes {where}, not by {lookup.wanted}: route {way.route}"
    version = f"-{lookup.address.version} "
    return Check("routes", BROKEN, f"{finding} of table {table} is another's",
                 f"ip {version}route delete {way.route} table {table}")  # fmt: skip


def _wrong_rule(
    lookup: Lookup, foreign: Mapping[int, Sequence[ForeignRule]], priorities: Mapping[int, int]
) -> Check:
    version = lookup.address.version
    way, first = lookup.way, priorities.get(version, 0)
    if way is not None and way.is_local:
        finding = f"{lookup.address}, an address of the far end, is one of this host's own"
        return Check("rules", BROKEN, finding, f"ip address show to {lookup.address}")
    table = way.table if way is not None else 0
    suspects = [each for each in foreign.get(version, ()) if 0 < each.priority < first]
    suspects = [each for each in suspects if each.table in {table, 0}] or suspects
    goes = f"goes by {way.interface}" if way is not None else f"goes nowhere ({lookup.failure})"
    finding = f"{lookup.address} {goes}, not by {lookup.wanted}"
    if len(suspects) == 1:
        at = suspects[0].priority
        return Check("rules", BROKEN, f"{finding}: rule {at} comes before ours",
                     f"ip -{version} rule delete priority {at}")  # fmt: skip
    return Check("rules", BROKEN, finding, f"ip -{version} rule; ip route get {lookup.address}")


def reverse_path(wanted: NetworkState, values: Mapping[str, str], interface: str | None) -> Check:
    """Judge the reverse-path filter, which matters while a default route is in the tunnel.

    `values` are kernel parameters as they are, without those that could not be read; `interface`
    is the one by which bearer packets go.
    """
    name = "rp_filter"
    if Sysctl(_VALID_MARK, "1") not in wanted.sysctls:
        return Check(name, OK, "no IPv4 default route of ours for it to stumble over")
    if values.get(_VALID_MARK) == "1":
        return Check(name, OK, f"{_VALID_MARK} is 1, so answers to bearer packets pass")
    strict = [
        each
        for each in ("net.ipv4.conf.all.rp_filter", f"net.ipv4.conf.{interface}.rp_filter")
        if values.get(each) == _STRICT
    ]
    if not strict:
        return Check(name, OK, "it is not strict")
    finding = f"{strict[-1]} is 1, and {_VALID_MARK} is not: answers to bearer packets are dropped"
    return Check(name, BROKEN, finding, f"sysctl -w {_VALID_MARK}=1")


def firewall(
    missing: NetworkState,
    found: Sequence[tuple[str, Packet, Obstruction | None]],
    failure: AnubisError | None,
) -> Check:
    """Judge nftables: our own tables, and what others' chains do to our packets, by what they are.

    `failure` is why the ruleset could not be read.
    """
    if missing.tables:
        return _our_table_is_gone(next(iter(missing.tables)))
    if failure is not None:
        return Check("firewall", UNKNOWN, failure.message, "nft list ruleset")
    stops = [each for each in found if each[2] is not None]
    for what, packet, stop in sorted(stops, key=lambda each: not (each[2] and each[2].is_certain)):
        if stop is None:
            continue
        look = f"nft -a list chain {stop.chain}"
        if not stop.is_certain:
            finding = (
                f"nftables chain {stop.chain} may drop {what}: not all its rules could be read"
            )
            return Check("firewall", UNKNOWN, finding, look)
        finding = f"nftables chain {stop.chain} drops {what}"
        if stop.handle is None:
            return Check("firewall", BROKEN, f"{finding}, by its policy",
                         f"nft add rule {stop.chain} {_accept(packet)} accept")  # fmt: skip
        remedy = f"nft delete rule {stop.chain} handle {stop.handle}"
        return Check("firewall", BROKEN, finding, f"{remedy} ({look} shows it)")
    return Check("firewall", OK, "no nftables rule of this host drops our packets")


def _our_table_is_gone(table: NftTable) -> Check:
    finding = f"{table} is gone or changed, and not put back yet"
    return Check("firewall", BROKEN, finding, f"{_LOG} names what cannot be put right")


def _accept(packet: Packet) -> str:
    if packet.dport is None:
        return f'{"iifname" if packet.hook == "input" else "oifname"} "{packet.interface}"'
    return f"udp {'sport' if packet.hook == 'input' else 'dport'} " + str(
        packet.sport if packet.hook == "input" else packet.dport
    )


def reachability(
    entry: AuthorizedPeer, lookups: Sequence[Lookup | LocalFailure], ours: Sequence[str], knock: str
) -> Check:
    """Judge the way to the far end's WireGuard ports; `ours` are the interfaces of Anubis.

    `knock` is what the network said to a packet without meaning to the control port, if it said no.
    """
    name = "reachability"
    if not lookups:
        finding = f"{entry.name} has no Endpoint here: only it can begin"
        return Check(name, UNKNOWN, finding, f"on {entry.name}: anubis why, with this host's name")
    for lookup in lookups:
        if isinstance(lookup, LocalFailure):
            return Check(name, BROKEN, lookup.message, lookup.hint)
        get = f"ip route get {lookup.address}"
        if lookup.way is None:
            finding = f"this host has no way to {lookup.address}: {lookup.failure}"
            return Check(name, BROKEN, finding, f"{get}; ip route; is the network up?")
        if lookup.way.interface in ours:
            finding = f"{lookup.address} would be asked through {lookup.way.interface}, in a circle"
            return Check(name, BROKEN, finding, f"{get}; ip rule")
    if knock:
        finding = f"{entry.name} cannot be reached: {knock}"
        return Check(name, BROKEN, finding, f"ping {_first(lookups)}")
    by = ", ".join(
        dict.fromkeys(
            f"{each.address} by {each.way.interface}"
            for each in lookups
            if isinstance(each, Lookup) and each.way is not None
        )
    )
    return Check(name, OK, by)


def _first(lookups: Sequence[Lookup | LocalFailure]) -> str:
    return next((str(each.address) for each in lookups if isinstance(each, Lookup)), "")
