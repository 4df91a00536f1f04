"""The gatekeeper decides on names, verbs and leases alone; nothing here touches a network."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from anubis.errors import LocalFailure, Location, UnknownConnection
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers
from anubis.files.config import Production
from anubis.files.times import Hours, stretch
from anubis.gatekeeper import (
    Admit,
    Close,
    Decision,
    Due,
    Gatekeeper,
    Keep,
    Open,
    Refuse,
    Role,
    Wait,
)
from anubis.protocol.wire import Result, Verb
from anubis.wireguard.keys import PublicKey

HOUR = 3600
NOW = 1000.0
AT = 1.8e9  # seconds since 1970


def entry(name: str, allowed: str, **more: object) -> AuthorizedPeer:
    """Return an entry with keys of its own."""
    number = sum(name.encode()) % 250
    production, control = PublicKey(bytes([number] * 32)), PublicKey(bytes([number + 1] * 32))
    values: dict[str, object] = {
        "name": name,
        "public_key": production,
        "control_public_key": control,
        "preshared_key": None,
        "allowed_ips": frozenset(ip_network(text) for text in allowed.split(", ")),
        "endpoint": None,
        "control_endpoint": None,
        "persistent_keepalive": 0,
        "lease_seconds": None,
        "max_lease_seconds": None,
        "may": frozenset({"up", "down", "status"}),
        "group": None,
        "location": Location(Path("authorized_peers"), 1),
    }
    return AuthorizedPeer(**{**values, **more})  # type: ignore[arg-type]


def gatekeeper(*entries: AuthorizedPeer) -> Gatekeeper:
    """Return a gatekeeper of these entries, with the default lease and cap."""
    production = Production(private_key_file=Path("production.key"))
    return Gatekeeper(AuthorizedPeers(entries), production)


XENA = entry("xena", "10.66.0.10/32, fd66::10/128")
JACINTH = entry("jacinth", "192.168.7.0/24", group="home")
SURYA = entry("surya", "192.168.7.0/24", group="home")


def bring_up(keeper: Gatekeeper, name: str, role: Role, lease: int = HOUR) -> None:
    """Note that a connection is up since NOW."""
    keeper.opened(name, role, lease, NOW, since=0.0)


def test_an_unknown_name_names_the_nearest() -> None:
    """A misspelt name is refused with the name that was probably meant."""
    with pytest.raises(UnknownConnection) as raised:
        gatekeeper(JACINTH).peer("jacint")
    assert raised.value.hint == "did you mean jacinth?"


def test_up_installs_the_peer_for_the_lease_it_wants() -> None:
    """A permitted up of a connection that is down opens it."""
    assert gatekeeper(XENA).judge("xena", Verb.UP, HOUR, NOW, AT) == Open(XENA, HOUR)


def test_a_decision_changes_nothing_until_it_is_carried_out() -> None:
    """Judging alone opens nothing."""
    keeper = gatekeeper(XENA)
    keeper.judge("xena", Verb.UP, HOUR, NOW, AT)
    assert keeper.connection("xena") is None
    assert keeper.next_due() == float("inf")


@pytest.mark.parametrize(
    ("own_cap", "wanted", "granted"),
    [(None, 100 * HOUR, 24 * HOUR), (2 * HOUR, 8 * HOUR, 2 * HOUR), (None, None, 8 * HOUR)],
)
def test_a_lease_is_capped(own_cap: int | None, wanted: int | None, granted: int) -> None:
    """Nobody gets more than the entry's cap, else the host's; without a wish, the default."""
    peer = entry("xena", "10.66.0.10/32", max_lease_seconds=own_cap)
    decision = gatekeeper(peer).judge("xena", Verb.UP, wanted, NOW, AT)
    assert decision == Open(peer, granted)


@pytest.mark.parametrize("verb", [Verb.UP, Verb.DOWN, Verb.STATUS])
def test_may_is_obeyed(verb: Verb) -> None:
    """What May does not name is refused, also while the connection is up."""
    keeper = gatekeeper(entry("xena", "10.66.0.10/32", may=frozenset()))
    bring_up(keeper, "xena", Role.RESPONDER)
    decision = keeper.judge("xena", verb, None, NOW, AT)
    assert isinstance(decision, Refuse)
    assert decision.result is Result.NOT_PERMITTED


WEDNESDAY = datetime(2026, 11, 25, 12).timestamp()  # noqa: DTZ001  noon, local time
OFFICE = Hours((stretch("Mon-Fri 08:00-18:00"),))


def test_hours_are_obeyed() -> None:
    """Outside of them there is no `up` and no renewal; within, no lease is longer than they are."""
    peer = entry("xena", "10.66.0.10/32", hours=OFFICE)
    keeper = gatekeeper(peer)
    night = WEDNESDAY + 7 * HOUR
    for verb in (Verb.UP, Verb.STATUS, Verb.DOWN):
        refused = isinstance(keeper.judge("xena", verb, None, NOW, night), Refuse)
        assert refused == (verb is Verb.UP)
    assert keeper.judge("xena", Verb.UP, None, NOW, WEDNESDAY) == Open(peer, 6 * HOUR)
    assert keeper.judge("xena", Verb.UP, HOUR, NOW, WEDNESDAY) == Open(peer, HOUR)
    bring_up(keeper, "xena", Role.RESPONDER)
    assert isinstance(keeper.judge("xena", Verb.RENEW, None, NOW, night), Refuse)


def test_status_tells_why_an_up_would_be_refused() -> None:
    """While it is down, and nothing is brought up by asking; of what is up there is no reason."""
    peer = entry("xena", "10.66.0.10/32", may=frozenset({"status"}))
    keeper = gatekeeper(peer)
    told = keeper.judge("xena", Verb.STATUS, None, NOW, AT)
    assert told == Keep(peer, Result.DONE, "the administrator does not let you ask for UP")
    assert keeper.connection("xena") is None
    bring_up(keeper, "xena", Role.RESPONDER)
    assert keeper.judge("xena", Verb.STATUS, None, NOW, AT) == Keep(peer, Result.DONE)
    willing = entry("xena", "10.66.0.10/32")
    told = gatekeeper(willing).judge("xena", Verb.STATUS, None, NOW, AT)
    assert told == Keep(willing, Result.DONE)


def test_no_lease_outlives_its_entry() -> None:
    """What is granted ends when the entry expires."""
    peer = entry("xena", "10.66.0.10/32", expires=datetime.fromtimestamp(AT + 90, UTC))
    assert gatekeeper(peer).judge("xena", Verb.UP, HOUR, NOW, AT) == Open(peer, 90)


def test_what_is_up_is_curtailed_by_other_hours() -> None:
    """What was granted ends with them; what this host asked for is another's to grant."""
    keeper = gatekeeper(entry("xena", "10.66.0.10/32", hours=OFFICE))
    for role, ends in ((Role.RESPONDER, NOW + 6 * HOUR), (Role.INITIATOR, NOW + 8 * HOUR)):
        keeper.opened("xena", role, 8 * HOUR, NOW, since=0.0)
        keeper.curtail("xena", NOW, WEDNESDAY)
        assert [connection.expires for connection in keeper] == [ends]
        keeper.closed("xena")


