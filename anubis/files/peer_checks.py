"""What must hold between the entries of the authorized-peers file.

Names, keys and control addresses are unique, whoever approves has an entry, and no network is two
peers' at once: WireGuard gives a network to the peer that names it last, silently. Owns these
rules; refuses to know how entries are written. Every check is linear in the entries but for one
sort of their networks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from anubis.addresses import ControlAddresses, control_addresses
from anubis.errors import Problem, nearest
from anubis.files.peer_stanza import AuthorizedPeer
from anubis.files.reservation import Reservation
from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import IPNetwork

__all__ = ["Derivation", "OwnKeys", "check_entries", "overlaps"]

Derivation = Callable[[PublicKey], ControlAddresses]
Owner = TypeVar("Owner", bound=Hashable)


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The public keys of this host, which no peer may have."""

    production: PublicKey
    control: PublicKey

    @property
    def control_addresses(self) -> ControlAddresses:
        """Return this host's addresses on the control plane."""
        return control_addresses(self.control)


def check_entries(
    entries: Sequence[AuthorizedPeer],
    own: OwnKeys | None,
    derive: Derivation,
    reserved: Sequence[Reservation] = (),
) -> list[Problem]:
    """Return everything that is wrong between the entries, each with both places.

    What is kept for somebody is as much his as if he had an entry already.
    """
    return [
        *_repeated_names([*entries, *reserved]),
        *_unknown_approvers(entries),
        *_repeated_keys(entries),
        *_own_keys(entries, own),
        *_colliding_addresses(entries, own, derive),
        *_overlapping_networks([*entries, *reserved]),
    ]


def overlaps(a: AuthorizedPeer, b: AuthorizedPeer) -> frozenset[tuple[IPNetwork, IPNetwork]]:
    """Return the pairs of networks, one of each entry, that are equal or nested.

    A default route overlaps nothing but another default route of its family: every network lies
    in it, and the longer prefix wins.
    """
    items = [(network, "a") for network in a.allowed_ips]
    items += [(network, "b") for network in b.allowed_ips]
    return frozenset(
        (outer, inner) if owner == "a" else (inner, outer)
        for outer, owner, inner, _ in _nested(items, lambda owner: owner)
    )


def _repeated_names(entries: Sequence[AuthorizedPeer | Reservation]) -> Iterator[Problem]:
    first: dict[str, AuthorizedPeer | Reservation] = {}
    for entry in entries:
        other = first.setdefault(entry.name, entry)
        if other is not entry:
            yield Problem(
                entry.location,
                f"{entry.name} is the name of another entry too, at {other.location}",
                "names are unique, whatever their case",
            )


def _unknown_approvers(entries: Sequence[AuthorizedPeer]) -> Iterator[Problem]:
    names = {entry.name for entry in entries}
    for entry in entries:
        if entry.approve is None or (entry.approve in names and entry.approve != entry.name):
            continue
        if entry.approve == entry.name:
            message, hint = f"{entry.name} cannot approve itself", "name another entry"
        else:
            message = f"Approve = {entry.approve} of {entry.name}: no entry is called that"
            hint = nearest(entry.approve, names) or "it names another [Peer] of these files"
        yield Problem(entry.location, message, hint)


def _repeated_keys(entries: Sequence[AuthorizedPeer]) -> Iterator[Problem]:
    first: dict[PublicKey, tuple[str, AuthorizedPeer]] = {}
    for entry in entries:
        for kind, key in _keys(entry):
            other_kind, other = first.setdefault(key, (kind, entry))
            if other is not entry:
                yield Problem(
                    entry.location,
                    f"the {kind} of {entry.name}, {key}, is the {other_kind} of {other.name} too, "
                    f"at {other.location}",
                    "every host has keys of its own",
                )


def _keys(entry: AuthorizedPeer) -> Iterator[tuple[str, PublicKey]]:
    yield "PublicKey", entry.public_key
    if entry.control_public_key != entry.public_key:
        yield "ControlPublicKey", entry.control_public_key


