"""The gatekeeper against a model: whoever asks for whatever, whenever, and time that passes.

Five entries, of which two pairs cannot be up together. Decisions are carried out, or fail. No
network ever has two holders, no lease is longer than its cap or outlives its end, `May` is obeyed,
and nobody is told of anybody else.
"""

from __future__ import annotations

from ipaddress import ip_network
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from anubis.errors import LocalFailure, Location
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers
from anubis.files.config import Production
from anubis.files.peer_stanza import Permission
from anubis.gatekeeper import Close, Due, Gatekeeper, Keep, Open, Refuse, Role
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

    def open(self, name: str, role: Role, lease: int) -> None:
        """Carry an opening out."""
        self.keeper.opened(name, role, lease, self.now, since=self.now)
        self.up[name] = role

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