def test_up_when_up_is_unchanged_and_renews() -> None:
    """A repeated up installs nothing and extends the lease."""
    keeper = gatekeeper(XENA)
    bring_up(keeper, "xena", Role.RESPONDER)
    assert keeper.judge("xena", Verb.UP, HOUR, NOW + 1800, AT) == Keep(XENA, Result.UNCHANGED)
    assert keeper.next_due() == NOW + 1800 + HOUR


def test_renew_needs_a_connection() -> None:
    """Renewing what is down is refused, so that the initiator learns of it."""
    keeper = gatekeeper(XENA)
    decision = keeper.judge("xena", Verb.RENEW, HOUR, NOW, AT)
    assert isinstance(decision, Refuse)
    assert decision.result is Result.NO_CONNECTION
    bring_up(keeper, "xena", Role.RESPONDER)
    assert keeper.judge("xena", Verb.RENEW, HOUR, NOW + 10, AT) == Keep(XENA, Result.DONE)
    assert keeper.next_due() == NOW + 10 + HOUR


def test_renewal_ends_when_up_is_no_longer_permitted() -> None:
    """A peer that may not ask for up cannot keep a connection alive for ever either."""
    keeper = gatekeeper(entry("xena", "10.66.0.10/32", may=frozenset({"down"})))
    bring_up(keeper, "xena", Role.RESPONDER)
    assert isinstance(keeper.judge("xena", Verb.RENEW, HOUR, NOW, AT), Refuse)


