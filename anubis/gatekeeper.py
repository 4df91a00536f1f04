"""Who may have which connection, and for how long: requests in, decisions out.

Owns the table of connections, the policy of the authorized-peers file and the leases. Sans-IO:
refuses to know WireGuard, routes, datagrams and clocks. `now` is seconds of a clock that neither
jumps nor stops in suspend (CLOCK_BOOTTIME), `at` seconds since 1970, for what people set by the
calendar. A decision is carried out by others, who then say
`opened` or `closed`; until they do, nothing has changed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from math import inf

from anubis.approvals import Approvals
from anubis.errors import LocalFailure, UnknownConnection, nearest
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers, overlaps
from anubis.files.config import Production
from anubis.protocol.wire import Result, Verb
from anubis.wishes import Wishes

__all__ = [
    "Admit",
    "Close",
    "Connection",
    "Decision",
    "Due",
    "Gatekeeper",
    "Keep",
    "Open",
    "Refuse",
    "Role",
    "Wait",
    "retry_seconds",
]

_LONGEST = 2**31  # seconds; longer than any lease
_NOBODY_WAITS = "nobody of that name waits for your approval"  # nor need there be one
RETRY_SECONDS = 15.0  # between renewals that found no answer; an eighth of a short lease
SHORTEST_RETRY = 1.0  # seconds


class Role(Enum):
    """Who asked for a connection: this host, or the other."""

    INITIATOR = "initiator"
    RESPONDER = "responder"


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that is up."""

    name: str
    role: Role
    since: float  # seconds since 1970, to be shown
    lease: int  # seconds granted at the last request
    expires: float  # in the terms of `now`
    renew_at: float  # in the terms of `now`; infinite for a responder


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer no."""

    result: Result
    reason: str


@dataclass(frozen=True, slots=True)
class Open:
    """Install the peer, then say `opened`."""

    peer: AuthorizedPeer
    lease: int  # seconds


@dataclass(frozen=True, slots=True)
class Close:
    """Remove the peer, then say `closed`."""

    peer: AuthorizedPeer


@dataclass(frozen=True, slots=True)
class Keep:
    """Install nothing, answer the state as it is."""

    peer: AuthorizedPeer
    result: Result
    reason: str = ""  # why an `up` would be refused now, of a connection that is down


@dataclass(frozen=True, slots=True)
class Admit:
    """Somebody else was approved: install it for him if nobody there will ask again."""

    peer: AuthorizedPeer


@dataclass(frozen=True, slots=True)
class Wait:
    """Answer that somebody else has to approve; `is_new` if nobody has been asked yet."""

    is_new: bool


Decision = Refuse | Open | Close | Keep | Admit | Wait


class Due(Enum):
    """What a moment brings to a connection."""

    RENEW = "renew"
    EXPIRE = "expire"


class Gatekeeper:
    """The policy and the connections of this host."""

    def __init__(self, peers: AuthorizedPeers, production: Production) -> None:
        self.peers = peers
        self.wishes = Wishes()
        self.approvals = Approvals()
        self.unfinished: dict[str, float] = {}  # until when the far end may have what we have not
        self.ended: dict[str, str] = {}  # why, of what was up and is down
        self.bare: set[str] = set()  # who has WireGuard only: nobody there can be told anything
        self._production = production
        self._connections: dict[str, Connection] = {}

    def peer(self, name: str) -> AuthorizedPeer:
        """Return the entry of that name. Raises UnknownConnection, with the nearest name."""
        peer = self.peers.by_name(name)
        if peer is None:
            hint = nearest(name, self.peers.names()) or "anubis status lists the connections"
            raise UnknownConnection(f"no connection is called {name!r}", hint)
        return peer

    def connection(self, name: str) -> Connection | None:
        """Return the connection of that name if it is up."""
        return self._connections.get(name)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._connections.values()))

    def up_peers(self) -> tuple[AuthorizedPeer, ...]:
        """Return the entries whose connections are up."""
        return tuple(self.peer(name) for name in self._connections)

    def check_current(self, peer: AuthorizedPeer) -> None:
        """Raise LocalFailure if the administrator has removed or changed an entry meanwhile."""
        now = self.peers.by_name(peer.name)
        if now != peer:
            done = "changed" if now else "removed"
            raise LocalFailure(f"{peer.name} was {done} in {peer.location.path} meanwhile")

    def replace_peers(self, peers: AuthorizedPeers, removed: Iterable[AuthorizedPeer]) -> None:
        """Have another file in force; nothing is known any more of entries that are gone."""
        self.peers = peers
        for peer in removed:
            self.closed(peer.name)
            self.ended.pop(peer.name, None)
            self.bare.discard(peer.name)
            self.settled(peer.name)
            self.wishes.drop(peer.name)
            self.approvals.forget(peer.name)
        for plea in self.approvals:
            peer_now = peers.by_name(plea.name)
            if peer_now is None or peer_now.approve != plea.approver:
                self.approvals.forget(plea.name)

    # What others ask of us

    def judge(
        self,
        name: str,
        verb: Verb,
        lease: int | None,
        now: float,
        at: float,
        *,
        subject: str | None = None,
    ) -> Decision:
        """Decide on an authentic, fresh request of the peer called `name`, about itself.

        Only an `approve` is about another, its `subject`; without one it only asks who waits.
        """
        peer = self.peer(name)
        connection = self._connections.get(name)
        match verb:
            case Verb.UP:
                return self._judge_up(peer, connection, lease, now, at)
            case Verb.DOWN | Verb.GONE:
                return self._judge_end(peer, connection, verb)
            case Verb.RENEW if connection is None:
                # Why it ended, for an initiator that could not be told then.
                reason = self.ended.get(name) or "the connection is not up here"
                return Refuse(Result.NO_CONNECTION, reason)
            case Verb.RENEW:
                return self._judge_up(peer, connection, lease, now, at, renewal=True)
            case Verb.STATUS if "status" not in peer.may:
                return _not_permitted(verb)
            case Verb.STATUS:
                return Keep(peer, Result.DONE, self._why_not(peer, connection, at))
            case Verb.APPROVE:
                return self._judge_approval(peer, subject, now)

    def _judge_end(
        self, peer: AuthorizedPeer, connection: Connection | None, verb: Verb
    ) -> Decision:
        self.approvals.forget(peer.name)  # what it asked for is not wanted any more
        if verb is Verb.DOWN and "down" not in peer.may:
            return _not_permitted(verb)
        if connection is not None:
            return Close(peer)
        if verb is Verb.GONE:
            return Refuse(Result.NO_CONNECTION, "the connection is not up here")
        return Keep(peer, Result.UNCHANGED)

    def _judge_approval(
        self, approver: AuthorizedPeer, subject: str | None, now: float
    ) -> Decision:
        if subject is None:
            return Keep(approver, Result.DONE)
        peer = self.peers.by_name(subject)
        if peer is None or peer.approve != approver.name:
            return Refuse(Result.NOT_PERMITTED, _NOBODY_WAITS)
        if peer.name in self._connections or self.approvals.has(peer.name, peer.approve, now):
            return Keep(approver, Result.UNCHANGED)
        if not self.approve(peer, now):
            return Refuse(Result.NOT_PERMITTED, _NOBODY_WAITS)
        return Admit(peer)

    def approve(self, peer: AuthorizedPeer, now: float) -> bool:
        """Approve a peer, whoever does; return whether it waited for that."""
        return peer.approve is not None and self.approvals.give(peer.name, peer.approve, now)

    def waiting(self, now: float, approver: str | None = None) -> tuple[str, ...]:
        """Return who waits for an approval, of anybody or of one approver."""
        return tuple(plea.name for plea in self.approvals.waiting(now, approver))

    def _why_not(self, peer: AuthorizedPeer, connection: Connection | None, at: float) -> str:
        """Return why an `up` would be refused; of what is up there is nothing to say."""
        if connection is not None:
            return ""
        refusal = self._refusal(peer, peer.seconds_left(at), is_ours=False)
        return refusal.reason if refusal else ""

    def _refusal(self, peer: AuthorizedPeer, left: float, *, is_ours: bool) -> Refuse | None:
        """Return the no to an `up` of a peer whose entry leaves it so many seconds."""
        if "up" not in peer.may and not is_ours:
            return _not_permitted(Verb.UP)
        if left < 1:
            return Refuse(Result.NOT_PERMITTED, "not at this time, says the administrator")
        if self.holder(peer) is not None:
            # The peer must not learn from us who else is authorized.
            return Refuse(Result.CONFLICT, "its AllowedIPs are in use by another connection here")
        return None

    def _judge_up(
        self,
        peer: AuthorizedPeer,
        connection: Connection | None,
        lease: int | None,
        now: float,
        at: float,
        *,
        renewal: bool = False,
    ) -> Decision:
        is_ours = connection is not None and connection.role is Role.INITIATOR
        left = inf if is_ours else peer.seconds_left(at)
        refusal = self._refusal(peer, left, is_ours=is_ours)
        if refusal is not None:
            return refusal
        granted = min(self.grant(peer, lease), int(min(left, _LONGEST)))
        if connection is None:
            if peer.approve and not self.approvals.has(peer.name, peer.approve, now):
                return Wait(is_new=self.approvals.ask(peer.name, peer.approve, now))
            return Open(peer, granted)
        if connection.role is Role.RESPONDER:
            self.extend(peer.name, granted, now)
        return Keep(peer, Result.DONE if renewal else Result.UNCHANGED)

    def grant(self, peer: AuthorizedPeer, wanted: int | None) -> int:
        """Return the lease for a peer, in seconds: what it wants, within its cap."""
        cap = peer.max_lease_seconds or self._production.max_lease_seconds
        return max(1, min(self.wanted_lease(peer, wanted), cap))

    def wanted_lease(self, peer: AuthorizedPeer, wanted: int | None) -> int:
        """Return the lease that is asked for when nobody says otherwise."""
        return wanted or peer.lease_seconds or self._production.lease_seconds

    def idle_timeout(self, connection: Connection) -> int:
        """Return for how many seconds a connection may be idle; 0 is for ever.

        Only who granted a connection ends it for that.
        """
        if connection.role is Role.INITIATOR:
            return 0
        own = self.peer(connection.name).idle_timeout
        return self._production.idle_timeout if own is None else own

    # What we ask of others

    def holder(self, peer: AuthorizedPeer) -> AuthorizedPeer | None:
        """Return an up connection that holds one of the peer's networks, exactly as long.

        Longer and shorter networks live side by side, as in every routing table; the same one
        twice would be moved silently from one WireGuard peer to the other.
        """
        for other in self.up_peers():
            if other.name != peer.name and other.allowed_ips & peer.allowed_ips:
                return other
        return None

    def rivals(self, peer: AuthorizedPeer) -> tuple[AuthorizedPeer, ...]:
        """Return the up connections that share routes with the peer: what `switch` replaces."""
        return tuple(
            other for other in self.up_peers() if other.name != peer.name and overlaps(peer, other)
        )

    def check_free(self, peer: AuthorizedPeer) -> None:
        """Raise LocalFailure if another connection holds the peer's networks."""
        holder = self.holder(peer)
        if holder is not None:
            shared = ", ".join(sorted(map(str, holder.allowed_ips & peer.allowed_ips)))
            raise LocalFailure(
                f"{shared}: in use by the connection {holder.name}, which is up",
                f"anubis switch {peer.name} moves over; anubis down {holder.name} ends it",
            )

    # What was carried out

    def opened(
        self, name: str, role: Role, lease: int, now: float, *, since: float, jitter: float = 0.0
    ) -> Connection:
        """Note that a connection is up. `jitter` in [0, 1) spreads renewals."""
        old = self._connections.get(name)
        connection = Connection(
            name=name,
            role=role,
            since=old.since if old else since,
            lease=lease,
            expires=now + lease,
            renew_at=_renew_at(role, lease, now, jitter),
        )
        self._connections[name] = connection
        self.ended.pop(name, None)
        self.approvals.forget(name)
        return connection

    def extend(self, name: str, lease: int, now: float, jitter: float = 0.0) -> None:
        """Note a lease that was granted anew."""
        old = self._connections[name]
        self._connections[name] = replace(
            old,
            lease=lease,
            expires=now + lease,
            renew_at=_renew_at(old.role, lease, now, jitter),
        )

    def curtail(self, name: str, now: float, at: float) -> None:
        """Have what was granted end no later than the entry says by now."""
        old = self._connections.get(name)
        if old is not None and old.role is Role.RESPONDER:
            ends = min(old.expires, now + self.peer(name).seconds_left(at))
            self._connections[name] = replace(old, expires=ends)

    def postpone(self, name: str, now: float) -> None:
        """Note that a renewal found no answer: try again soon."""
        old = self._connections.get(name)
        if old is not None:
            self._connections[name] = replace(old, renew_at=now + retry_seconds(old.lease))

    def hasten(self, name: str, now: float) -> None:
        """Have a connection renewed at once: something may be in the way of it."""
        old = self._connections.get(name)
        if old is not None and old.role is Role.INITIATOR:
            self._connections[name] = replace(old, renew_at=now)

    def closed(self, name: str, reason: str = "") -> None:
        """Note that a connection is down; if it was up, remember why it ended."""
        if self._connections.pop(name, None) is not None and reason:
            self.ended[name] = reason

    def begun(self, name: str, until: float) -> None:
        """Note, before the far end is asked, that the two ends are about to differ.

        Whoever finds this after a crash takes the connection down at both ends. `until` is when the
        far end's lease ends at the latest.
        """
        self.unfinished[name] = until

    def settled(self, name: str) -> None:
        """Note that the ends agree again."""
        self.unfinished.pop(name, None)

    def adopt(self, connection: Connection) -> None:
        """Take up a connection of an earlier run of the daemon."""
        self._connections[connection.name] = connection

    # What time brings

    def next_due(self) -> float:
        """Return when `due` should be asked next; infinite while nothing is up."""
        moments = [self._moment(connection) for connection in self]
        return min([self.wishes.next_due(), *moments])

    def _moment(self, connection: Connection) -> float:
        """Return when a connection is due; one that is pinned outlives its lease.

        What is lost is not renewed but asked for anew, and while that lasts it does not end.
        """
        wish = self.wishes.get(connection.name)
        if wish is None:
            return min(connection.expires, connection.renew_at)
        if not wish.lost:
            return connection.renew_at
        return float("inf") if wish.pinned or wish.is_asked_for else connection.expires

    def due(self, now: float) -> list[tuple[Due, Connection]]:
        """Return what is to be done now. Ask again after it is done, or postponed."""
        found: list[tuple[Due, Connection]] = []
        for connection in self:
            if now >= self._moment(connection):
                ends = now >= connection.expires and not self.wishes.is_pinned(connection.name)
                found.append((Due.EXPIRE if ends else Due.RENEW, connection))
        return found


def retry_seconds(lease: int) -> float:
    """Return how long after a renewal without an answer the next one is due."""
    return min(RETRY_SECONDS, max(SHORTEST_RETRY, lease / 8))


def _not_permitted(verb: Verb) -> Refuse:
    return Refuse(Result.NOT_PERMITTED, f"the administrator does not let you ask for {verb.name}")


def _renew_at(role: Role, lease: int, now: float, jitter: float) -> float:
    """Half of the lease, less up to a tenth of it, so that hosts do not renew in step."""
    return now + lease * (0.5 - jitter / 10) if role is Role.INITIATOR else float("inf")
