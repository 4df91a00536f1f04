"""`anubis plan up` tells what the real `up` then does, as `ip`, `wg`, `nft` and /proc see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import pytest

from anubis.lab.lab import Lab
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    MAKE,
    XENA,
    Edit,
    anubis,
    changes,
    client,
    edited,
    end_all,
    left_over,
    stanza_key,
    states,
    transaction,
)

pytestmark = pytest.mark.usefixtures("everything_as_before")

SYSCTL = "/proc/sys/net/ipv4/conf/all/src_valid_mark"


@pytest.fixture(autouse=True)
def nothing_is_up(lab: Lab, before: dict[str, str]) -> None:
    """Begin with nothing up."""
    end_all(lab)
    assert left_over(lab, before) == []


def ip(lab: Lab, *words: str) -> list[dict[str, Any]]:
    """Return what xena's `ip -json` says."""
    found: list[dict[str, Any]] = json.loads(
        lab.run("xena", "ip", "-json", *words, check=True).stdout
    )
    return found


def routes(lab: Lab) -> set[tuple[str, str, str | None]]:
    """Return destination, kind and device of the routes in Anubis's table."""
    found = set()
    for family, everywhere in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        for route in ip(lab, family, "-d", "route", "show", "table", "all"):
            if str(route.get("table")) != "214":
                continue
            to = everywhere if route["dst"] == "default" else route["dst"]
            host = "/32" if family == "-4" else "/128"
            found.add((to if "/" in to else to + host, route["type"], route.get("dev")))
    return found


def rules(lab: Lab) -> set[tuple[object, ...]]:
    """Return the policy rules of both families that are Anubis's."""
    return {
        (
            number,
            rule["priority"],
            rule.get("table"),
            "not" in rule,
            int(rule["fwmark"], 16) if "fwmark" in rule else None,
            rule.get("suppress_prefixlen"),
        )
        for number, family in ((4, "-4"), (6, "-6"))
        for rule in ip(lab, family, "-N", "rule")
        if 21400 <= rule["priority"] < 21500
    }


def seen(lab: Lab) -> dict[str, Any]:
    """Return all that a plan may tell of, as the host has it."""
    wg = lab.run("xena", "wg", "show", "wg0", "allowed-ips").stdout.split("\n")
    keepalives = lab.run("xena", "wg", "show", "anubis0", "persistent-keepalive").stdout
    return {
        "routes": routes(lab),
        "rules": rules(lab),
        "peers": {key: set(ips.split()) for key, _, ips in (line.partition("\t") for line in wg)},
        "fwmark": lab.run("xena", "wg", "show", "wg0", "fwmark").stdout.strip(),
        "mtu": ip(lab, "link", "show", "wg0")[0]["mtu"],
        "nftables": set(lab.run("xena", "nft", "list", "tables").stdout.splitlines()),
        "parameter": lab.run("xena", "cat", SYSCTL, check=True).stdout.strip(),
        "keepalive": dict(line.split("\t") for line in keepalives.splitlines()),
    }


