"""`anubis peer add --from ANSWER`: who was invited and has joined becomes an entry."""

# ruff: noqa: PLC0415  the files and what they need are imported where they are used

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from anubis.cli.authorized import editor, load, when
from anubis.cli.handover import received
from anubis.cli.output import printable, say
from anubis.errors import BadRequest

__all__ = ["admit"]


def admit(config_path: Path, name: str | None, file: Path) -> None:
    """Authorize whoever answered an invitation. Raises BadRequest if it is no answer to one."""
    from anubis.files.invitation import parse_answer
    from anubis.files.proofs import code, is_proven
    from anubis.files.times import format_time

    answer = parse_answer(*received(file))
    host = load(config_path)
    if name is not None and name.lower() != answer.name:
        raise BadRequest(f"this is the answer of {answer.name}, not of {printable(name)!r}")
    kept = host.entries.reservation(answer.name)
    if kept is None:
        raise BadRequest(
            f"no invitation of {answer.name} is open: it was answered, or withdrawn",
            f"anubis peer show {answer.name}; or invite it anew: anubis invite {answer.name}",
        )
    anew = f"invite it anew: anubis invite {answer.name}"
    if datetime.now(UTC) > kept.expires:
        raise BadRequest(f"this invitation expired at {format_time(kept.expires)}", anew)
    own = host.own_keys()
    secret = code(host.control_key, kept.number, kept.name)
    if not is_proven(answer.proof, secret, answer.name, answer.keys, own):
        raise BadRequest(
            "this answer was changed on its way, or answers an earlier invitation", anew
        )
    keys = {"PublicKey": str(answer.keys.production), "ControlPublicKey": str(answer.keys.control)}
    peer = editor(host).admit(kept, keys)
    say(f"{peer.name} is added to {peer.location.path}; {when(host)}")
    say(f"its control address is {peer.control.routable}")
