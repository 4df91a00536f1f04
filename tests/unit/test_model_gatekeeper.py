"""The gatekeeper against a model: whoever asks for whatever, whenever, and time that passes.

Five entries, of which two pairs cannot be up together, and two have approvers. Decisions are
carried out, or fail. No network ever has two holders, no lease is longer than its cap or outlives
its end, `May` is obeyed, nothing is opened that was not approved in time, and nobody is told of
anybody else.
"""

from __future__ import annotations

from ipaddress import ip_network
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from anubis.approvals import APPROVAL_SECONDS
from anubis.errors import LocalFailure, Location
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers
from anubis.files.config import Production
from anubis.files.peer_stanza import Permission
from anubis.gatekeeper import Admit, Close, Due, Gatekeeper, Keep, Open, Refuse, Role, Wait
from anubis.protocol.wire import Result, Verb
from anubis.wireguard.keys import PublicKey

pytestmark = pytest.mark.timeout(7200)  # the long profile takes its time

CAP = 24 * 3600  # seconds: the default of [Production]
VERBS: tuple[Permission, ...] = ("up", "down", "status")
# name: AllowedIPs, May, MaxLease
TABLE: dict[str, tuple[str, str, int | None]] = {
    "xena": ("10.66.0.10/32 fd66::10/128", "up down status", None),
    "jacinth": ("192.168.7.0/24", "up down status", None),
    "surya": ("192.168.7.0/24 10.9.0.0/16", "up down status", 7200),
    "guest": ("10.9.0.0/16", "up", 60),
    "ariadne": ("192.168.7.0/25", "", None),  # lives side by side with the longer network
}
NAMES = sorted(TABLE)
APPROVERS = {"guest": "xena", "surya": "guest"}
LEASES = st.one_of(st.none(), st.integers(1, 2**32 - 1), st.sampled_from([1, 60, 3600]))


def entries() -> AuthorizedPeers:
    """Return the file."""
    return AuthorizedPeers(
        [
            AuthorizedPeer(
                name=name,
                public_key=PublicKey(bytes([number] * 32)),
                control_public_key=PublicKey(bytes([number + 100] * 32)),
                preshared_key=None,
                allowed_ips=frozenset(map(ip_network, allowed.split())),
                endpoint=None,
                control_endpoint=None,
                persistent_keepalive=0,
                lease_seconds=None,
                max_lease_seconds=cap,
                may=frozenset(verb for verb in VERBS if verb in may.split()),
                group=None,
                approve=APPROVERS.get(name),
                location=Location(Path("authorized_peers"), number),
            )
            for number, (name, (allowed, may, cap)) in enumerate(TABLE.items(), 1)
        ]
    )


