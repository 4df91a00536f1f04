"""Decide what of the host's network Anubis wants: pure functions from wishes to `NetworkState`.

Owns the meaning of every rule priority and of both nftables tables. Refuses to know how a kernel
is told.

The kernel walks the rules upward. Priority 0 looks at the addresses of this host itself, so a rule
of ours sees only packets that are for somebody else:

    21400  IPv6, sent by this host to the control prefix    -> table, its routes from /64 on
    21401  IPv6, anything else to the control prefix        -> prohibit
    21402  IPv6, bound to anubis0, to fe80::/64             -> table
    21403  came in through anubis0                          -> prohibit
    21420  marked: a bearer packet                          -> main
    21430  not marked                                       -> table, but not its default route
    21440  (default route) any                              -> main, but not its default route
    21450  (default route) not marked                       -> table

A `throw` route ends the lookup in the table and the walk goes on with the next rule, so that an
excluded subnet ends in main at last. A marked packet never looks into the table: without a route
in main it is unreachable, it cannot loop into the tunnel that bears it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv6Address

from anubis.addresses import CONTROL_PREFIX, LINK_LOCAL_PREFIX
from anubis.network.state import (
    MAIN_TABLE,
    RULE_PRIORITIES,
    IPNetwork,
    NetworkState,
    NftTable,
    Route,
    RouteKind,
    Rule,
    RuleAction,
    Sysctl,
)

__all__ = ["SERVICE_PORT", "SPECIFIC", "control_plane_state", "production_state"]

# Inside the control plane, UDP for the protocol and TCP for the web page. It cannot be the 4297 of
# the bearer packets: WireGuard's own socket has that on every address of the host (EADDRINUSE).
SERVICE_PORT = 4298

_CONTROL_LOOKUP = RULE_PRIORITIES.start
_CONTROL_PROHIBIT = RULE_PRIORITIES.start + 1
_CONTROL_LINK_LOCAL = RULE_PRIORITIES.start + 2
_CONTROL_TRANSIT = RULE_PRIORITIES.start + 3
_BEARER = RULE_PRIORITIES.start + 20
SPECIFIC = RULE_PRIORITIES.start + 30  # leads what is for a far end into our table
_DEFAULT_EXCEPT = RULE_PRIORITIES.start + 40
_DEFAULT = RULE_PRIORITIES.start + 50
_FULL_MASK = 0xFFFFFFFF


def control_plane_state(interface: str, address: IPv6Address, table: int) -> NetworkState:
    """Confine the control plane: nothing but the service port passes `interface`, either way.

    `address` is this host's routable control address; its link-local twin is derived from it.
    The nftables table and the rules each suffice alone: the rules also hold while the interface is
    gone, when a packet to the control prefix would otherwise leave by the default route.
    """
    routes = (Route(prefix, table, interface) for prefix in (CONTROL_PREFIX, LINK_LOCAL_PREFIX))
    rules = [
        Rule(
            6,
            _CONTROL_LOOKUP,
            table=table,
            input_interface="lo",
            destination=CONTROL_PREFIX,
            # Not the tunnel's default route or a wide one, when the route into anubis0 is gone.
            suppress_prefixlength=CONTROL_PREFIX.prefixlen - 1,
        ),
        Rule(6, _CONTROL_PROHIBIT, RuleAction.PROHIBIT, destination=CONTROL_PREFIX),
        Rule(
            6,
            _CONTROL_LINK_LOCAL,
            table=table,
            output_interface=interface,
            destination=LINK_LOCAL_PREFIX,
        ),
    ]
    rules += (
        Rule(family, _CONTROL_TRANSIT, RuleAction.PROHIBIT, input_interface=interface)
        for family in (4, 6)
    )
    confinement = NftTable("inet", "anubis", _confinement(interface, address))
    return NetworkState(frozenset(routes), frozenset(rules), frozenset({confinement}))


def _confinement(interface: str, address: IPv6Address) -> str:
    """Write the body of the confining table.

    Spoofed sources are dropped before anything (`raw`), also before a redirect could hide them.
    A drop is final whatever other tables accept. No counters: the ruleset must not change by use.
    The service's own packets are not tracked: one peer could send from so many ports that the
    host's table of connections is full, and with it all its other traffic is cut.
    """
    link_local = IPv6Address(LINK_LOCAL_PREFIX.network_address.packed[:8] + address.packed[8:])
    ours = f"{{ {link_local}, {address} }}"
    peers = f"{{ {CONTROL_PREFIX}, {LINK_LOCAL_PREFIX} }}"
    ports = "meta l4proto { tcp, udp } th"
    arrives = f'iifname "{interface}" ip6 saddr {peers} ip6 daddr {ours} {ports}'
    leaves = f'oifname "{interface}" ip6 daddr {peers} {ports}'
    return f"""
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		iifname != {{ "{interface}", "lo" }} ip6 saddr {CONTROL_PREFIX} drop
		iifname != {{ "{interface}", "lo" }} ip6 daddr {CONTROL_PREFIX} drop
		iifname "{interface}" {ports} dport {SERVICE_PORT} notrack
	}}

	chain answers {{
		type filter hook output priority raw; policy accept;
		oifname "{interface}" {ports} sport {SERVICE_PORT} notrack
	}}

	chain input {{
		type filter hook input priority filter; policy accept;
		{arrives} dport {SERVICE_PORT} accept
		{arrives} sport {SERVICE_PORT} ct state established accept
		iifname "{interface}" drop
	}}

	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname "{interface}" drop
		oifname "{interface}" drop
	}}

	chain output {{
		type filter hook output priority filter; policy accept;
		oifname != {{ "{interface}", "lo" }} ip6 daddr {CONTROL_PREFIX} drop
		{leaves} dport {SERVICE_PORT} accept
		{leaves} sport {SERVICE_PORT} accept
		oifname "{interface}" drop
	}}
