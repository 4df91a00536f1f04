"""Which connections shall come back when they are lost, and when to ask for a lost one again.

Those that a person has pinned, whatever comes; and those that a suspend interrupts, as long as
their leases would have lasted. Owns the pins and the back-off. Sans-IO: refuses to know what a
connection is and how it comes up. `now` is seconds of the gatekeeper's clock; `jitter` in [0, 1)
spreads hosts that lost the same far end at one moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["Wish", "Wishes"]

FIRST_RETRY = 2.0  # seconds; doubled each time
LAST_RETRY = 60.0  # seconds
SPREAD = 0.25  # of these, up or down

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Wish:
    """A connection that is wanted. `lease` in seconds was asked for; None is as configured.

    It is wanted `until` a time that is infinite for what is pinned. `lost` from when it fell until
    it is up again; `retry_at` is infinite while nothing waits for it: it is up, or is being asked
    for.
    """

    name: str
    lease: int | None = None
    until: float = _NEVER
    lost: bool = False
    retry_at: float = _NEVER
    tries: int = 0

    @property
    def pinned(self) -> bool:
        """Whether it is wanted without an end."""
        return self.until == _NEVER

    @property
    def is_asked_for(self) -> bool:
        """Whether the far end is being asked for it right now."""
        return self.lost and self.retry_at == _NEVER


class Wishes:
    """The wanted connections of this host, at most as many as there are entries."""

    def __init__(self) -> None:
        self._wishes: dict[str, Wish] = {}
        self._resting = False  # the host sleeps, or is about to

    def __contains__(self, name: str) -> bool:
        return name in self._wishes

    def __iter__(self) -> Iterator[Wish]:
        return iter(tuple(self._wishes.values()))

    def get(self, name: str) -> Wish | None:
        """Return what is wanted of a connection, if anything is."""
        return self._wishes.get(name)

    def is_pinned(self, name: str) -> bool:
        """Return whether a connection is wanted whatever comes."""
        wish = self._wishes.get(name)
        return wish is not None and wish.pinned

    def retry_seconds(self, name: str, now: float) -> float | None:
        """Return how long until a lost connection is asked for: 0 during that, None if not lost."""
        wish = self._wishes.get(name)
        if wish is None or not wish.lost:
            return None
        return 0.0 if wish.is_asked_for else max(0.0, wish.retry_at - now)

    def want(self, name: str, lease: int | None, until: float = _NEVER) -> None:
        """Note that a connection is up and shall stay so, without an end or until its lease ends.

        Only a suspend needs to note what is not pinned.
        """
        self._wishes[name] = Wish(name, lease, until)

    def drop(self, name: str) -> None:
        """Note that nobody insists on it any more."""
        self._wishes.pop(name, None)

    def lose(self, name: str, now: float, jitter: float) -> None:
        """Note that a connection fell, or that asking for it failed; no matter if nobody wants it.

        Once it is known when to ask again, that stands.
        """
        wish = self._wishes.get(name)
        if wish is None or wish.retry_at != _NEVER:
            return
        pause = min(FIRST_RETRY * 2**wish.tries, LAST_RETRY) * (1 - SPREAD + 2 * SPREAD * jitter)
        tries = min(wish.tries + 1, 16)
        self._wishes[name] = replace(wish, lost=True, retry_at=now + pause, tries=tries)

    def end(self, name: str, now: float, jitter: float) -> None:
        """Note that a connection is down here: only what is pinned is still wanted then."""
        if self.is_pinned(name):
            self.lose(name, now, jitter)
        else:
            self.drop(name)

    def rest(self) -> None:
        """Ask for nothing until `wake`: the host is about to suspend."""
        self._resting = True

    def wake(self, now: float) -> None:
        """Ask again, and at once: the host has resumed."""
        self._resting = False
        self.hurry(now)

    def hurry(self, now: float) -> None:
        """Ask for everything lost at once: what was in the way may be gone."""
        for wish in self:
            if wish.retry_at != _NEVER:
                self._wishes[wish.name] = replace(wish, retry_at=now, tries=0)

    def next_due(self) -> float:
        """Return when `take_due` should be called next; infinite if nothing waits."""
        if self._resting:
            return _NEVER
        return min((wish.retry_at for wish in self), default=_NEVER)

    def take_due(self, now: float) -> list[Wish]:
        """Return what is to be asked for now; say `want` or `lose` when that has ended."""
        due = [] if self._resting else [wish for wish in self if wish.retry_at <= now]
        for wish in due:
            self._wishes[wish.name] = replace(wish, retry_at=_NEVER)
            if wish.until <= now and not wish.pinned:
                self.drop(wish.name)
        return [wish for wish in due if wish.name in self]
