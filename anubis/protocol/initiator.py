"""The initiator's half of one exchange, sans-IO: what to send, when, and how it ended.

Owns retransmission, the echo of a challenge and the choice among accepted suites
(`docs/protocol.md`, sections 10 and 11). Refuses to know sockets and clocks: `now` is monotonic
seconds, `clock` gives nanoseconds since 1970, `random` gives bytes.

    initiator = Initiator(...)
    datagram = initiator.start(now)
    ... send, wait until initiator.timer; then on_timer(now) or on_datagram(data, now), send what
    ... they return; until initiator.outcome is set
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from anubis.protocol.channel import Keyring
from anubis.protocol.suites import NotAuthentic
from anubis.protocol.wire import (
    NONCE_SIZE,
    REQUEST_ID_SIZE,
    Header,
    Malformed,
    MessageType,
    Reply,
    Request,
    Result,
    Verb,
)
from anubis.wireguard.keys import PublicKey

__all__ = ["Initiator", "NoReply", "Outcome"]

FIRST_INTERVAL = 0.25  # seconds until the first repetition; doubled each time
MAX_INTERVAL = 1.0  # seconds
MAX_ATTEMPTS = 4  # requests in one exchange: the first, and new ones after stale or suite_refused


@dataclass(frozen=True, slots=True)
class NoReply:
    """The deadline passed. `sent` datagrams went out."""

    sent: int


Outcome = Reply | NoReply


@dataclass(slots=True)
class Initiator:
    """One request to one peer, until it is answered or its time is up."""

    keyring: Keyring
    peer: PublicKey
    verb: Verb
    suites: tuple[int, ...]  # ours, by preference
    deadline: float  # in the terms of `now`
    clock: Callable[[], int]
    random: Callable[[int], bytes]
    lease: int | None = None  # seconds
    reason: str = ""
    subject: str | None = None  # the connection that is approved
    outcome: Outcome | None = None
    timer: float = 0.0
    sent: int = 0
    _header: Header | None = None
    _request: Request | None = None
    _datagram: bytes = b""
    _interval: float = FIRST_INTERVAL
    _attempts: int = 0
    _tried: set[int] = field(default_factory=set)

    def start(self, now: float) -> bytes:
        """Return the first datagram. Raises KeyFormatError if the peer's key is of low order."""
        return self._ask(self.suites[0], None, now)

    def on_timer(self, now: float) -> bytes | None:
        """Return the same bytes again, or None and an outcome when the deadline has passed."""
        if self.outcome is not None or now < self.timer:
            return None
        if now >= self.deadline:
            self.outcome = NoReply(self.sent)
            return None
        return self._send(now)

    def again(self, now: float) -> bytes | None:
        """Return the same bytes again at once, because the way was just repaired."""
        if self.outcome is not None or not self._datagram:
            return None
        self._interval = FIRST_INTERVAL
        return self._send(now)

    def on_datagram(self, datagram: bytes, now: float) -> bytes | None:
        """Take in a datagram from the peer's control address; return one to send, if any.

        What is not the authentic reply to the newest request of this exchange changes nothing.
        """
        reply = self._read(datagram) if self.outcome is None else None
        if reply is None:
            return None
        if self._attempts < MAX_ATTEMPTS:
            if reply.result == Result.STALE and reply.challenge is not None:
                return self._ask(self._current_suite, reply.challenge, now)
            if reply.result == Result.SUITE_REFUSED:
                suite = next((s for s in reply.suites if self._may_try(s)), None)
                if suite is not None:
                    return self._ask(suite, None, now)
        self.outcome = reply
        return None

    @property
    def asked_anew(self) -> bool:
        """Whether a second request was made; until it came, the peer had carried nothing out."""
        return self._attempts > 1

    @property
    def _current_suite(self) -> int:
        return self._header.suite if self._header else self.suites[0]

    def _may_try(self, suite: int) -> bool:
        return suite in self.suites and suite not in self._tried

    def _ask(self, suite: int, challenge: bytes | None, now: float) -> bytes:
        """Make a new request: a new id, a new timestamp, a new nonce."""
        self._attempts += 1
        self._tried.add(suite)
        self._request = Request(
            request_id=self.random(REQUEST_ID_SIZE),
            unix_ns=self.clock(),
            verb=self.verb,
            lease=self.lease,
            challenge=challenge,
            reason=self.reason,
            subject=self.subject,
        )
        self._header = Header(
            MessageType.REQUEST, suite, self.keyring.public_key, self.random(NONCE_SIZE)
        )
        channel = self.keyring.channel(self.peer)
        self._datagram = channel.seal(self._header, self._request.encode())
        self._interval = FIRST_INTERVAL
        return self._send(now)

    def _send(self, now: float) -> bytes:
        """Arm the timer: the interval, stretched by up to a quarter so that hosts spread."""
        jitter = 1 + self.random(1)[0] / 1024
        self.timer = min(now + self._interval * jitter, self.deadline)
        self._interval = min(self._interval * 2, MAX_INTERVAL)
        self.sent += 1
        return self._datagram

    def _read(self, datagram: bytes) -> Reply | None:
        """Open a reply to the newest request; None for anything else."""
        if self._header is None or self._request is None:
            return None
        try:
            header = Header.decode(datagram)
            if header.type is not MessageType.REPLY or header.sender != self.peer:
                return None
            if header.suite != self._header.suite:
                return None
            reply = Reply.decode(self.keyring.channel(self.peer).open(header, datagram))
        except (Malformed, NotAuthentic):
            return None
        if reply.request_id != self._request.request_id or reply.unknown_critical:
            return None
        return reply
