"""What a new authorized-peers file changes, against the one in force. Pure.

Owns what counts as the same host. Refuses to know what is done about a difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers

__all__ = ["Revision", "changed_keys", "revise"]


@dataclass(frozen=True, slots=True)
class Revision:
    """The difference between two files; entries that are the same in both are in none of these.

    A host with other keys is another host, whatever its name: its old entry is in `removed`, its
    new one in `added`.
    """

    added: tuple[AuthorizedPeer, ...] = ()
    removed: tuple[AuthorizedPeer, ...] = ()
    changed: tuple[tuple[AuthorizedPeer, AuthorizedPeer], ...] = ()  # before, now


def revise(before: AuthorizedPeers, now: AuthorizedPeers) -> Revision:
    """Return what leads from one file to the other; linear in the entries of both."""
    kept = [(old, new) for old, new in _pairs(before, now) if _is_same_host(old, new)]
    names = {old.name for old, _ in kept}
    return Revision(
        added=tuple(entry for entry in now if entry.name not in names),
        removed=tuple(entry for entry in before if entry.name not in names),
        changed=tuple((old, new) for old, new in kept if old != new),
    )


def changed_keys(old: AuthorizedPeer, new: AuthorizedPeer) -> tuple[str, ...]:
    """Return the keys, as a file has them, in which two entries of one name differ.

    What counts is what is in force: with an `Endpoint` also the `ControlEndpoint` may change that
    is derived from it.
    """
    return tuple(
        _key(field.name)
        for field in fields(AuthorizedPeer)
        if field.compare and getattr(old, field.name) != getattr(new, field.name)
    )


def _key(field: str) -> str:
    words = field.removesuffix("_seconds").split("_")
    return "".join("IPs" if word == "ips" else word.capitalize() for word in words)


def _pairs(
    before: AuthorizedPeers, now: AuthorizedPeers
) -> Iterable[tuple[AuthorizedPeer, AuthorizedPeer]]:
    for old in before:
        new = now.by_name(old.name)
        if new is not None:
            yield old, new


def _is_same_host(old: AuthorizedPeer, new: AuthorizedPeer) -> bool:
    return (old.public_key, old.control_public_key, old.preshared_key) == (
        new.public_key,
        new.control_public_key,
        new.preshared_key,
    )
