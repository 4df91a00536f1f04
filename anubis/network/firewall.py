"""Whether a host's nftables let a packet pass, as far as its rules tell. Pure.

Owns the reading of `nft -j list ruleset`. A rule that asks for what is not known of the packet
leaves the answer open rather than guessed. Refuses to know which packets matter, and iptables'
own extensions, of which nftables shows no more than that they are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Literal

from anubis.network.state import NFT_TABLES

__all__ = ["Obstruction", "Packet", "obstruction"]

_MAX_DEPTH = 16  # of chains that jump to others, as in the kernel
_HOOKS = {"output": ("output", "postrouting"), "input": ("prerouting", "input")}
_HARMLESS = frozenset({"counter", "log", "comment"})

_Rule = Mapping[str, Any]
_Verdict = Literal["accept", "drop", "maybe", "go on"]


@dataclass(frozen=True, slots=True)
class Packet:
    """A UDP packet at a hook, "output" or "input"; None where nobody can tell.

    It belongs to an exchange that this host began.
    """

    hook: str
    interface: str | None
    version: int
    source: IPv4Address | IPv6Address | None = None
    destination: IPv4Address | IPv6Address | None = None
    sport: int | None = None
    dport: int | None = None
    mark: int | None = None


@dataclass(frozen=True, slots=True)
class Obstruction:
    """What stops a packet, or may: a chain as in "inet filter input", and the rule's handle.

    Without a handle it is the chain's policy, or its rules could not be read to the end.
    """

    chain: str
    handle: int | None
    is_certain: bool


def obstruction(ruleset: Iterable[Mapping[str, Any]], packet: Packet) -> Obstruction | None:
    """Return what stops a packet, the certain before the possible; None if nothing does.

    `ruleset` is what nft has under "nftables". Anubis's own tables are passed over.
    """
    entries = list(ruleset)
    chains = {_place(each["chain"]): each["chain"] for each in entries if "chain" in each}
    rules: dict[tuple[str, str, str], list[_Rule]] = {}
    for each in entries:
        if "rule" in each:
            rule = each["rule"]
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
    possible = None
    for place, chain in chains.items():
        if not _concerns(chain, packet):
            continue
        verdict, culprit = _walk(rules, place, packet, 0)
        if verdict == "drop" and culprit is not None:
            at = (culprit["family"], culprit["table"], culprit["chain"])
            return Obstruction(" ".join(at), culprit.get("handle"), is_certain=True)
        if verdict == "go on" and chain.get("policy") == "drop":
            return Obstruction(" ".join(place), None, is_certain=True)
        if verdict == "maybe":
            possible = possible or Obstruction(" ".join(place), None, is_certain=False)
    return possible


def _place(chain: Mapping[str, Any]) -> tuple[str, str, str]:
    return chain["family"], chain["table"], chain["name"]


def _concerns(chain: Mapping[str, Any], packet: Packet) -> bool:
    families = {"inet", "ip" if packet.version == 4 else "ip6"}
    return (
        chain.get("hook") in _HOOKS[packet.hook]
        and chain["family"] in families
        and (chain["family"], chain["table"]) not in NFT_TABLES
        and chain.get("type") != "nat"  # which translates, and drops by no policy
    )


def _walk(
    rules: Mapping[tuple[str, str, str], Sequence[_Rule]],
    place: tuple[str, str, str],
    packet: Packet,
    depth: int,
) -> tuple[_Verdict, _Rule | None]:
    """Return what becomes of a packet in a chain, and by which rule."""
    if depth > _MAX_DEPTH:
        return "maybe", None
    doubtful = False
    for rule in rules.get(place, ()):
        matches, statements = _matches(rule["expr"], packet)
        if matches is False:
            continue
        verdict, culprit = _end_of(rules, statements, place, packet, depth)
        if verdict == "go on":
            continue
        if verdict == "return":
            if matches:
                break
            doubtful = True
        elif matches is None or verdict == "maybe":
            doubtful = True
        else:
            return ("maybe", None) if doubtful else (verdict, culprit or rule)
    return ("maybe", None) if doubtful else ("go on", None)


def _end_of(
    rules: Mapping[tuple[str, str, str], Sequence[_Rule]],
    statements: Iterable[str | tuple[str, str]],
    place: tuple[str, str, str],
    packet: Packet,
    depth: int,
) -> tuple[Any, _Rule | None]:
    """Return what a rule that matches does: a verdict, "return", or "go on"."""
    for statement in statements:
        if isinstance(statement, tuple):
            verdict, culprit = _walk(rules, (*place[:2], statement[1]), packet, depth + 1)
            if verdict != "go on":
                return verdict, culprit
            if statement[0] == "goto":
                return "return", None
        elif statement in {"accept", "return"}:
            return statement, None
        elif statement in {"drop", "reject"}:
            return "drop", None
        elif statement in {"xt", "vmap", "queue"}:
            return "maybe", None
    return "go on", None


def _matches(
    expressions: Iterable[Mapping[str, Any]], packet: Packet
) -> tuple[bool | None, list[str | tuple[str, str]]]:
    """Tell whether all conditions hold, None if nobody can say; and return what is done then."""
    known: bool | None = True
    statements: list[str | tuple[str, str]] = []
    for expression in expressions:
        ((kind, content),) = expression.items()
        if kind == "match":
            holds = _holds(content, packet)
            if holds is False:
                return False, []
            known = known if holds else None
        elif kind in {"jump", "goto"}:
            statements.append((kind, content["target"]))
        elif kind in {"limit", "quota", "connlimit", "ct count"}:
            known = None
        elif kind not in _HARMLESS:
            statements.append(kind)
    return known, statements


def _holds(match: Mapping[str, Any], packet: Packet) -> bool | None:
    value = _value(match["left"], packet)
    if value is None:
        return None
    found = _is_among(match["right"], value)
    if found is None:
        return None
    return not found if match["op"] == "!=" else found if match["op"] in {"==", "in"} else None


def _value(left: Any, packet: Packet) -> object:
    """Return what a packet has there; None if nobody can say."""
    if not isinstance(left, Mapping) or len(left) != 1:
        return None
    ((kind, content),) = left.items()
    if not isinstance(content, Mapping):
        return None
    key = content.get("key", content.get("field"))
    if kind == "meta":
        arriving = packet.hook == "input"
        known: dict[str, object] = {
            "iifname": packet.interface if arriving else "",
            "oifname": "" if arriving else packet.interface,
            "l4proto": "udp",
            "nfproto": "ipv4" if packet.version == 4 else "ipv6",
            "mark": None if arriving else packet.mark,
        }
        known |= {"iif": known["iifname"], "oif": known["oifname"]}
        return known.get(str(key))
    if kind == "ct":
        # The first packet out is new, but nobody lets answers pass and not what is answered.
        return "established" if key == "state" else None
    if kind == "payload":
        return _of_payload(str(content.get("protocol")), str(key), packet)
    return None


def _of_payload(protocol: str, field: str, packet: Packet) -> object:
    if protocol in {"ip", "ip6"} and protocol != ("ip" if packet.version == 4 else "ip6"):
        return "of another family"
    if protocol in {"tcp", "sctp", "dccp", "icmp", "icmpv6"}:
        return "of another protocol"
    return {
        ("ip", "saddr"): packet.source,
        ("ip6", "saddr"): packet.source,
        ("ip", "daddr"): packet.destination,
        ("ip6", "daddr"): packet.destination,
        ("ip", "protocol"): "udp",
        ("ip6", "nexthdr"): "udp",
        ("udp", "sport"): packet.sport,
        ("udp", "dport"): packet.dport,
        ("th", "sport"): packet.sport,
        ("th", "dport"): packet.dport,
    }.get((protocol, field))


def _is_among(right: Any, value: object) -> bool | None:
    """Tell whether a value is one of those on the right side; None if that cannot be read."""
    if isinstance(right, list):
        answers = [_is_among(each, value) for each in right]
        return True if True in answers else None if None in answers else False
    if isinstance(right, Mapping):
        ((kind, content),) = right.items()
        if kind == "set":
            return _is_among(content, value)
        if kind == "range":
            low, high = content
            numeric = all(isinstance(each, int) for each in (low, high, value))
            return low <= value <= high if numeric else _no_number(value)
        if kind == "prefix":
            return _in_network(f"{content['addr']}/{content['len']}", value)
        return None
    if isinstance(right, str):
        if right.startswith("@"):
            return None
        if isinstance(value, IPv4Address | IPv6Address):
            return _in_network(right, value)
        if right.endswith("*"):
            return str(value).startswith(right[:-1])
    return bool(right == value)


def _no_number(value: object) -> bool | None:
    return False if isinstance(value, str) else None


def _in_network(text: str, value: object) -> bool | None:
    if not isinstance(value, IPv4Address | IPv6Address):
        return False
    try:
        return value in ip_network(text) if "/" in text else value == ip_address(text)
    except ValueError:
        return None
