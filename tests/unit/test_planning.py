"""A plan tells every kind of step in its order, in words and in detail."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from types import SimpleNamespace
from typing import Any

from anubis.daemon.planning import plan_up
from anubis.daemon.production import Prospect
from anubis.errors import LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer, NamedEndpoint
from anubis.forecast import Plan
from anubis.network.changes import steps
from anubis.network.state import NetworkState, NftTable, Route, RouteKind, Rule, Sysctl
from anubis.wireguard.keys import PresharedKey
from anubis.wireguard.types import Device
from tests.unit.test_revision import A

NETWORK = ip_network("10.0.0.1/32")
THROW = Route(NETWORK, 214, kind=RouteKind.THROW)
BEFORE = NetworkState(frozenset({THROW}), tables=frozenset({NftTable("inet", "x", "old")}))
AFTER = NetworkState(
    frozenset({Route(NETWORK, 214, "wg0")}),
    frozenset(
        {
            Rule(4, 21420, table=254, fwmark=0xD6, fwmask=0xFFFFFFFF),
            Rule(6, 21430, table=214, fwmark=0xD6, invert=True, suppress_prefixlength=0),
        }
    ),
    frozenset({NftTable("inet", "x", "new")}),
    frozenset({Sysctl("net.ipv4.conf.all.src_valid_mark", "1")}),
)
ENTRY = replace(
    A,
    endpoint=NamedEndpoint("192.0.2.1", 4296),
    persistent_keepalive=25,
    preshared_key=PresharedKey(bytes(range(32))),
)


async def plan(entry: AuthorizedPeer, prospect: Prospect, *, up: bool = False) -> Plan:
    """Return the plan for an entry on a host where nothing else is up."""

    async def foresee(*_: object) -> Prospect:
        return prospect

    parts: Any = SimpleNamespace(
        gatekeeper=SimpleNamespace(
            connection=lambda _: object() if up else None,
            check_free=lambda _: None,
            up_peers=tuple,
            wanted_lease=lambda _entry, _wanted: 60,
        ),
        production=SimpleNamespace(foresee=foresee),
        control=SimpleNamespace(keeps_alive=lambda _: up, name="anubis0"),
    )
    return await plan_up(parts, entry)


def prospect(**changes: Any) -> Prospect:
    """Return a prospect in which everything has to be done."""
    everything = Prospect(
        device=Device("wg0", None, 4296, 0),
        makes_interface=True,
        addresses=(ip_interface("10.9.0.2/24"),),
        fwmark=0xD6,
        mtu=1420,
        steps=tuple(steps(BEFORE, AFTER)),
        in_the_way=(),
    )
    return replace(everything, **changes)


async def test_everything_is_told_in_its_order() -> None:
    """What is put in another's place at once is not told as removed; a secret is not told."""
    found = await plan(ENTRY, prospect())
    peer = f"{ENTRY.public_key} on wg0, allowed ips 10.0.0.1/32, endpoint 192.0.2.1:4296"
    assert [f"{step.do} {step.kind}: {step.text}" for step in found.steps] == [
        "add interface: wg0, WireGuard on UDP port 4296",
        "add address: 10.9.0.2/24 dev wg0",
        "change fwmark: 0xd6 on wg0",
        f"add peer: {peer}, keepalive 25 s, with its preshared key",
        "change mtu: 1420 on wg0",
        "add nftables: table inet x",
        "add parameter: net.ipv4.conf.all.src_valid_mark = 1",
        "remove route: throw 10.0.0.1/32 table 214",
        "add route: 10.0.0.1/32 dev wg0 table 214",
        "add rule: IPv4 21420: fwmark 0xd6 lookup main",
        "add rule: IPv6 21430: not fwmark 0xd6 lookup 214 suppress_prefixlength 0",
        f"change keepalive: 25 s to {ENTRY.control_public_key} on anubis0",
    ]
    assert ENTRY.preshared_key is not None
    assert ENTRY.preshared_key.base64() not in str(found.to_json())


async def test_routes_are_told_in_an_order() -> None:
    """In which they are added makes no difference, but a reader shall find one."""
    many = {Route(ip_network(f"10.0.{n}.0/24"), 214, "wg0") for n in range(50)}
    found = await plan(
        A, prospect(steps=tuple(steps(NetworkState(), NetworkState(frozenset(many)))))
    )
    told = [step.text for step in found.steps if step.kind == "route"]
    assert told == [f"10.0.{n}.0/24 dev wg0 table 214" for n in range(50)]


async def test_a_plan_arrives_as_it_was_made() -> None:
    """Through JSON and back."""
    found = await plan(ENTRY, prospect(in_the_way=(LocalFailure("no", "go"), LocalFailure("so"))))
    assert [each.hint for each in found.in_the_way] == ["go", None]
    assert Plan.from_json(json_of(found)) == found


def json_of(found: Plan) -> dict[str, Any]:
    """Return what a caller reads."""
    read: dict[str, Any] = json.loads(json.dumps(found.to_json()))
    return read


async def test_one_that_is_up_needs_no_endpoint() -> None:
    """Who called us is where it called from."""
    nothing = prospect(makes_interface=False, fwmark=None, mtu=None, steps=())
    assert [each.message for each in (await plan(A, nothing)).in_the_way] == [
        "peer-1 has no Endpoint, so only it can begin"
    ]
    assert (await plan(A, nothing, up=True)).in_the_way == ()