class GatekeeperModel(RuleBasedStateMachine):
    """One host and what becomes of its connections."""

    def __init__(self) -> None:
        super().__init__()
        self.keeper = Gatekeeper(entries(), Production(private_key_file=Path("production.key")))
        self.now = 1000.0
        self.up: dict[str, Role] = {}
        self.asked: dict[str, float] = {}  # until when
        self.approved: dict[str, float] = {}

    def open(self, name: str, role: Role, lease: int) -> None:
        """Carry an opening out."""
        self.keeper.opened(name, role, lease, self.now, since=self.now)
        self.up[name] = role
        self.asked.pop(name, None)
        self.approved.pop(name, None)

    def close(self, name: str) -> None:
        """Carry a closing out."""
        self.keeper.closed(name)
        self.up.pop(name, None)

    def check_refusal(self, name: str, verb: Verb, refusal: Refuse) -> None:
        """Find the reason of a refusal in the table; it tells of nobody else."""
        assert not any(other in refusal.reason for other in NAMES if other != name)
        may = TABLE[name][1].split()
        mine = set(TABLE[name][0].split())
        match refusal.result:
            case Result.NOT_PERMITTED if verb is Verb.APPROVE:
                pass  # `approve` sees whether that is right
            case Result.NOT_PERMITTED:
                word = "up" if verb is Verb.RENEW else verb.name.lower()
                assert word in {"up", "down", "status"}
                assert word not in may
            case Result.CONFLICT:
                held = [set(TABLE[other][0].split()) for other in self.up if other != name]
                assert any(mine & networks for networks in held)
            case Result.NO_CONNECTION:
                assert verb in {Verb.RENEW, Verb.GONE}
                assert name not in self.up
            case _:
                raise AssertionError(refusal)

    @rule(
        name=st.sampled_from(NAMES),
        verb=st.sampled_from(Verb),
        lease=LEASES,
        works=st.sampled_from([True, True, True, False]),
    )
    def request(self, name: str, verb: Verb, lease: int | None, works: bool) -> None:
        """Have a peer ask; carry out what is decided, unless that fails."""
        self.take_back(name, verb)
        decision = self.keeper.judge(name, verb, lease, self.now, self.now)
        cap = TABLE[name][2] or CAP
        may = TABLE[name][1].split()
        if verb.name.lower() in VERBS and not isinstance(decision, Refuse):
            # What this host asked for itself may also be renewed by the other.
            assert verb.name.lower() in may or self.up.get(name) is Role.INITIATOR
            assert verb is Verb.UP or verb.name.lower() in may
        match decision:
            case Refuse():
                self.check_refusal(name, verb, decision)
            case Open(peer, granted):
                assert peer.name == name
                assert name not in self.up
                assert "up" in may
                assert name not in APPROVERS or self.now < self.approved.get(name, 0)
                assert 1 <= granted <= min(cap, lease or cap)
                if works:
                    self.open(name, Role.RESPONDER, granted)
            case Close(peer):
                assert peer.name == name
                assert name in self.up
                if works:
                    self.close(name)
            case Keep(peer):
                assert peer.name == name
            case Wait():
                self.check_wait(name, verb)
            case Admit():
                raise AssertionError("nobody was named")

    def take_back(self, name: str, verb: Verb) -> None:
        """Forget what a peer asked for that says that it is down."""
        if verb in (Verb.DOWN, Verb.GONE):
            self.asked.pop(name, None)
            self.approved.pop(name, None)

    def check_wait(self, name: str, verb: Verb) -> None:
        """See that who has to wait needs an approval, and has none."""
        assert (verb, name in APPROVERS, name in self.up) == (Verb.UP, True, False)
        assert self.now >= self.approved.pop(name, 0)
        self.asked[name] = self.now + APPROVAL_SECONDS

    @rule(name=st.sampled_from(NAMES), subject=st.sampled_from([*NAMES, "nobody"]))
    def approve(self, name: str, subject: str) -> None:
        """Have a peer approve another: done exactly if that one waits for it."""
        told = {*self.keeper.waiting(self.now, name)}
        waits = {each for each, until in self.asked.items() if self.now < until}
        assert told == {each for each in waits if APPROVERS[each] == name}
        decision = self.keeper.judge(name, Verb.APPROVE, None, self.now, self.now, subject=subject)
        match decision:
            case Admit(peer):
                assert peer.name == subject
                assert subject in told
                assert subject not in self.up
                del self.asked[subject]
                self.approved[subject] = self.now + APPROVAL_SECONDS
            case Keep(peer, result):
                assert (peer.name, result) == (name, Result.UNCHANGED)
                assert APPROVERS[subject] == name
                assert subject in self.up or self.now < self.approved[subject]
            case Refuse():
                assert subject not in told
                self.check_refusal(name, Verb.APPROVE, decision)
            case _:
                raise AssertionError(decision)

    @rule(name=st.sampled_from(NAMES), lease=st.integers(1, CAP))
    def ask_others(self, name: str, lease: int) -> None:
        """Bring a connection up from here: refused exactly if somebody holds its networks."""
        peer = self.keeper.peer(name)
        mine = set(TABLE[name][0].split())
        taken = any(mine & set(TABLE[other][0].split()) for other in self.up if other != name)
        try:
            self.keeper.check_free(peer)
        except LocalFailure:
            assert taken
        else:
            assert not taken
            self.open(name, Role.INITIATOR, self.keeper.grant(peer, lease))

    @rule(name=st.sampled_from(NAMES))
    def switch(self, name: str) -> None:
        """Move over: whoever shares routes with it goes, then nobody is in its way."""
        for rival in self.keeper.rivals(self.keeper.peer(name)):
            self.close(rival.name)
        self.keeper.check_free(self.keeper.peer(name))
        self.open(name, Role.INITIATOR, 3600)

    @rule(passing=st.floats(0.0, 2 * CAP), answered=st.booleans())
    def wait(self, passing: float, answered: bool) -> None:
        """Let time pass, and do what it brings; a renewal may find no answer."""
        self.now += passing
        overdue = self.keeper.next_due() <= self.now
        due = self.keeper.due(self.now)
        assert bool(due) is overdue
        for what, connection in due:
            match what:
                case Due.EXPIRE:
                    assert connection.expires <= self.now
                    self.close(connection.name)
                case Due.RENEW:
                    assert self.up[connection.name] is Role.INITIATOR
                    if answered:
                        self.keeper.extend(connection.name, connection.lease, self.now, self.now)
                    else:
                        self.keeper.postpone(connection.name, self.now)
        assert all(connection.expires > self.now for connection in self.keeper)

    @invariant()
    def no_network_has_two_holders(self) -> None:
        """Of all that are up, as the gatekeeper has it, no two hold one network."""
        names = [connection.name for connection in self.keeper]
        for one, other in combinations(names, 2):
            assert not set(TABLE[one][0].split()) & set(TABLE[other][0].split())

    @invariant()
    def connections_are_those_that_were_opened(self) -> None:
        """Know exactly what was opened and not closed, each within its cap."""
        assert {connection.name: connection.role for connection in self.keeper} == self.up
        for connection in self.keeper:
            cap = TABLE[connection.name][2] or CAP
            if connection.role is Role.RESPONDER:
                assert connection.expires <= self.now + cap


TestGatekeeperModel = GatekeeperModel.TestCase
