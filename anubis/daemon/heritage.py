"""What of an earlier run of the daemon still holds: its state file against the files of now. Pure.

Owns what becomes of each connection that was up. An administrator who removes an entry and restarts
the daemon gets what a reload gives him: who is not authorized any more is cut off, and told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anubis.daemon.state import SavedState
from anubis.errors import Location
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers
from anubis.gatekeeper import Connection, Role
from anubis.wishes import Wish

__all__ = ["Heritage", "inherit"]

_NOWHERE = Location(Path("authorized_peers"))  # it stands in the file no more


@dataclass(frozen=True, slots=True)
class Heritage:
    """What a start takes over.

    `unfinished` are connections whose far end may have what we have not, until when; `departed`
    were up and are not authorized any more, with the keys that they had.
    """

    connections: tuple[Connection, ...]
    wishes: tuple[Wish, ...]
    unfinished: dict[str, float]
    departed: tuple[AuthorizedPeer, ...]


def inherit(saved: SavedState, peers: AuthorizedPeers, now: float) -> Heritage:
    """Judge what an earlier run left; `now` is of the clock of leases."""
    departed = {peer.name: peer for peer in _departed(saved, peers)}
    known = {peer.name for peer in peers} - departed.keys()
    wishes = tuple(wish for wish in saved.wishes if wish.name in known)
    pinned = {wish.name for wish in wishes if wish.pinned}
    unfinished = {name: until for name, until in saved.unfinished.items() if name in known}
    kept = []
    for connection in saved.connections:
        lives = connection.expires > now or connection.name in pinned
        if connection.name not in known or connection.name in unfinished or not lives:
            continue
        peer = peers.by_name(connection.name)
        if connection.role is Role.RESPONDER and peer is not None and "up" not in peer.may:
            unfinished[connection.name] = connection.expires
        else:
            kept.append(connection)
    return Heritage(tuple(kept), wishes, unfinished, tuple(departed.values()))


def _departed(saved: SavedState, peers: AuthorizedPeers) -> list[AuthorizedPeer]:
    """Return those whose entries are gone, or have other keys now and so are another host's."""
    found = []
    for name, control in saved.controls.items():
        key, peer = saved.peers.get(name), peers.by_name(name)
        if key is None:
            continue
        if peer is None or (peer.public_key, peer.control_public_key) != (key, control):
            found.append(
                AuthorizedPeer(
                    name=name,
                    public_key=key,
                    control_public_key=control,
                    allowed_ips=frozenset(),
                    location=_NOWHERE,
                )
            )
    return found
