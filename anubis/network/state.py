"""What Anubis may own of a host's network, as one value that can be compared and subtracted.

Owns the marks by which its things are told from a stranger's: a routing protocol number, a range
of rule priorities, names of nftables tables. Refuses to know how any of it is brought about.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

__all__ = [
    "MAIN_TABLE",
    "NFT_TABLES",
    "ROUTE_PROTOCOL",
    "RULE_PRIORITIES",
    "NetworkState",
    "NftTable",
    "Route",
    "RouteKind",
    "Rule",
    "RuleAction",
    "Sysctl",
]

IPNetwork = IPv4Network | IPv6Network

MAIN_TABLE = 254  # RT_TABLE_MAIN, linux/rtnetlink.h
ROUTE_PROTOCOL = 214  # rtm_protocol of our routes, FRA_PROTOCOL of our rules; nobody's in rt_protos
RULE_PRIORITIES = range(21400, 21500)
NFT_TABLES = frozenset({("inet", "anubis"), ("inet", "anubis_bearer")})  # family, name


class RouteKind(Enum):
    """The route types of linux/rtnetlink.h that Anubis uses."""

    UNICAST = "unicast"
    THROW = "throw"


@dataclass(frozen=True, slots=True)
class Route:
    """A route in a table; `interface` is set for unicast routes only."""

    destination: IPNetwork
    table: int
    interface: str | None = None
    kind: RouteKind = RouteKind.UNICAST

    def __str__(self) -> str:
        way = f"dev {self.interface}" if self.interface else self.kind.value
        return f"route {self.destination} {way} table {self.table}"


class RuleAction(Enum):
    """What a matching rule does (FR_ACT_* of linux/fib_rules.h)."""

    LOOKUP = "lookup"
    PROHIBIT = "prohibit"


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule of one address family; None means that the selector is absent.

    Its priority is that of `plan`; one that is `astray` stands at it in the kernel, where none of
    ours is wanted.
    """

    family: int  # 4 or 6
    priority: int
    action: RuleAction = RuleAction.LOOKUP
    table: int | None = None  # for LOOKUP
    fwmark: int | None = None
    fwmask: int | None = None
    invert: bool = False
    input_interface: str | None = None  # "lo" matches what this host itself sends
    output_interface: str | None = None
    destination: IPNetwork | None = None
    suppress_prefixlength: int | None = None
    astray: bool = False

    def __str__(self) -> str:
        return f"IPv{self.family} rule {self.priority}" + (" (astray)" if self.astray else "")


@dataclass(frozen=True, slots=True)
class NftTable:
    """A whole nftables table of ours: family, name, and the body between its braces."""

    family: str  # "inet", "ip", "ip6"
    name: str
    body: str

    def __str__(self) -> str:
        return f"nftables table {self.family} {self.name}"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel parameter held at a value while wanted; what it was before is put back."""

    name: str  # as in "net.ipv4.conf.all.src_valid_mark"
    value: str

    def __str__(self) -> str:
        return f"kernel parameter {self.name}"


@dataclass(frozen=True, slots=True)
class NetworkState:
    """Everything that Anubis has, or wants to have, in the network of this host."""

    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    tables: frozenset[NftTable] = frozenset()
    sysctls: frozenset[Sysctl] = frozenset()

    def __or__(self, other: NetworkState) -> NetworkState:
        return NetworkState(
            self.routes | other.routes,
            self.rules | other.rules,
            self.tables | other.tables,
            self.sysctls | other.sysctls,
        )

    def __sub__(self, other: NetworkState) -> NetworkState:
        return NetworkState(
            self.routes - other.routes,
            self.rules - other.rules,
            self.tables - other.tables,
            self.sysctls - other.sysctls,
        )

    def __str__(self) -> str:
        things = [*self.tables, *self.sysctls, *self.routes, *self.rules]
        return ", ".join(sorted(map(str, things)))

    def __bool__(self) -> bool:
        return bool(self.routes or self.rules or self.tables or self.sysctls)
