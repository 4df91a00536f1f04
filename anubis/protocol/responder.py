"""The responder's half of an exchange, sans-IO: datagrams in, decisions out.

Owns the duties of a receiver (`docs/protocol.md`, section 9): the order of the checks, the refusals
and the answer to a repeat. Refuses to know sockets, clocks and what a verb does: a fresh request is
handed out as `Accepted`, and whoever acts on it comes back with `answer`.

Receiving never raises. Every table is bounded. The order is by cost: a stranger's datagram costs a
few comparisons, and only what came through the tunnel of an authorized peer and names an authorized
sender costs an AEAD.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Protocol

from anubis.protocol.channel import Keyring
from anubis.protocol.freshness import MAX_SESSIONS, Session, Sessions
from anubis.protocol.suites import SUITES, NotAuthentic
from anubis.protocol.wire import (
    HEADER_SIZE,
    MAX_DATAGRAM,
    MAX_REPLY_FACTOR,
    NONCE_SIZE,
    REQUEST_ID_SIZE,
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
class Responder:
    """All exchanges in which this host is the responder.

    `floor_ns` is the time before which nothing is fresh: the start of the daemon. Together with
    the watermarks of an earlier run it makes a request that was recorded then worthless now.
    """

    keyring: Keyring
    directory: Directory
    random: Callable[[int], bytes]
    accepted_suites: tuple[int, ...]  # by preference
    floor_ns: int
    drops: Counter[str] = field(default_factory=Counter)
    max_sessions: int = MAX_SESSIONS
    _sessions: Sessions = field(init=False)

    def __post_init__(self) -> None:
        self._sessions = Sessions(self.floor_ns, self.max_sessions)

    def receive(
        self, datagram: bytes, source: IPv6Address, now_ns: int, running_ns: int | None = None
    ) -> Outcome:
        """Judge one request datagram; never raises.

        `now_ns` counts from 1970, by a clock that may be wrong and may be set. `running_ns` is for
        how long this responder has been running, by a clock that is never set: if the clock was
        behind at the start and is right now, the floor rises to the right time of the start.
        """
        if running_ns is not None:
            self._sessions.raise_floor(now_ns - running_ns)
        try:
            return self._receive(datagram, source, now_ns)
        except Malformed as error:
            return self._drop(error.reason)

    def answer(self, accepted: Accepted, reply: Reply) -> bytes:
        """Seal the reply to a request that was acted on, and keep it for its repeats."""
        datagram = self._seal(accepted.header, accepted.length, reply)
        session = self._sessions.get(accepted.header.sender)
        if session is not None and session.digest == accepted.digest:
            session.reply = datagram
        return datagram

    def watermarks(self) -> dict[PublicKey, int]:
        """Return the newest time judged of each initiator, in ns since 1970, to be kept."""
        return self._sessions.watermarks()

    @property
    def forgotten_ns(self) -> int:
        """The newest time of all initiators that `watermarks` no longer names, to be kept too."""
        return self._sessions.forgotten_ns

    def risen(self) -> dict[PublicKey, int]:
        """Return the watermarks that have risen since this was asked last, to be kept."""
        return self._sessions.risen()

    def restore(self, watermarks: Mapping[PublicKey, int], forgotten_ns: int = 0) -> None:
        """Take up the watermarks of an earlier run, and what those had reached that it forgot."""
        self._sessions.forget_until(forgotten_ns)
        self._sessions.restore(watermarks)

    def _receive(self, datagram: bytes, source: IPv6Address, now_ns: int) -> Outcome:
        """Check in the order of section 9. Raises Malformed for a header that cannot be read."""
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
        if session is not None and sender.name == tunnel.name and session.digest == digest:
            return self._repeat(session, sender.name)
        try:
            body = self.keyring.channel(header.sender).open(header, datagram)
        except (NotAuthentic, KeyFormatError):
            return self._drop("not_authentic", tunnel.name)
        judged = self._judge(header, body, sender.name == tunnel.name, now_ns)
        if isinstance(judged, Reply):
            sealed = self._seal(header, len(datagram), judged)
            return Answered(sealed, sender.name, judged.result)
        self._sessions.open(header.sender).accept(digest)
        return Accepted(sender.name, judged, header, len(datagram), digest)

    def _drop(self, reason: str, peer: str | None = None) -> Dropped:
        self.drops[reason] += 1
        return Dropped(reason, peer)

    def _repeat(self, session: Session, peer: str) -> Outcome:
        if session.reply is None:
            return self._drop("in_progress", peer)
        return Answered(session.reply, peer, Result.UNCHANGED, repeat=True)

    def _judge(self, header: Header, body: bytes, same_peer: bool, now_ns: int) -> Request | Reply:
        """Return the request of an authentic body if it may be acted on, else its refusal."""
        refusal = Reply(body[:REQUEST_ID_SIZE], now_ns, Result.DONE)
        if not same_peer:
            return replace(
                refusal,
                result=Result.KEY_MISMATCH,
                reason="this production key and this control tunnel belong to different peers",
            )
        if header.suite not in self.accepted_suites:
            return replace(
                refusal,
                result=Result.SUITE_REFUSED,
                suites=self.accepted_suites,
                reason=f"suite {header.suite} is not accepted here",
            )
        try:
            request = Request.decode(body)
        except Malformed as error:
            return replace(refusal, result=Result.MALFORMED, reason=str(error))
        return self._judge_request(request, header.sender, refusal, now_ns)

    def _judge_request(
        self, request: Request, sender: PublicKey, refusal: Reply, now_ns: int
    ) -> Request | Reply:
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
        session = self._sessions.open(sender)
        floor_ns = self._sessions.floor_ns
        fresh = session.is_fresh(request.unix_ns, request.challenge, floor_ns, now_ns)
        self._sessions.note_judged(sender)
        if fresh:
            return request
        return replace(
            refusal,
            result=Result.STALE,
            challenge=session.challenge(now_ns, self.random),
            reason="the timestamp is not newer than the last one, or too far from this clock",
        )

    def _seal(self, request: Header, length: int, reply: Reply) -> bytes:
        """Seal a reply in the suite of its request, whose datagram had `length` bytes."""
        limit = min(MAX_DATAGRAM, MAX_REPLY_FACTOR * length) - HEADER_SIZE - TAG_SIZE
        header = Header(
            MessageType.REPLY, request.suite, self.keyring.public_key, self.random(NONCE_SIZE)
        )
        return self.keyring.channel(request.sender).seal(header, reply.encode(limit))
