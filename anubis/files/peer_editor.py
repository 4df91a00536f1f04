"""Changing who is authorized, in the same files that the administrator edits.

Owns that a file is right before and after: what would not pass `anubis check` is not written.
Refuses to know how a text is edited (`stanzas`) and how a file is replaced (`writing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from anubis.errors import LocalFailure, Problem, UnknownConnection, nearest
from anubis.files.authorized_peers import (
    AuthorizedPeer,
    AuthorizedPeers,
    OwnKeys,
    parse_authorized_peers,
    read_files,
)
from anubis.files.reservation import Reservation
from anubis.files.stanzas import append, remove, retitle, set_key
from anubis.files.writing import edit_file

__all__ = ["Entry", "PeerEditor", "find"]

Entry = AuthorizedPeer | Reservation
_Edit = Callable[[str, AuthorizedPeers], str]


class PeerEditor:
    """Edits `path` and the files in `path.d`. `own` are this host's keys, which no peer may have.

    Every method raises ConfigError if a file is not right, before or after, NotPermitted and
    LocalFailure if it cannot be written; then nothing has changed.
    """

    def __init__(self, path: Path, own: OwnKeys | None = None) -> None:
        self._path = path
        self._own = own

    def add(self, stanza: str) -> AuthorizedPeer:
        """Append a `[Peer]` section, and return its entry."""
        known = set(self._peers().names())
        self._edit(self._path, lambda text, _: append(text, stanza))
        (added,) = (peer for peer in self._peers() if peer.name not in known)
        return added

    def remove(self, name: str) -> Entry:
        """Remove an entry or an invitation, with the comments that belong to it.

        Raises UnknownConnection.
        """
        entry = find(self._peers(), name)
        self._edit(
            entry.location.path,
            lambda text, peers: remove(text, _same(entry, peers).location.line),
        )
        return entry

    def rename(self, name: str, new: str) -> AuthorizedPeer:
        """Give an entry another name, and return it as it was. Raises UnknownConnection.

        Those in the same file whom it has to approve get its new name for that.
        """
        peer = _find(self._peers(), name)

        def edit(text: str, peers: AuthorizedPeers) -> str:
            text = set_key(text, _same(peer, peers).location.line, "Name", new)
            for other in peers:  # no line is added by this, and so none moves
                if other.approve == peer.name and other.location.path == peer.location.path:
                    text = set_key(text, other.location.line, "Approve", new)
            return text

        self._edit(peer.location.path, edit)
        return peer

    def enable(self, name: str, *, enabled: bool) -> AuthorizedPeer:
        """Have an entry count, or not; return it as it was. Raises UnknownConnection."""
        peer = _find(self._peers(), name)
        value = None if enabled else "no"
        self._edit(
            peer.location.path,
            lambda text, peers: set_key(text, _same(peer, peers).location.line, "Enabled", value),
        )
        return peer

    def reserve(self, name: str, keys: Mapping[str, str]) -> bool:
        """Write an `[Invitation]` with these keys.

        Return whether it takes the place of an earlier one of this name, whose answer is worth
        nothing from then on.
        """
        earlier = self._peers().reservation(name)

        def edit(text: str, peers: AuthorizedPeers) -> str:
            if earlier is None:
                lines = ["[Invitation]", *(f"{key} = {value}" for key, value in keys.items()), ""]
                return append(text, "\n".join(lines))
            return _with_keys(text, _same(earlier, peers).location.line, keys)

        self._edit(self._path if earlier is None else earlier.location.path, edit)
        return earlier is not None

    def admit(self, reservation: Reservation, keys: Mapping[str, str]) -> AuthorizedPeer:
        """Make an entry of what was kept for somebody, and return it."""

        def edit(text: str, peers: AuthorizedPeers) -> str:
            line = _same(reservation, peers).location.line
            gone = {"Number": None, "Expires": None}
            return _with_keys(retitle(text, line, "Peer"), line, {**keys, **gone})

        self._edit(reservation.location.path, edit)
        return _find(self._peers(), reservation.name)

    def _peers(self) -> AuthorizedPeers:
        problems: list[Problem] = []
        files = read_files(self._path, problems)
        return parse_authorized_peers(files, own=self._own, problems=problems)

    def _edit(self, path: Path, edit: _Edit) -> None:
        """Edit one of the files, whose peers are looked up in the text that is edited."""

        def checked(text: str) -> str:
            problems: list[Problem] = []
            files = read_files(self._path, problems)
            before = parse_authorized_peers(files, own=self._own, problems=problems)
            new = edit(text, before)
            files = [
                replace(file, data=new.encode(errors="surrogateescape"))
                if file.path == path
                else file
                for file in files
            ]
            parse_authorized_peers(files, own=self._own)
            return new

        edit_file(path, checked)


def find(peers: AuthorizedPeers, name: str) -> Entry:
    """Return an entry or an invitation. Raises UnknownConnection."""
    return peers.reservation(name) or _find(peers, name)


def _find(peers: AuthorizedPeers, name: str) -> AuthorizedPeer:
    peer = peers.by_name(name)
    if peer is None:
        hint = nearest(name, peers.names()) or "anubis peer list names them"
        raise UnknownConnection(f"no peer is called {name!r}", hint)
    return peer


def _same(entry: Entry, peers: AuthorizedPeers) -> Entry:
    """Return the entry or invitation as it stands now; it may have moved in its file."""
    now: Entry | None
    if isinstance(entry, AuthorizedPeer):
        now = peers.by_name(entry.name)
    else:
        now = peers.reservation(entry.name)
        if now is not None and now.number != entry.number:
            now = None
    if now is None or now.location.path != entry.location.path:
        raise LocalFailure(f"{entry.name} was moved or removed in the same moment", "try again")
    return now


def _with_keys(text: str, line: int, keys: Mapping[str, str | None]) -> str:
    for key, value in keys.items():
        text = set_key(text, line, key, value)
    return text
