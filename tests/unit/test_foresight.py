"""What is foretold of a reload is what the reload does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network

from anubis.daemon.foresight import foreseen, would_end
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers
from anubis.files.revision import revise
from anubis.forecast import ChangedEntry, Difference
from anubis.gatekeeper import Connection, Role
from anubis.wireguard.keys import PresharedKey, PublicKey
from anubis.wireguard.types import Device, Peer
from tests.unit.test_revision import A, B, C, entry

OTHER = frozenset({ip_network("10.0.9.0/24")})
STRANGER = Peer(PublicKey(bytes([99] * 32)), allowed_ips=OTHER)


def difference(
    before: Iterable[AuthorizedPeer],
    now: Iterable[AuthorizedPeer],
    *,
    up: Iterable[AuthorizedPeer] = (),
    role: Role = Role.INITIATOR,
    others: tuple[Peer, ...] = (),
) -> Difference:
    """Return what is foretold, while these are up and strangers have these peers on wg0."""
    up = tuple(up)
    connections = {e.name: Connection(e.name, role, 0.0, 60, 60.0, 30.0) for e in up}
    ours = {e.name: e.public_key for e in up}
    peers = (*(Peer(e.public_key, allowed_ips=e.allowed_ips) for e in up), *others)
    device = Device("wg0", None, 0, 0, peers)
    now = tuple(now)
    revision = revise(AuthorizedPeers(before), AuthorizedPeers(now))
    ended = would_end(revision, connections, device, ours, 1.8e9)
    return foreseen(revision, ended, len(now), ())


def test_who_is_gone_is_cut_off_if_it_is_up() -> None:
    """Only then is there something to cut."""
    assert difference([A, B, C], [C, entry(4)], up=[A]) == Difference(
        2, added=("peer-4",), removed=("peer-1", "peer-2"), ended=("peer-1",)
    )


def test_other_keys_are_a_change_that_cuts_off() -> None:
    """The same name with another secret is told as changed, and by no value."""
    other = replace(A, preshared_key=PresharedKey(bytes([7] * 32)))
    found = difference([A], [other], up=[A])
    assert found.changed == (ChangedEntry("peer-1", ("PresharedKey",)),)
    assert (found.added, found.removed, found.ended) == ((), (), ("peer-1",))


def test_who_may_no_longer_ask_is_cut_off_if_it_had_asked() -> None:
    """What this host asked for is another matter."""
    other = replace(A, may=frozenset())
    assert difference([A], [other], up=[A], role=Role.RESPONDER).ended == ("peer-1",)
    assert difference([A], [other], up=[A]).ended == ()


def test_networks_that_a_stranger_has_cut_off() -> None:
    """They cannot be had; without the stranger they can."""
    other = replace(A, allowed_ips=OTHER)
    assert difference([A], [other], up=[A], others=(STRANGER,)).ended == ("peer-1",)
    assert difference([A], [other], up=[A]).ended == ()
    assert difference([A], [other], others=(STRANGER,)).ended == ()


def test_an_exchange_of_networks_cuts_nobody_off() -> None:
    """Each gives up first what the other gets, in whatever order they stand."""
    one, two = replace(A, allowed_ips=B.allowed_ips), replace(B, allowed_ips=A.allowed_ips)
    for now in ([one, two], [two, one]):
        assert difference([A, B], now, up=[A, B]).ended == ()


def test_the_networks_of_one_who_goes_are_free() -> None:
    """In the same reload another may get them."""
    other = replace(B, allowed_ips=A.allowed_ips)
    assert difference([A, B], [other], up=[A, B]).ended == ("peer-1",)
