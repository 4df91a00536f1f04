"""What an `up` would do on this host, told without doing it.

Owns the order in which that is told, and the words. What the steps are is computed where `up`
computes it: by `gatekeeper`, `claims`, `carrier` and `production`, with the network as it is now.
Refuses to guess what the far end will say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from enum import Enum
from itertools import groupby

from anubis.daemon.attempt import endpoints_of
from anubis.daemon.control_plane import KEEPALIVE
from anubis.daemon.parts import Parts
from anubis.daemon.production import Prospect
from anubis.errors import LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.forecast import Obstacle, Plan, PlannedStep
from anubis.network.changes import Step
from anubis.network.state import MAIN_TABLE, Route, RouteKind, Rule, Sysctl
from anubis.wireguard.types import Endpoint

__all__ = ["plan_up"]

PATIENCE = 5.0  # seconds for a name server
_UNKNOWN = (
    "whether {name} agrees, and to which lease, is known only when it is asked",
    "whether a handshake with {name} succeeds is known only when it is made",
)


async def plan_up(parts: Parts, entry: AuthorizedPeer) -> Plan:
    """Return what `up` of an entry would do now. Changes nothing but the cache of a name server."""
    gatekeeper, in_the_way = parts.gatekeeper, list[LocalFailure]()
    is_up = gatekeeper.connection(entry.name) is not None
    try:
        gatekeeper.check_free(entry)
    except LocalFailure as error:
        in_the_way.append(error)
    endpoint = None
    try:
        if not is_up:
            deadline = asyncio.get_running_loop().time() + PATIENCE
            endpoint = (await endpoints_of(entry, deadline))[0]
    except LocalFailure as error:
        in_the_way.append(error)
    steps: list[PlannedStep] = []
    try:
        # Who is in the way among our own was just told.
        prospect = await parts.production.foresee(entry, endpoint, gatekeeper.up_peers())
    except LocalFailure as error:
        in_the_way.append(error)
    else:
        in_the_way += prospect.in_the_way
        steps = [*_on_the_interface(prospect, entry, endpoint), *_in_the_network(prospect)]
    if not parts.control.keeps_alive(entry):
        steps.append(_control_keepalive(parts.control.name, entry))
    return Plan(
        connection=entry.name,
        state="up" if is_up else "down",
        lease_seconds=gatekeeper.wanted_lease(entry, None),
        steps=tuple(steps),
        in_the_way=tuple(Obstacle(error.message, error.hint) for error in in_the_way),
        unknown=tuple(text.format(name=entry.name) for text in _UNKNOWN),
    )


def _on_the_interface(
    prospect: Prospect, entry: AuthorizedPeer, endpoint: Endpoint | None
) -> Iterator[PlannedStep]:
    name = prospect.device.name
    if prospect.makes_interface:
        text = f"{name}, WireGuard on UDP port {prospect.device.listen_port}"
        yield PlannedStep("add", "interface", text, {"interface": name})
        for address in map(str, prospect.addresses):
            detail: dict[str, object] = {"address": address, "interface": name}
            yield PlannedStep("add", "address", f"{address} dev {name}", detail)
    if prospect.fwmark is not None:
        detail = {"interface": name, "fwmark": prospect.fwmark}
        yield PlannedStep("change", "fwmark", f"{prospect.fwmark:#x} on {name}", detail)
    there = prospect.device.peer(entry.public_key)
    if there is None or there.allowed_ips != entry.allowed_ips:
        yield _peer("change" if there else "add", name, entry, endpoint)
    if prospect.mtu is not None:
        detail = {"interface": name, "mtu": prospect.mtu}
        yield PlannedStep("change", "mtu", f"{prospect.mtu} on {name}", detail)


def _peer(do: str, interface: str, entry: AuthorizedPeer, endpoint: Endpoint | None) -> PlannedStep:
    networks = sorted(map(str, entry.allowed_ips))
    words = [f"{entry.public_key} on {interface}", f"allowed ips {', '.join(networks)}"]
    if endpoint is not None:
        words.append(f"endpoint {endpoint}")
    if entry.persistent_keepalive:
        words.append(f"keepalive {entry.persistent_keepalive} s")
    if entry.preshared_key is not None:
        words.append("with its preshared key")
    detail: dict[str, object] = {
        "interface": interface,
        "public_key": str(entry.public_key),
        "endpoint": str(endpoint) if endpoint else None,
        "allowed_ips": networks,
        "persistent_keepalive": entry.persistent_keepalive,
        "preshared_key": entry.preshared_key is not None,  # whether there is one
    }
    return PlannedStep(do, "peer", ", ".join(words), detail)


def _in_the_network(prospect: Prospect) -> Iterator[PlannedStep]:
    for step in _in_order(prospect.steps):
        for do, state in (("remove", step.removed), ("add", step.added)):
            if do == "remove" and _is_replaced(step):
                continue
            for route in state.routes:
                yield PlannedStep(do, "route", _route(route), _detail(route))
            for rule in state.rules:
                yield PlannedStep(do, "rule", _rule(rule), _detail(rule))
            for table in state.tables:
                detail: dict[str, object] = {"family": table.family, "name": table.name}
                yield PlannedStep(do, "nftables", f"table {table.family} {table.name}", detail)
            for sysctl in state.sysctls:
                yield PlannedStep(do, "parameter", _parameter(sysctl), _detail(sysctl))


def _in_order(steps: Iterable[Step]) -> Iterator[Step]:
    """Put routes that follow one another into an order for readers; the network needs none."""
    for (_, is_route), group in groupby(steps, lambda step: (bool(step.added), _has_route(step))):
        alike = list(group)
        yield from sorted(alike, key=_network) if is_route else alike


def _has_route(step: Step) -> bool:
    return bool(step.added.routes or step.removed.routes)


def _network(step: Step) -> tuple[int, int, int]:
    (route,) = step.added.routes or step.removed.routes
    network = route.destination
    return network.version, int(network.network_address), network.prefixlen


def _is_replaced(step: Step) -> bool:
    """Tell whether what goes comes again at once with other contents."""
    return bool((step.removed.tables and step.added.tables) or step.added.sysctls)


def _route(route: Route) -> str:
    kind = "throw " if route.kind is RouteKind.THROW else ""
    way = f" dev {route.interface}" if route.interface else ""
    return f"{kind}{route.destination}{way} table {route.table}"


def _rule(rule: Rule) -> str:
    words = [f"IPv{rule.family} {rule.priority}:"]
    if rule.invert:
        words.append("not")
    if rule.fwmark is not None:
        words.append(f"fwmark {rule.fwmark:#x}")
    if rule.table is not None:
        words.append(f"lookup {'main' if rule.table == MAIN_TABLE else rule.table}")
    if rule.suppress_prefixlength is not None:
        words.append(f"suppress_prefixlength {rule.suppress_prefixlength}")
    return " ".join(words)


def _parameter(sysctl: Sysctl) -> str:
    return f"{sysctl.name} = {sysctl.value}"


def _detail(thing: Route | Rule | Sysctl) -> dict[str, object]:
    """Return the fields that say something, as JSON has them."""
    found: dict[str, object] = {}
    for key, value in asdict(thing).items():
        if value is None or value is False:
            continue
        if isinstance(value, Enum):
            found[key] = value.value
        else:
            found[key] = value if isinstance(value, int | str) else str(value)
    return found


def _control_keepalive(interface: str, entry: AuthorizedPeer) -> PlannedStep:
    detail: dict[str, object] = {
        "interface": interface,
        "public_key": str(entry.control_public_key),
        "persistent_keepalive": KEEPALIVE,
    }
    text = f"{KEEPALIVE} s to {entry.control_public_key} on {interface}"
    return PlannedStep("change", "keepalive", text, detail)