def test_down_closes_and_is_idempotent() -> None:
    """Down closes what is up; of what is down it changes nothing."""
    keeper = gatekeeper(XENA)
    assert keeper.judge("xena", Verb.DOWN, None, NOW, AT) == Keep(XENA, Result.UNCHANGED)
    bring_up(keeper, "xena", Role.RESPONDER)
    assert keeper.judge("xena", Verb.DOWN, None, NOW, AT) == Close(XENA)


def test_gone_needs_no_permission() -> None:
    """Who tells that it is gone is believed, whatever May says."""
    keeper = gatekeeper(entry("xena", "10.66.0.10/32", may=frozenset()))
    bring_up(keeper, "xena", Role.INITIATOR)
    assert isinstance(keeper.judge("xena", Verb.GONE, None, NOW, AT), Close)


def test_allowed_ips_in_use_are_refused_without_telling_whose() -> None:
    """The same network twice is a conflict; the peer does not learn who else is authorized."""
    keeper = gatekeeper(JACINTH, SURYA)
    bring_up(keeper, "jacinth", Role.RESPONDER)
    decision = keeper.judge("surya", Verb.UP, None, NOW, AT)
    assert isinstance(decision, Refuse)
    assert decision.result is Result.CONFLICT
    assert "jacinth" not in decision.reason


def test_the_person_here_is_told_whose_networks_are_in_the_way() -> None:
    """Locally the holder is named, with the command that moves over."""
    keeper = gatekeeper(JACINTH, SURYA)
    bring_up(keeper, "jacinth", Role.INITIATOR)
    with pytest.raises(LocalFailure, match=r"192\.168\.7\.0/24: in use by .* jacinth") as raised:
        keeper.check_free(SURYA)
    assert "anubis switch surya" in str(raised.value.hint)


def test_rivals_are_the_connections_that_share_routes() -> None:
    """Switch replaces what shares routes and is up, nothing else."""
    keeper = gatekeeper(JACINTH, SURYA, XENA)
    assert keeper.rivals(SURYA) == ()
    bring_up(keeper, "jacinth", Role.INITIATOR)
    bring_up(keeper, "xena", Role.RESPONDER)
    assert keeper.rivals(SURYA) == (JACINTH,)


def test_an_initiator_renews_at_about_half_time_and_expires_at_the_end() -> None:
    """Renewal is due between 0.4 and 0.5 of the lease; without it, the connection ends."""
    keeper = gatekeeper(XENA)
    connection = keeper.opened("xena", Role.INITIATOR, HOUR, NOW, since=0.0, jitter=0.99)
    assert NOW + 0.4 * HOUR <= connection.renew_at <= NOW + 0.5 * HOUR
    assert keeper.due(connection.renew_at - 1) == []
    assert keeper.due(connection.renew_at) == [(Due.RENEW, connection)]
    assert keeper.due(NOW + HOUR) == [(Due.EXPIRE, connection)]


def test_a_postponed_renewal_is_not_due_at_once() -> None:
    """A renewal that found no answer waits: asking again and again would be a flood."""
    keeper = gatekeeper(XENA)
    keeper.opened("xena", Role.INITIATOR, HOUR, NOW, since=0.0)
    keeper.postpone("xena", NOW + 1800)
    assert keeper.due(NOW + 1801) == []
    assert NOW + 1800 < keeper.next_due() < NOW + 1900


def test_a_responder_expires_and_never_renews() -> None:
    """Only who asked for a connection keeps it alive."""
    keeper = gatekeeper(XENA)
    bring_up(keeper, "xena", Role.RESPONDER)
    assert keeper.due(NOW + HOUR - 1) == []
    assert [due for due, _ in keeper.due(NOW + HOUR)] == [Due.EXPIRE]


def test_closed_forgets() -> None:
    """A connection that was closed is due no more."""
    keeper = gatekeeper(XENA)
    bring_up(keeper, "xena", Role.RESPONDER)
    keeper.closed("xena")
    assert list(keeper) == []
    assert keeper.next_due() == float("inf")


def test_what_a_suspend_interrupts_ends_with_its_lease() -> None:
    """It is not renewed while it is lost; while it is asked for it does not end, then it does."""
    keeper = gatekeeper(XENA)
    bring_up(keeper, "xena", Role.INITIATOR)
    keeper.wishes.want("xena", HOUR, NOW + HOUR)
    keeper.wishes.lose("xena", NOW, 0.5)
    assert keeper.due(NOW + HOUR - 1) == []
    keeper.wishes.take_due(NOW + HOUR - 1)
    assert keeper.due(NOW + HOUR + 1) == []
    keeper.wishes.lose("xena", NOW + HOUR + 1, 0.5)
    assert [due for due, _ in keeper.due(NOW + HOUR + 1)] == [Due.EXPIRE]


