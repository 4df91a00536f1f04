"""What the responder remembers of each initiator: how far its time has come, and its last answer.

Owns freshness (`docs/protocol.md`, section 9): watermarks, the floor below them, the challenge for
a broken clock, and the one reply that is kept for repeats. Refuses to know how requests are sealed
and what they ask for.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from anubis.protocol.tai64n import NANOSECONDS
from anubis.protocol.wire import CHALLENGE_SIZE
from anubis.wireguard.keys import PublicKey

__all__ = ["CHALLENGE_LIFETIME_NS", "CLOCK_WINDOW_NS", "MAX_SESSIONS", "Session", "Sessions"]

CLOCK_WINDOW_NS = 120 * NANOSECONDS  # how far a timestamp may be from our clock, either way
CHALLENGE_LIFETIME_NS = 30 * NANOSECONDS
MAX_SESSIONS = 65_536


@dataclass(slots=True)
class Session:
    """What is remembered of one initiator: constant size, whatever it sends."""

    watermark_ns: int  # the newest time that was judged, in ns since 1970
    digest: bytes = b""  # of the datagram that was accepted last
    reply: bytes | None = None  # None while the request with that digest is being acted on
    _challenge: bytes = b""
    _challenged_ns: int = 0

    def is_fresh(self, unix_ns: int, echo: bytes | None, floor_ns: int, now_ns: int) -> bool:
        """Judge the time and the echoed challenge of an authentic request.

        The watermark rises to every time that is judged, also of a request that is refused: it
        stays refused even if our own clock is set right in the next moment.
        """
        reached = max(self.watermark_ns, floor_ns)
        self.watermark_ns = max(self.watermark_ns, unix_ns)
        if echo is None:
            return unix_ns > reached and abs(unix_ns - now_ns) <= CLOCK_WINDOW_NS
        # A right challenge proves freshness whatever the clock says, and a wrong one disproves it:
        # a recorded request must not fall back on its timestamp.
        pending = self._pending(now_ns)
        return bool(pending) and hmac.compare_digest(echo, pending)

    def challenge(self, now_ns: int, random: Callable[[int], bytes]) -> bytes:
        """Return the 16 bytes to echo; those that are still pending, so that replays void none."""
        if not self._pending(now_ns):
            self._challenge = random(CHALLENGE_SIZE)
            self._challenged_ns = now_ns
        return self._challenge

    def accept(self, digest: bytes) -> None:
        """Note that a request is being acted on: older repeats and challenges are void."""
        self.digest = digest
        self.reply = None
        self._challenge = b""

    def _pending(self, now_ns: int) -> bytes:
        age_ns = now_ns - self._challenged_ns
        return self._challenge if 0 <= age_ns < CHALLENGE_LIFETIME_NS else b""


class Sessions:
    """The sessions of all initiators, at most `limit`; the least recently used one goes first."""

    def __init__(self, floor_ns: int, limit: int) -> None:
        self.floor_ns = floor_ns
        self.forgotten_ns = 0  # the newest time of a session that was forgotten
        self._limit = limit
        self._sessions: OrderedDict[PublicKey, Session] = OrderedDict()
        self._judged: set[PublicKey] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, initiator: PublicKey) -> Session | None:
        """Return what is remembered of an initiator, if anything."""
        return self._sessions.get(initiator)

    def open(self, initiator: PublicKey) -> Session:
        """Return the session of an initiator, new if need be, as the most recently used one."""
        session = self._sessions.get(initiator)
        if session is None:
            session = self._sessions[initiator] = Session(watermark_ns=self.floor_ns)
            if len(self._sessions) > self._limit:
                _, forgotten = self._sessions.popitem(last=False)
                # Whoever is forgotten must not gain by it: the floor rises to what it had reached.
                self.forget_until(forgotten.watermark_ns)
        self._sessions.move_to_end(initiator)
        return session

    def raise_floor(self, floor_ns: int) -> None:
        """Let nothing be fresh that is not later than `floor_ns`, in ns since 1970."""
        self.floor_ns = max(self.floor_ns, floor_ns)

    def forget_until(self, unix_ns: int) -> None:
        """Let nothing be fresh that a forgotten session may have sent, in ns since 1970."""
        self.forgotten_ns = max(self.forgotten_ns, unix_ns)
        self.raise_floor(unix_ns)

    def note_judged(self, initiator: PublicKey) -> None:
        """Note that the watermark of an initiator may have risen."""
        self._judged.add(initiator)

    def risen(self) -> dict[PublicKey, int]:
        """Return the watermarks that may have risen since this was asked last."""
        judged, self._judged = self._judged, set()
        found = ((initiator, self._sessions.get(initiator)) for initiator in judged)
        return {initiator: session.watermark_ns for initiator, session in found if session}

    def watermarks(self) -> dict[PublicKey, int]:
        """Return the watermark of each initiator, in ns since 1970."""
        return {initiator: session.watermark_ns for initiator, session in self._sessions.items()}

    def restore(self, watermarks: Mapping[PublicKey, int]) -> None:
        """Take up watermarks; none is lowered."""
        for initiator, watermark_ns in watermarks.items():
            session = self.open(initiator)
            session.watermark_ns = max(session.watermark_ns, watermark_ns)