def _own_keys(entries: Sequence[AuthorizedPeer], own: OwnKeys | None) -> Iterator[Problem]:
    if own is None:
        return
    ours = {own.production: "production", own.control: "control"}
    for entry in entries:
        for kind, key in _keys(entry):
            if key in ours:
                yield Problem(
                    entry.location,
                    f"the {kind} of {entry.name}, {key}, is this host's own {ours[key]} key",
                    "an entry has the keys of the other host",
                )


def _colliding_addresses(
    entries: Sequence[AuthorizedPeer], own: OwnKeys | None, derive: Derivation
) -> Iterator[Problem]:
    ours = derive(own.control).routable if own is not None else None
    first: dict[int, AuthorizedPeer] = {}
    for entry in entries:
        address = derive(entry.control_public_key).routable
        other = first.setdefault(int(address), entry)
        if own is not None and address == ours and entry.control_public_key != own.control:
            holder = "this host"
        elif other is not entry and other.control_public_key != entry.control_public_key:
            holder = f"{other.name}, at {other.location}"
        else:
            continue
        yield Problem(
            entry.location,
            f"the control address of {entry.name}, {address}, is also that of {holder}",
            "chance or malice made two keys collide: one of the hosts needs a new control key",
        )


def _overlapping_networks(
    entries: Sequence[AuthorizedPeer | Reservation],
) -> Iterator[Problem]:
    """Find, for every network, an entry that it conflicts with; each pair is told once.

    Entries of one group with one network stand for each other: one of them is told.
    """
    items = [
        (network, index) for index, entry in enumerate(entries) for network in entry.allowed_ips
    ]

    def side(index: int) -> Hashable:
        """Return what entries have in common that may overlap: their group."""
        return entries[index].group or index

    told: set[tuple[int, int]] = set()
    for outer, a, inner, b in _nested(items, side):
        earlier, later = min(a, b), max(a, b)
        if (earlier, later) in told:
            continue
        told.add((earlier, later))
        mine, theirs = (inner, outer) if later == b else (outer, inner)
        other = entries[earlier]
        yield Problem(
            entries[later].location,
            f"AllowedIPs {mine} of {entries[later].name} overlaps {theirs} of {other.name}, "
            f"at {other.location}",
            "a network is one peer's; two ways to one network have the same Group",
        )


@dataclass(slots=True)
class _Frame(Generic[Owner]):
    """A network on the way down, and its owners: one of each of at most two sides."""

    network: IPNetwork
    owners: list[tuple[Owner, Hashable]]


def _nested(
    items: Iterable[tuple[IPNetwork, Owner]], side: Callable[[Owner], Hashable]
) -> Iterator[tuple[IPNetwork, Owner, IPNetwork, Owner]]:
    """Yield (outer, its owner, inner, its owner) for equal or nested networks of two sides.

    After sorting, the networks around one are on a stack when its turn comes, at most 129 deep.
    Of equal networks two owners on different sides are enough to find a conflict with any third.
    """
    stack: list[_Frame[Owner]] = []
    ordered = sorted(
        items, key=lambda item: (item[0].version, int(item[0].network_address), item[0].prefixlen)
    )
    for network, owner in ordered:
        own_side = side(owner)
        while stack and not _contains(stack[-1].network, network):
            stack.pop()
        for frame in stack:
            for other, other_side in frame.owners:
                if other_side != own_side:
                    yield frame.network, other, network, owner
                    break
        if not stack or stack[-1].network != network:
            stack.append(_Frame(network, []))
        owners = stack[-1].owners
        if len(owners) < 2 and own_side not in {known for _, known in owners}:
            owners.append((owner, own_side))


def _contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    if outer.version != inner.version or outer.prefixlen > inner.prefixlen:
        return False
    if outer.prefixlen == 0:
        return inner.prefixlen == 0
    shift = outer.max_prefixlen - outer.prefixlen
    return int(inner.network_address) >> shift == int(outer.network_address) >> shift