def planned(plan: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the details of the steps of one kind, none of which removes anything."""
    steps = [step for step in plan["steps"] if step["kind"] == kind]
    assert all(step["do"] in {"add", "change"} for step in steps)
    return [step["detail"] for step in steps]


def carried_out(before: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """Return what the host has when exactly the plan is carried out."""
    now = dict(before)
    now["routes"] = before["routes"] | {
        (each["destination"], each["kind"], each.get("interface"))
        for each in planned(plan, "route")
    }
    now["rules"] = before["rules"] | {
        (
            each["family"],
            each["priority"],
            str(each["table"]),
            "invert" in each,
            each.get("fwmark"),
            each.get("suppress_prefixlength"),
        )
        for each in planned(plan, "rule")
    }
    now["nftables"] = before["nftables"] | {
        f"table {each['family']} {each['name']}" for each in planned(plan, "nftables")
    }
    for each in planned(plan, "peer"):
        now["peers"] = {**now["peers"], each["public_key"]: set(each["allowed_ips"])}
    for each in planned(plan, "fwmark"):
        now["fwmark"] = hex(each["fwmark"])
    for each in planned(plan, "mtu"):
        now["mtu"] = each["mtu"]
    for each in planned(plan, "parameter"):
        assert each["name"] == "net.ipv4.conf.all.src_valid_mark"
        now["parameter"] = each["value"]
    for each in planned(plan, "keepalive"):
        keepalive = {each["public_key"]: str(each["persistent_keepalive"])}
        now["keepalive"] = {**now["keepalive"], **keepalive}
    return now


def plan_of(lab: Lab, name: str = "jacinth", status: int = 0) -> dict[str, Any]:
    """Return what xena's command tells; it changes nothing anywhere."""
    untouched = states(lab)
    done = lab.run("xena", "anubis", "plan", "up", name, "--json")
    assert done.returncode == status, done
    assert changes(lab, untouched) == []
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def default_route(lab: Lab) -> AbstractContextManager[None]:
    """Let xena's entry of jacinth hold everything."""
    own = stanza_key(lab, "xena", "jacinth", "AllowedIPs")
    path = lab.path("xena", AUTHORIZED_PEERS).read_text()
    stanza = "[Peer]" + next(p for p in path.split("[Peer]") if "Name = jacinth\n" in p)
    return edited(
        lab, Edit("xena", AUTHORIZED_PEERS, stanza, stanza.replace(own, f"{own}, 0.0.0.0/0, ::/0"))
    )


def narrow_way(lab: Lab) -> AbstractContextManager[None]:
    """Let xena's network carry less in a packet."""
    return transaction(lab, "xena", "ip link set hotel mtu 1400", "ip link set hotel mtu 1500")


def as_it_is(_lab: Lab) -> AbstractContextManager[None]:
    """Take the scene as it is."""
    return nullcontext()


@pytest.mark.parametrize(
    ("scene", "kinds"),
    [
        (as_it_is, {"peer", "route", "rule", "keepalive"}),
        (default_route, {"peer", "route", "rule", "keepalive", "nftables", "parameter"}),
        (narrow_way, {"peer", "route", "rule", "keepalive", "mtu"}),
    ],
)
def test_up_does_what_the_plan_tells_and_nothing_else(
    lab: Lab, scene: Any, kinds: set[str]
) -> None:
    """Each peer, route, rule, table, parameter and MTU; when it is up, nothing is left to do."""
    with scene(lab):
        client(lab, "xena").reload()
        before = seen(lab)
        plan = plan_of(lab)
        assert {step["kind"] for step in plan["steps"]} == kinds
        assert (plan["state"], plan["in_the_way"]) == ("down", [])
        anubis(lab, "xena", "up", "jacinth")
        assert seen(lab) == carried_out(before, plan)
        again = plan_of(lab)
        assert (again["state"], again["steps"], again["in_the_way"]) == ("up", [], [])
        anubis(lab, "xena", "down", "jacinth")


@pytest.fixture(params=["off", "0x1234"])
def by_hand(lab: Lab, request: pytest.FixtureRequest) -> Iterator[str]:
    """Have the administrator make xena's wg0, with a fwmark or without; give it."""
    make = (
        f"{MAKE.format('wg0')}; wg set wg0 listen-port 4296 fwmark {request.param}"
        " private-key /etc/anubis/production.key; ip link set wg0 mtu 1300 up;"
        f" ip addr add {XENA[4]}/32 dev wg0; ip addr add {XENA[6]}/128 dev wg0"
    )
    daemon = lab.daemon("xena")
    with ExitStack() as undo:
        undo.callback(daemon.start)
        daemon.stop()
        undo.enter_context(transaction(lab, "xena", make, "ip link delete wg0"))
        undo.callback(daemon.stop)
        undo.callback(end_all, lab)
        daemon.start()
        yield request.param


def test_an_interface_of_the_administrator_is_lent_a_mark_and_no_more(
    lab: Lab, by_hand: str
) -> None:
    """Its own mark is in the rules; its MTU is its maker's."""
    before = seen(lab)
    plan = plan_of(lab)
    assert bool(planned(plan, "fwmark")) == (by_hand == "off")
    assert planned(plan, "mtu") == []
    anubis(lab, "xena", "up", "jacinth")
    assert seen(lab) == carried_out(before, plan)


def refused_by_up(lab: Lab, plan: dict[str, Any]) -> None:
    """See that the real command fails for the reason that was planned, and with that status."""
    (obstacle,) = plan["in_the_way"]
    done = lab.run("xena", "anubis", "up", "jacinth")
    assert done.returncode == 4
    assert done.stderr.splitlines() == [
        f"anubis: error: {obstacle['message']}",
        f"anubis: hint: {obstacle['hint']}",
    ]


def test_another_connection_is_in_the_way(lab: Lab) -> None:
    """The plan names it, in the words of `up`."""
    anubis(lab, "xena", "up", "surya")
    plan = plan_of(lab, status=4)
    assert "in use by the connection surya" in plan["in_the_way"][0]["message"]
    refused_by_up(lab, plan)


@pytest.mark.parametrize("own", [True, False])
def test_a_stranger_is_in_the_way(lab: Lab, own: bool) -> None:
    """Somebody has set up this very peer by other means, or one with its networks."""
    key = stanza_key(lab, "xena", "jacinth")
    if not own:
        key = lab.run("xena", "sh", "-c", "wg genkey | wg pubkey", check=True).stdout.strip()
    taken = f"wg set wg0 peer {key} allowed-ips 192.168.7.0/24"
    with transaction(lab, "xena", taken, f"wg set wg0 peer {key} remove"):
        plan = plan_of(lab, status=4)
        assert key in plan["in_the_way"][0]["message"] + plan["in_the_way"][0]["hint"]
        refused_by_up(lab, plan)


def test_who_has_no_endpoint_cannot_be_asked(lab: Lab) -> None:
    """A gateway has none of its guest, which only the guest can begin with."""
    done = lab.run("jacinth", "anubis", "plan", "up", "xena")
    assert done.returncode == 4
    assert "xena has no Endpoint, so only it can begin" in done.stderr
    assert "10.66.0.10/32 dev wg0 table 214" in done.stdout


def test_a_preshared_key_is_not_told(lab: Lab) -> None:
    """That there is one is."""
    secret = lab.run("xena", "wg", "genpsk", check=True).stdout.strip()
    readable = f"chgrp anubisd {AUTHORIZED_PEERS}; chmod 640 {AUTHORIZED_PEERS}"
    name = "Name = jacinth\n"
    with (
        transaction(lab, "xena", readable, f"chmod 644 {AUTHORIZED_PEERS}"),
        edited(lab, Edit("xena", AUTHORIZED_PEERS, name, f"{name}PresharedKey = {secret}\n")),
    ):
        client(lab, "xena").reload()
        plan = plan_of(lab)
        assert planned(plan, "peer")[0]["preshared_key"] is True
        assert secret not in str(plan)
        assert secret not in anubis(lab, "xena", "plan", "up", "jacinth").stdout
