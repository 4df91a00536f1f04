"""The responder's half of an exchange, sans-IO: datagrams in, decisions out.

Owns the duties of a receiver (`docs/protocol.md`, section 9): the order of checks, freshness, the
answer to a repeat. Refuses to know sockets, clocks and what a verb does: a fresh request is handed
out as `Accepted`, and whoever acts on it comes back with `answer`.

Receiving never raises. Every table is bounded. The order is by cost: a stranger's datagram costs a
few comparisons, and only what came through the tunnel of an authorized peer and names an authorized
sender costs an AEAD.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Protocol

from anubis.channel import Channel, Keyring
from anubis.suites import SUITES, NotAuthentic
from anubis.tai64n import NANOSECONDS
from anubis.wire import (
    CHALLENGE_SIZE,
    HEADER_SIZE,
    MAX_DATAGRAM,
    MAX_REPLY_FACTOR,
    NONCE_SIZE,
    TAG_SIZE,
    Header,
    Malformed,
    MessageType,
    Reply,
    Request,
    Result,
    Verb,
)
from anubis.wireguard.errors import KeyFormatError
from anubis.wireguard.keys import PublicKey

__all__ = ["Accepted", "Answered", "Directory", "Dropped", "Outcome", "PeerIdentity", "Responder"]

CLOCK_WINDOW_NS = 120 * NANOSECONDS  # how far a timestamp may be from our clock, either way
CHALLENGE_LIFETIME_NS = 30 * NANOSECONDS
MAX_SESSIONS = 65_536


class PeerIdentity(Protocol):
    """What the responder needs of an entry of the authorized-peers file."""

    @property
    def name(self) -> str:
        """The entry's name."""

    @property
    def public_key(self) -> PublicKey:
        """The production public key."""


class Directory(Protocol):
    """Who is authorized, and which control tunnel is whose."""

    def by_control_address(self, address: IPv6Address) -> PeerIdentity | None:
        """Return the entry whose control tunnel this source address proves."""

    def by_public_key(self, public_key: PublicKey) -> PeerIdentity | None:
        """Return the entry with this production key."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nothing is answered; `reason` is counted."""

    reason: str
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """Send this datagram back; nothing is to be done. `result` is for the log."""

    datagram: bytes
    peer: str
    result: int
    repeat: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """An authentic, fresh request: act on it, then call `Responder.answer`."""

    peer: str
    request: Request
    header: Header
    length: int  # bytes of the datagram; bounds the reply
    digest: bytes


Outcome = Dropped | Answered | Accepted


@dataclass(slots=True)
class _Session:
    """What is remembered of one initiator: constant size, whatever it sends."""

    watermark_ns: int
    digest: bytes = b""
    reply: bytes | None = None  # None while the request with that digest is being acted on
    challenge: bytes = b""
    challenge_until_ns: int = 0


