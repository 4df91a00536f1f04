"""What a new authorized-peers file changes is exactly what differs, and only that."""

from __future__ import annotations

from dataclasses import fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.errors import LocalFailure, Location
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers
from anubis.files.config import Production
from anubis.files.peer_stanza import GRAMMAR
from anubis.files.revision import Revision, changed_keys, revise
from anubis.gatekeeper import Gatekeeper, Role
from anubis.wireguard.keys import PresharedKey, PublicKey


def entry(number: int, lease: int | None = None, key: int | None = None) -> AuthorizedPeer:
    """Return an entry whose name, networks and control key come of a number."""
    return AuthorizedPeer(
        name=f"peer-{number}",
        public_key=PublicKey(bytes([key or number, 1, *bytes(30)])),
        control_public_key=PublicKey(bytes([number, 2, *bytes(30)])),
        allowed_ips=frozenset({ip_network(f"10.0.0.{number}/32")}),
        location=Location(Path("authorized_peers"), number),
        lease_seconds=lease,
    )


A, B, C = entry(1), entry(2), entry(3)


def test_each_difference_has_its_place() -> None:
    """One came, one went, one changed, one stayed."""
    later = replace(B, lease_seconds=60)
    found = revise(AuthorizedPeers([A, B, C]), AuthorizedPeers([later, C, entry(4)]))
    assert found == Revision(added=(entry(4),), removed=(A,), changed=((B, later),))


@pytest.mark.parametrize(
    "other",
    [
        replace(A, public_key=B.public_key),
        replace(A, control_public_key=B.control_public_key),
        replace(A, preshared_key=PresharedKey(bytes([7] * 32))),
        replace(A, name="other"),
    ],
)
def test_other_keys_or_another_name_are_another_host(other: AuthorizedPeer) -> None:
    """What was agreed with the one is nothing that the other may have."""
    found = revise(AuthorizedPeers([A]), AuthorizedPeers([other]))
    assert found == Revision(added=(other,), removed=(A,))


def test_an_entry_that_only_moved_in_the_file_is_the_same() -> None:
    """A comment above it cuts nobody off."""
    moved = replace(A, location=Location(Path("authorized_peers"), 99))
    assert revise(AuthorizedPeers([A, B]), AuthorizedPeers([B, moved])) == Revision()


DIFFERENT: dict[str, dict[str, Any]] = {
    "Name": {"name": "other"},
    "PublicKey": {"public_key": B.public_key},
    "ControlPublicKey": {"control_public_key": B.control_public_key},
    "AllowedIPs": {"allowed_ips": B.allowed_ips},
    "PresharedKey": {"preshared_key": PresharedKey(bytes([7] * 32))},
    "MaxLease": {"max_lease_seconds": 60},
    "IdleTimeout": {"idle_timeout": 60},
    "PersistentKeepalive": {"persistent_keepalive": 25},
    "May": {"may": frozenset()},
}


@pytest.mark.parametrize("key", DIFFERENT)
def test_a_change_is_told_by_the_key_of_the_file(key: str) -> None:
    """As the administrator wrote it, without its value."""
    assert changed_keys(A, replace(A, **DIFFERENT[key])) == (key,)


def test_every_field_of_an_entry_has_its_key() -> None:
    """Whatever differs can be told in the words of the file."""
    keys = {key.name for key in GRAMMAR.sections[0].keys}
    nothing: dict[str, Any] = {each.name: object() for each in fields(AuthorizedPeer)}
    everything = changed_keys(A, AuthorizedPeer(**nothing))
    assert set(everything) == keys
    assert len(everything) == len(keys)


@st.composite
def files(draw: st.DrawFn) -> AuthorizedPeers:
    """Draw a file of a few entries, some of which are in another one too."""
    numbers = draw(st.sets(st.integers(1, 6)))
    return AuthorizedPeers(
        entry(number, draw(st.sampled_from((None, 60))), draw(st.sampled_from((None, number + 9))))
        for number in sorted(numbers)
    )


@given(files(), files())
def test_a_revision_leads_from_one_file_to_the_other(
    before: AuthorizedPeers, now: AuthorizedPeers
) -> None:
    """Without what was removed and changed, with what came, it is the new file; nothing twice."""
    found = revise(before, now)
    entries = {e.name: e for e in before if e not in found.removed}
    for old, new in found.changed:
        assert entries[old.name] == old
        assert old != new
        entries[new.name] = new
    for new in found.added:
        assert new.name not in entries
        entries[new.name] = new
    assert entries == {e.name: e for e in now}


def keeper() -> Gatekeeper:
    """Return a gatekeeper with everything of A, and B up."""
    found = Gatekeeper(AuthorizedPeers([A, B]), Production(private_key_file=Path("key")))
    for peer in (A, B):
        found.opened(peer.name, Role.INITIATOR, 60, 0.0, since=0.0)
    found.begun(A.name, 60.0)
    found.wishes.want(A.name, None)
    return found


def test_nothing_is_known_any_more_of_who_was_removed() -> None:
    """No connection, no pin, nothing unfinished; others keep theirs."""
    found = keeper()
    found.replace_peers(AuthorizedPeers([B, C]), [A])
    assert [each.name for each in found] == [B.name]
    assert found.up_peers() == (B,)
    assert (found.unfinished, list(found.wishes)) == ({}, [])


@pytest.mark.parametrize(
    ("now", "done"), [([B], "removed"), ([replace(A, lease_seconds=60), B], "changed")]
)
def test_what_is_under_way_for_an_entry_ends_with_it(now: list[AuthorizedPeer], done: str) -> None:
    """Who holds an entry of the old file can do nothing in its name."""
    found = keeper()
    found.check_current(A)
    found.replace_peers(AuthorizedPeers(now), [A] if done == "removed" else [])
    found.check_current(B)
    with pytest.raises(LocalFailure, match=f"peer-1 was {done} in authorized_peers meanwhile"):
        found.check_current(A)
