"""What a reload would do, told without doing it.

Owns the prediction whom a new file cuts off; which entries differ says `revision`. What `reload`
itself asks before it acts is asked here too, in the same words. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anubis.daemon.claims import check_claim
from anubis.daemon.goodbye import Reason
from anubis.errors import LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.files.revision import Revision, changed_keys
from anubis.forecast import ChangedEntry, Difference
from anubis.gatekeeper import Connection, Role
from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import Device, IPNetwork, Peer

__all__ = ["foreseen", "reason_to_end", "would_end"]


def reason_to_end(connection: Connection, entry: AuthorizedPeer, at: float) -> Reason | None:
    """Return why a connection cannot stay if its entry says this; None if it can.

    `at` is now, in seconds since 1970.
    """
    is_permitted = "up" in entry.may and entry.seconds_left(at) >= 1
    if connection.role is Role.RESPONDER and not is_permitted:
        return Reason.NOT_PERMITTED
    return None


def would_end(
    revision: Revision,
    connections: Mapping[str, Connection],
    device: Device,
    ours: Mapping[str, PublicKey],
    at: float,
) -> tuple[AuthorizedPeer, ...]:
    """Return the entries whose connections a reload would cut off.

    `connections` are those that are up; `device` is the production interface, on which `ours` are
    the peers that Anubis put there, by connection.
    """
    ended = [peer for peer in revision.removed if peer.name in connections]
    gone = {peer.public_key for peer in ended}
    on_it = {peer.public_key: peer for peer in device.peers if peer.public_key not in gone}
    up = [both for both in revision.changed if both[1].name in connections]
    stay = [(o, n) for o, n in up if reason_to_end(connections[n.name], n, at) is None]
    ended += [new for _, new in up if reason_to_end(connections[new.name], new, at) is not None]
    for peer in ended:
        on_it.pop(peer.public_key, None)
    # As the reload does it: first all give up what they no longer have.
    for old, new in stay:
        _give(on_it, new, old.allowed_ips & new.allowed_ips)
    for _, new in stay:
        try:
            check_claim(new, replace(device, peers=tuple(on_it.values())), ours, frozenset())
        except LocalFailure:
            on_it.pop(new.public_key, None)
            ended.append(new)
        else:
            _give(on_it, new, new.allowed_ips)
    return tuple(ended)


def _give(
    on_it: dict[PublicKey, Peer], entry: AuthorizedPeer, networks: frozenset[IPNetwork]
) -> None:
    peer = on_it.get(entry.public_key)
    if peer is not None:
        on_it[entry.public_key] = replace(peer, allowed_ips=networks)


def foreseen(
    revision: Revision,
    ended: tuple[AuthorizedPeer, ...],
    peers: int,
    warnings: tuple[str, ...],
) -> Difference:
    """Return what is told of it."""
    before = {peer.name: peer for peer in revision.removed}
    rekeyed = [(before[new.name], new) for new in revision.added if new.name in before]
    both = {new.name for _, new in rekeyed}
    changed = [ChangedEntry(n.name, changed_keys(o, n)) for o, n in (*revision.changed, *rekeyed)]
    return Difference(
        peers=peers,
        added=tuple(sorted(peer.name for peer in revision.added if peer.name not in both)),
        removed=tuple(sorted(before.keys() - both)),
        changed=tuple(sorted(changed, key=lambda each: each.name)),
        ended=tuple(sorted(peer.name for peer in ended)),
        warnings=warnings,
    )