def test_why_a_connection_ended_is_remembered_until_it_is_up_again() -> None:
    """What was not up has no reason to have ended."""
    keeper = gatekeeper(XENA)
    keeper.closed("xena", "expired")
    assert keeper.ended == {}
    bring_up(keeper, "xena", Role.RESPONDER)
    keeper.closed("xena", "expired")
    assert keeper.ended == {"xena": "expired"}
    bring_up(keeper, "xena", Role.RESPONDER)
    assert keeper.ended == {}


@pytest.mark.parametrize(
    ("role", "own", "seconds"),
    [
        (Role.RESPONDER, None, 1800),
        (Role.RESPONDER, 60, 60),
        (Role.RESPONDER, 0, 0),
        (Role.INITIATOR, None, 0),
        (Role.INITIATOR, 60, 0),
    ],
)
def test_only_who_granted_a_connection_ends_it_for_idleness(
    role: Role, own: int | None, seconds: int
) -> None:
    """After what the entry says, else the host; 0 is never."""
    peer = entry("xena", "10.66.0.10/32", idle_timeout=own)
    production = Production(private_key_file=Path("production.key"), idle_timeout=1800)
    keeper = Gatekeeper(AuthorizedPeers([peer]), production)
    assert keeper.idle_timeout(keeper.opened("xena", role, HOUR, NOW, since=0.0)) == seconds


def test_who_renews_too_late_is_told_why_it_ended() -> None:
    """An initiator that could not be told then learns it now."""
    keeper = gatekeeper(XENA)
    bring_up(keeper, "xena", Role.RESPONDER)
    keeper.closed("xena", "idle")
    assert keeper.judge("xena", Verb.RENEW, HOUR, NOW, AT) == Refuse(Result.NO_CONNECTION, "idle")


SELEN = entry("selen", "10.66.0.11/32")
GUARDED = entry("xena", "10.66.0.10/32", approve="selen")


def approve(keeper: Gatekeeper, by: str, subject: str | None, now: float = NOW) -> Decision:
    """Have a peer approve another."""
    return keeper.judge(by, Verb.APPROVE, None, now, AT, subject=subject)


def ask(keeper: Gatekeeper, now: float = NOW) -> Decision:
    """Have xena ask."""
    return keeper.judge("xena", Verb.UP, HOUR, now, AT)


def test_what_has_to_be_approved_waits() -> None:
    """And opens when that was done, once: what was used up is asked for again."""
    keeper = gatekeeper(GUARDED, SELEN)
    assert ask(keeper) == Wait(is_new=True)
    assert ask(keeper) == Wait(is_new=False)
    assert keeper.waiting(NOW, "selen") == keeper.waiting(NOW) == ("xena",)
    assert approve(keeper, "selen", "xena") == Admit(GUARDED)
    assert approve(keeper, "selen", "xena") == Keep(SELEN, Result.UNCHANGED)
    assert keeper.waiting(NOW) == ()
    assert ask(keeper) == Open(GUARDED, HOUR)
    assert ask(keeper) == Open(GUARDED, HOUR)  # the first could not be carried out
    bring_up(keeper, "xena", Role.RESPONDER)
    assert ask(keeper) == Keep(GUARDED, Result.UNCHANGED)
    assert keeper.judge("xena", Verb.RENEW, HOUR, NOW, AT) == Keep(GUARDED, Result.DONE)
    assert approve(keeper, "selen", "xena") == Keep(SELEN, Result.UNCHANGED)
    keeper.closed("xena")
    assert ask(keeper) == Wait(is_new=True)


def test_an_approval_comes_in_time_or_not_at_all() -> None:
    """Within two minutes, and it is used within two minutes."""
    keeper = gatekeeper(GUARDED, SELEN)
    ask(keeper)
    assert isinstance(approve(keeper, "selen", "xena", NOW + 120), Refuse)
    ask(keeper, NOW + 120)
    assert isinstance(approve(keeper, "selen", "xena", NOW + 239), Admit)
    assert ask(keeper, NOW + 359) == Wait(is_new=True)


