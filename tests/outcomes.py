"""What must be true of whatever the responder makes of a datagram.

Owns the reasons for which a datagram may be dropped; the tests that give it any input share it.
"""

from __future__ import annotations

from anubis.protocol.responder import Accepted, Answered, Dropped, Outcome, Responder
from anubis.protocol.wire import MAX_DATAGRAM, MAX_REPLY_FACTOR, Result, Verb

__all__ = ["REASONS", "check_outcome"]

REASONS = {
    "bad_size",
    "unknown_version",
    "unknown_type",
    "reserved_bits",
    "unexpected_reply",
    "unknown_source",
    "unknown_suite",
    "unknown_sender",
    "in_progress",
    "not_authentic",
}


def check_outcome(responder: Responder, datagram: bytes, outcome: Outcome) -> None:
    """Assert that an outcome is stated, and no longer than its datagram lets it be."""
    match outcome:
        case Dropped(reason):
            assert reason in REASONS
        case Answered(reply, result=result):
            assert result in frozenset(Result)
            assert len(reply) <= min(MAX_DATAGRAM, MAX_REPLY_FACTOR * len(datagram))
        case Accepted(request=request):
            assert request.verb in frozenset(Verb)
            assert not request.unknown_critical
    assert set(responder.drops) <= REASONS
    assert len(responder.watermarks()) <= responder.max_sessions
