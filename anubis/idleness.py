"""How long nobody has used a connection, by what WireGuard counts of it.

Owns what counts as use. Sans-IO: refuses to know what follows from it. `now` is seconds of a clock
that stands still in suspend, as use does; `unix_now` is of the clock of WireGuard's handshakes.

WireGuard counts whatever it sends and receives, also what it says of its own accord. Sizes tell
which is which (WireGuard paper, section 5.4): a handshake is 148 bytes one way and 92 the other, a
keepalive 32, and data at least 64, as no packet is shorter than an IP header. All but handshakes
are multiples of 16. What may be either is held for use: a connection that is kept for too long
costs less than one that is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anubis.wireguard.types import Peer

__all__ = ["LOOK_SECONDS", "Idleness", "carries_data"]

LOOK_SECONDS = 10.0  # between two looks at most: of keepalives that are farther apart, one is seen
SESSION_SECONDS = 180.0  # REJECT_AFTER_TIME: an older session is not used any more
_BLOCK = 16  # bytes; data is padded to it
_KEEPALIVE = 32
_HANDSHAKES = {size % _BLOCK: size for size in (148, 92)}  # initiation, response


def carries_data(count: int, *, session_lives: bool) -> bool:
    """Return whether so many bytes in one direction, between two looks, are of somebody's data.

    With a handshake in a session that still lives come two keepalives: the one that found the
    session old, and the one that confirms the new. Where no session lived, somebody's data or a
    keepalive had the handshake made and comes after it; then there is one at most.
    """
    handshake = _HANDSHAKES.get(count % _BLOCK, 0)
    keepalives = 2 if handshake and session_lives else 1
    return count - handshake > keepalives * _KEEPALIVE


@dataclass(frozen=True, slots=True)
class _Seen:
    peer: Peer
    used_at: float


class Idleness:
    """When each of several connections was last used."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def look(self, peers: Mapping[str, Peer], now: float, unix_now: float) -> None:
        """Take in how the peers of these connections are now; others are forgotten.

        One that is seen for the first time, or was made anew, is held for used.
        """
        self._seen = {
            name: _Seen(peer, now if self._is_used(name, peer, unix_now) else self._used_at(name))
            for name, peer in peers.items()
        }

    def idle_seconds(self, name: str, now: float) -> float:
        """Return for how long a connection has not been used; 0 for one that was not seen."""
        seen = self._seen.get(name)
        return now - seen.used_at if seen else 0.0

    def _used_at(self, name: str) -> float:
        return self._seen[name].used_at

    def _is_used(self, name: str, peer: Peer, unix_now: float) -> bool:
        """Judge what has passed since the last look.

        What we send counts only while the far end is heard: to one that has vanished everything is
        sent in vain.
        """
        seen = self._seen.get(name)
        if seen is None:
            return True
        received = peer.rx_bytes - seen.peer.rx_bytes
        sent = peer.tx_bytes - seen.peer.tx_bytes
        if received < 0 or sent < 0:
            return True
        lives = unix_now - seen.peer.last_handshake < SESSION_SECONDS
        if carries_data(received, session_lives=lives):
            return True
        return received > 0 and carries_data(sent, session_lives=lives)