@dataclass(slots=True)
class Responder:
    """All exchanges in which this host is the responder.

    `floor_ns` is the time before which nothing is fresh: the start of the daemon. Together with
    the watermarks of an earlier run it makes a request that was recorded then worthless now.
    """

    keyring: Keyring
    directory: Directory
    random: Callable[[int], bytes]
    accepted_suites: tuple[int, ...]
    floor_ns: int
    drops: Counter[str] = field(default_factory=Counter)
    max_sessions: int = MAX_SESSIONS
    _sessions: OrderedDict[PublicKey, _Session] = field(default_factory=OrderedDict)

    def receive(self, datagram: bytes, source: IPv6Address, now_ns: int) -> Outcome:
        """Judge one request datagram; `now_ns` counts from 1970. Never raises."""
        try:
            return self._receive(datagram, source, now_ns)
        except Malformed as error:
            return self._drop(error.reason)

    def answer(self, accepted: Accepted, reply: Reply) -> bytes:
        """Seal the reply to a request that was acted on, and keep it for its repeats."""
        datagram = self._seal(accepted, reply)
        session = self._sessions.get(accepted.header.sender)
        if session is not None and session.digest == accepted.digest:
            session.reply = datagram
        return datagram

    def watermarks(self) -> dict[PublicKey, int]:
        """Return the newest accepted time of each initiator, in ns since 1970, to be kept."""
        return {sender: session.watermark_ns for sender, session in self._sessions.items()}

    def restore(self, watermarks: Mapping[PublicKey, int]) -> None:
        """Take up the watermarks of an earlier run."""
        for sender, watermark_ns in watermarks.items():
            self._session(sender).watermark_ns = watermark_ns

    def _receive(self, datagram: bytes, source: IPv6Address, now_ns: int) -> Outcome:
        header = Header.decode(datagram)
        if header.type is not MessageType.REQUEST:
            return self._drop("unexpected_reply")
        tunnel = self.directory.by_control_address(source)
        if tunnel is None:
            return self._drop("unknown_source")
        if header.suite not in SUITES:
            return self._drop("unknown_suite", tunnel.name)
        sender = self.directory.by_public_key(header.sender)
        if sender is None:
            return self._drop("unknown_sender", tunnel.name)
        digest = hashlib.blake2s(datagram).digest()
        session = self._sessions.get(header.sender)
        if session is not None and sender is tunnel and session.digest == digest:
            return self._repeat(session, sender.name)
        request = self._open(header, datagram)
        if request is None:
            return self._drop("not_authentic", tunnel.name)
        accepted = Accepted(sender.name, request, header, len(datagram), digest)
        refusal = self._judge(accepted, tunnel.name, now_ns)
        if refusal is not None:
            return Answered(self._seal(accepted, refusal), sender.name, refusal.result)
        self._remember(accepted, now_ns)
        return accepted

    def _drop(self, reason: str, peer: str | None = None) -> Dropped:
        self.drops[reason] += 1
        return Dropped(reason, peer)

    def _repeat(self, session: _Session, peer: str) -> Outcome:
        if session.reply is None:
            return self._drop("in_progress", peer)
        return Answered(session.reply, peer, Result.UNCHANGED, repeat=True)

    def _open(self, header: Header, datagram: bytes) -> Request | None:
        try:
            channel: Channel = self.keyring.channel(header.sender)
            return Request.decode(channel.open(header, datagram))
        except (NotAuthentic, KeyFormatError):
            return None

    def _judge(self, accepted: Accepted, tunnel: str, now_ns: int) -> Reply | None:
        """Return the refusal of an authentic request, or None if it may be acted on."""
        request = accepted.request
        refusal = Reply(request.request_id, now_ns, Result.DONE)
        if tunnel != accepted.peer:
            return replace(
                refusal,
                result=Result.KEY_MISMATCH,
                reason="this production key and this control tunnel belong to different peers",
            )
        if accepted.header.suite not in self.accepted_suites:
            return replace(
                refusal,
                result=Result.SUITE_REFUSED,
                suites=self.accepted_suites,
                reason=f"suite {accepted.header.suite} is not accepted here",
            )
        if request.unknown_critical:
            return replace(
                refusal,
                result=Result.UNSUPPORTED_OPTION,
                reason=f"option {request.unknown_critical[0]:#04x} is not understood here",
            )
        if request.verb not in frozenset(Verb):
            return replace(
                refusal,
                result=Result.UNSUPPORTED_VERB,
                reason=f"verb {request.verb} is not understood here",
            )
        return self._judge_freshness(accepted, refusal, now_ns)

    def _judge_freshness(self, accepted: Accepted, refusal: Reply, now_ns: int) -> Reply | None:
        session = self._session(accepted.header.sender)
        request = accepted.request
        challenge = session.challenge if now_ns < session.challenge_until_ns else b""
        if request.challenge is not None:
            # A challenge proves freshness whatever the clock says, and a wrong one disproves it:
            # a recorded request must not fall back on its timestamp.
            if challenge and hmac.compare_digest(request.challenge, challenge):
                return None
        elif (
            request.unix_ns > max(session.watermark_ns, self.floor_ns)
            and abs(request.unix_ns - now_ns) <= CLOCK_WINDOW_NS
        ):
            return None
        if not challenge:
            challenge = session.challenge = self.random(CHALLENGE_SIZE)
            session.challenge_until_ns = now_ns + CHALLENGE_LIFETIME_NS
        return replace(
            refusal,
            result=Result.STALE,
            challenge=challenge,
            reason="the timestamp is not newer than the last one, or too far from this clock",
        )

    def _remember(self, accepted: Accepted, now_ns: int) -> None:
        session = self._session(accepted.header.sender)
        # A time accepted by challenge may be years ahead: it must not outlaw the right time later.
        if abs(accepted.request.unix_ns - now_ns) <= CLOCK_WINDOW_NS:
            session.watermark_ns = max(session.watermark_ns, accepted.request.unix_ns)
        session.challenge_until_ns = 0
        session.digest = accepted.digest
        session.reply = None

    def _session(self, sender: PublicKey) -> _Session:
        session = self._sessions.get(sender)
        if session is None:
            session = self._sessions[sender] = _Session(watermark_ns=self.floor_ns)
            if len(self._sessions) > self.max_sessions:
                _, forgotten = self._sessions.popitem(last=False)
                # Whoever is forgotten must not gain by it: the floor rises to what it had reached.
                self.floor_ns = max(self.floor_ns, forgotten.watermark_ns)
        self._sessions.move_to_end(sender)
        return session

    def _seal(self, accepted: Accepted, reply: Reply) -> bytes:
        limit = min(MAX_DATAGRAM, MAX_REPLY_FACTOR * accepted.length) - HEADER_SIZE - TAG_SIZE
        header = Header(
            MessageType.REPLY,
            accepted.header.suite,
            self.keyring.public_key,
            self.random(NONCE_SIZE),
        )
        return self.keyring.channel(accepted.header.sender).seal(header, reply.encode(limit))