"""


def production_state(
    interface: str,
    table: int,
    fwmark: int,
    allowed_ips: Iterable[IPNetwork],
    throw: Iterable[IPNetwork] = (),
) -> NetworkState:
    """Route the AllowedIPs of all connections that are up into `interface`, and nothing else.

    `allowed_ips` is the union over those connections; without any, nothing is wanted. `throw`
    subnets stay out of the tunnel, also where they equal an allowed one. `fwmark` is the mark of
    the bearer packets of both WireGuard interfaces, not 0.
    """
    allowed = frozenset(allowed_ips)
    if not allowed:
        return NetworkState()
    excluded = frozenset(throw)
    routes = {Route(network, table, interface) for network in allowed - excluded}
    routes |= {Route(network, table, kind=RouteKind.THROW) for network in excluded}
    defaults = {network.version for network in allowed - excluded if network.prefixlen == 0}
    rules: set[Rule] = set()
    for family in (4, 6):
        rules |= _production_rules(family, table, fwmark, default=family in defaults)
    tables = {NftTable("inet", "anubis_bearer", _bearer(fwmark))} if defaults else set()
    sysctls = {Sysctl("net.ipv4.conf.all.src_valid_mark", "1")} if 4 in defaults else set()
    return NetworkState(frozenset(routes), frozenset(rules), frozenset(tables), frozenset(sysctls))


def _production_rules(family: int, table: int, fwmark: int, *, default: bool) -> set[Rule]:
    """Return one family's rules; `default`: a default route is among the allowed ones."""
    unmarked = Rule(
        family,
        SPECIFIC,
        table=table,
        fwmark=fwmark,
        fwmask=_FULL_MASK,
        invert=True,
        suppress_prefixlength=0,
    )
    rules = {
        Rule(family, _BEARER, table=MAIN_TABLE, fwmark=fwmark, fwmask=_FULL_MASK),
        unmarked,
    }
    if default:
        rules |= {
            Rule(family, _DEFAULT_EXCEPT, table=MAIN_TABLE, suppress_prefixlength=0),
            replace(unmarked, priority=_DEFAULT, suppress_prefixlength=None),
        }
    return rules


def _bearer(fwmark: int) -> str:
    """Write the body of the table that lets answers to bearer packets pass a strict rp_filter.

    The reverse-path check looks up the way back to the sender. Unmarked, it finds the tunnel's
    default route and drops the packet; with the mark of the connection that it belongs to (and
    `src_valid_mark`), it finds main's. Marks that are not ours are left alone.
    """
    mark = f"{fwmark:#010x}"
    return f"""
	chain prerouting {{
		type filter hook prerouting priority mangle; policy accept;
		meta l4proto udp ct mark {mark} meta mark set ct mark
	}}

	chain postrouting {{
		type filter hook postrouting priority mangle; policy accept;
		meta l4proto udp meta mark {mark} ct mark set meta mark
	}}
"""
