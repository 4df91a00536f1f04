"""The far end's no, in words for the person who asked."""

from __future__ import annotations

from anubis.errors import Refused
from anubis.protocol.wire import Reply, Result

__all__ = ["refusal"]

_HINTS = {
    "stale": "its clock and this one disagree, and the challenge was lost on the way: try again",
    "key_mismatch": "its authorized_peers has this host's PublicKey and ControlPublicKey in"
    " different entries",
    "not_permitted": "its administrator decides with May in authorized_peers",
    "suite_refused": "let Suites in anubis.conf name one that it accepts",
    "conflict": "its log names the connection that is in the way",
    "pending": "whoever has to approve it has not: ask for it again when somebody is there",
    "failed": "its log says what went wrong; both ends are as before",
    "busy": "try again in a moment",
}


def refusal(peer: str, reply: Reply) -> Refused:
    """Return the no of a far end that we call `peer`, in words."""
    try:
        name = Result(reply.result).name.lower()
    except ValueError:
        name = f"result_{reply.result}"
    reason = f": {reply.reason}" if reply.reason else ""
    return Refused(f"{peer} refused ({name}){reason}", _HINTS.get(name), name)
