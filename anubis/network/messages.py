"""Translate our routes and rules into the arguments of pyroute2 and its answers back.

Owns the numbers of linux/rtnetlink.h and linux/fib_rules.h. Refuses to know sockets: everything
here is a pure function of its arguments.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from anubis.network.precedence import LEADING, actual, is_ours, split
from anubis.network.state import (
    ROUTE_PROTOCOL,
    IPNetwork,
    Route,
    RouteKind,
    Rule,
    RuleAction,
)

__all__ = [
    "FAMILIES",
    "describe_route",
    "is_our_rule",
    "parse_route",
    "parse_rule",
    "route_request",
    "rule_request",
    "takes_everything",
]

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

_ROUTE_TYPES = {RouteKind.UNICAST: 1, RouteKind.THROW: 9}  # RTN_*
_RULE_ACTIONS = {RuleAction.LOOKUP: 1, RuleAction.PROHIBIT: 8}  # FR_ACT_*
_SCOPE_LINK = 253  # RT_SCOPE_LINK: what `ip route add` gives an IPv4 route without a gateway
_INVERT = 2  # FIB_RULE_INVERT
_NO_SUPPRESSION = 0xFFFFFFFF  # FRA_SUPPRESS_PREFIXLEN of a rule that suppresses nothing
_EVERYBODYS = frozenset({253, 254, 255})  # RT_TABLE_DEFAULT, MAIN and LOCAL
# FRA_* that narrow a rule down; pyroute2 gives a name to each.
_SELECTORS = ("iifname", "oifname", "l3mdev", "tun_id", "ip_proto", "sport_range", "dport_range",
              "uid_range")  # fmt: skip
_PROTOCOLS = {2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp", ROUTE_PROTOCOL: "anubis"}


def route_request(route: Route, index: int | None) -> dict[str, Any]:
    """Return the arguments that add or delete exactly this route; `index` is its interface's."""
    request: dict[str, Any] = {
        "family": FAMILIES[route.destination.version],
        "dst": str(route.destination.network_address),
        "dst_len": route.destination.prefixlen,
        "table": route.table,
        "proto": ROUTE_PROTOCOL,
        "type": _ROUTE_TYPES[route.kind],
        "scope": 0,
    }
    if route.kind is RouteKind.UNICAST:
        request["oif"] = index
        if route.destination.version == 4:
            request["scope"] = _SCOPE_LINK
    return request


def rule_request(rule: Rule, block: int) -> dict[str, Any]:
    """Return the arguments that add or delete exactly this rule; ours stand in this `block`.

    A deletion matches any value of a selector that is absent here, but always our protocol and
    the priority; `plan` gives each priority one meaning.
    """
    request = {
        "family": FAMILIES[rule.family],
        "priority": rule.priority if rule.astray else actual(rule.priority, block),
        "protocol": ROUTE_PROTOCOL,
        "action": _RULE_ACTIONS[rule.action],
        "flags": _INVERT if rule.invert else 0,
        "table": rule.table,
        "fwmark": rule.fwmark,
        "fwmask": rule.fwmask,
        "iifname": rule.input_interface,
        "oifname": rule.output_interface,
        "suppress_prefixlen": rule.suppress_prefixlength,
    }
    if rule.destination is not None:
        request["dst"] = str(rule.destination.network_address)
        request["dst_len"] = rule.destination.prefixlen
    return {key: value for key, value in request.items() if value is not None}


def parse_route(message: Any, names: Mapping[int, str]) -> Route | None:
    """Read a route of ours; `names` are the links by index. None: a kind that is never ours."""
    kind = next((kind for kind, number in _ROUTE_TYPES.items() if number == message["type"]), None)
    if kind is None:
        return None
    interface = names.get(message.get("oif")) if kind is RouteKind.UNICAST else None
    return Route(_destination(message), message.get("table"), interface, kind)


def is_our_rule(message: Any) -> bool:
    """Tell whether a rule bears both of our marks: the protocol, and a priority in our range."""
    is_in_range = is_ours(message.get("priority") or 0)
    return message.get("protocol") == ROUTE_PROTOCOL and is_in_range


def takes_everything(message: Any) -> bool:
    """Tell whether a rule looks every packet up in a table, or all but those with a mark.

    Not in main, and not what somebody has forbidden: that is meant to be so.
    """
    is_plain = not any(message[length] for length in ("dst_len", "src_len", "tos"))
    selective = any(message.get(name) is not None for name in _SELECTORS)
    is_marked = bool(message.get("fwmark")) and not message["flags"] & _INVERT
    table = message.get("table") or message["table"]
    looks_up = message["action"] == _RULE_ACTIONS[RuleAction.LOOKUP] and table not in _EVERYBODYS
    is_whole = message.get("suppress_prefixlen") in (None, _NO_SUPPRESSION)
    return looks_up and is_whole and is_plain and not selective and not is_marked


def parse_rule(message: Any, block: int) -> Rule | None:
    """Read a rule of ours, which stand in this `block`; None: an action that is never ours."""
    numbers = {number: action for action, number in _RULE_ACTIONS.items()}
    action = numbers.get(message["action"])
    if action is None:
        return None
    suppress = message.get("suppress_prefixlen")
    priority, stands_in = split(message.get("priority"))
    astray = stands_in != (block if priority in LEADING else 0)
    return Rule(
        family=6 if message["family"] == socket.AF_INET6 else 4,
        priority=message.get("priority") if astray else priority,
        action=action,
        table=message.get("table") or None,
        fwmark=message.get("fwmark"),
        fwmask=message.get("fwmask"),
        invert=bool(message["flags"] & _INVERT),
        input_interface=message.get("iifname"),
        output_interface=message.get("oifname"),
        destination=_destination(message) if message["dst_len"] else None,
        suppress_prefixlength=None if suppress == _NO_SUPPRESSION else suppress,
        astray=astray,
    )


def describe_route(message: Any, names: Mapping[int, str]) -> str:
    """Say whose a route is, in the words of `ip route`."""
    protocol = _PROTOCOLS.get(message["proto"], message["proto"])
    interface = names.get(message.get("oif"))
    device = f" dev {interface}" if interface else ""
    return f"{_destination(message)}{device} proto {protocol}"


def _destination(message: Any) -> IPNetwork:
    nowhere = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"  # noqa: S104 (no socket)
    return ip_network(f"{message.get('dst') or nowhere}/{message['dst_len']}")