@pytest.mark.parametrize("subject", ["xena", "luna", "nobody", "selen", "?"])
def test_who_is_not_the_approver_learns_nothing(subject: str) -> None:
    """Whether somebody waits, does not wait, or is not there: the same words."""
    luna = entry("luna", "10.66.0.12/32", approve="xena")
    keeper = gatekeeper(GUARDED, SELEN, JACINTH, luna)
    ask(keeper)
    told = approve(keeper, "jacinth", subject)
    assert told == Refuse(Result.NOT_PERMITTED, "nobody of that name waits for your approval")
    assert told == approve(keeper, "selen", "luna")
    assert keeper.waiting(NOW, "jacinth") == ()
    assert ask(keeper) == Wait(is_new=False)


def test_who_waits_is_asked_about_without_a_name() -> None:
    """By anybody, also one that may do nothing else; nothing changes."""
    mute = entry("selen", "10.66.0.11/32", may=frozenset())
    keeper = gatekeeper(GUARDED, mute)
    ask(keeper)
    assert approve(keeper, "selen", None) == Keep(mute, Result.DONE)
    assert keeper.waiting(NOW) == ("xena",)


@pytest.mark.parametrize("verb", [Verb.DOWN, Verb.GONE])
@pytest.mark.parametrize("is_given", [False, True])
def test_what_is_taken_back_is_forgotten(verb: Verb, is_given: bool) -> None:
    """Asked or given, and also of a peer that may not ask for `down`."""
    keeper = gatekeeper(entry("xena", "10.66.0.10/32", approve="selen", may={"up"}), SELEN)
    ask(keeper)
    if is_given:
        approve(keeper, "selen", "xena")
    keeper.judge("xena", verb, None, NOW, AT)
    assert keeper.waiting(NOW) == ()
    assert ask(keeper) == Wait(is_new=True)


def test_nobody_is_asked_about_what_policy_refuses() -> None:
    """Nor about networks that are in use."""
    hours = entry("xena", "192.168.7.0/24", approve="selen", hours=OFFICE)
    keeper = gatekeeper(hours, SELEN, JACINTH)
    night = WEDNESDAY + 7 * HOUR
    assert isinstance(keeper.judge("xena", Verb.UP, None, NOW, night), Refuse)
    bring_up(keeper, "jacinth", Role.INITIATOR)
    assert isinstance(keeper.judge("xena", Verb.UP, None, NOW, WEDNESDAY), Refuse)
    assert keeper.waiting(NOW) == ()


def test_the_administrator_approves_who_waits() -> None:
    """Whoever else should; and nobody who does not wait."""
    keeper = gatekeeper(GUARDED, SELEN)
    assert not keeper.approve(GUARDED, NOW)
    assert not keeper.approve(SELEN, NOW)
    ask(keeper)
    assert keeper.approve(GUARDED, NOW)
    assert ask(keeper) == Open(GUARDED, HOUR)


@pytest.mark.parametrize(
    ("now", "removed"),
    [
        (entry("xena", "10.66.0.10/32", approve="jacinth"), ()),
        (entry("xena", "10.66.0.10/32", approve="selen"), (GUARDED,)),
        (entry("luna", "10.66.0.10/32", approve="selen"), (GUARDED,)),
    ],
    ids=["another approver", "another host", "another name"],
)
def test_another_file_takes_back_what_was_approved(
    now: AuthorizedPeer, removed: tuple[AuthorizedPeer, ...]
) -> None:
    """Where the approver, or whoever was approved, is another one by it."""
    keeper = gatekeeper(GUARDED, SELEN, JACINTH)
    ask(keeper)
    approve(keeper, "selen", "xena")
    keeper.replace_peers(AuthorizedPeers([now, SELEN, JACINTH]), removed)
    assert not any(keeper.approvals)
    assert keeper.judge(now.name, Verb.UP, HOUR, NOW, AT) == Wait(is_new=True)


def test_an_unchanged_entry_keeps_its_approval() -> None:
    """A reload that is about others is no reason to ask again."""
    keeper = gatekeeper(GUARDED, SELEN)
    ask(keeper)
    approve(keeper, "selen", "xena")
    keeper.replace_peers(AuthorizedPeers([GUARDED, SELEN, JACINTH]), ())
    assert ask(keeper) == Open(GUARDED, HOUR)


def test_what_this_host_asks_for_needs_nobodys_approval() -> None:
    """Its far end may then renew it."""
    keeper = gatekeeper(GUARDED, SELEN)
    keeper.check_free(GUARDED)
    bring_up(keeper, "xena", Role.INITIATOR)
    assert ask(keeper) == Keep(GUARDED, Result.UNCHANGED)
