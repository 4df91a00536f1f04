"""Order the way from one network state to another: a pure function, no IO.

Owns the order, which leaves no moment with a leak or a gap:

    1. nftables tables that are new or different: confinement before anything can flow
    2. kernel parameters
    3. routes that are new
    4. rules that are new, by rising priority: exceptions before what they are excepted from
    5. rules that go, by falling priority
    6. routes that go
    7. kernel parameters that are let go
    8. nftables tables that go

Refuses to know how a step is done. Every step can be inverted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from anubis.network.state import NetworkState, NftTable, Route, Rule, Sysctl

__all__ = ["Mended", "Step", "steps"]

_NOTHING = NetworkState()


@dataclass(frozen=True, slots=True)
class Step:
    """What one operation takes away and brings: tables of one transaction, or one other thing."""

    removed: NetworkState = _NOTHING
    added: NetworkState = _NOTHING

    @property
    def inverse(self) -> Step:
        """Return the step that undoes this one."""
        return Step(self.added, self.removed)

    def after(self, state: NetworkState) -> NetworkState:
        """Return what `state` becomes by this step."""
        return (state - self.removed) | self.added


@dataclass(frozen=True, slots=True)
class Mended:
    """One thing that was not as it should be; with a `failure`, which says why, it still is not."""

    what: str  # as in "IPv4 rule 21430"
    # "vanished", "changed" or "appeared"; "remained", if it was ours to take away; "overtaken" by a
    # rule that would have had everything, and so it stands elsewhere now
    how: str
    failure: str | None = None

    @classmethod
    def by(cls, step: Step) -> Mended:
        """Return what the step mends."""
        if not step.added:
            return cls(str(step.removed), "appeared")
        return cls(str(step.added), "changed" if step.removed else "vanished")


def steps(applied: NetworkState, desired: NetworkState) -> list[Step]:
    """Return the steps from `applied` to `desired`, in their order; none where they are equal."""
    old, new = applied - desired, desired - applied
    names = {_name(table) for table in new.tables}
    replaced = frozenset(table for table in old.tables if _name(table) in names)
    names_held = {sysctl.name: sysctl for sysctl in old.sysctls}
    # Two routes to one destination cannot stand side by side in a table.
    places = {_place(route) for route in new.routes}
    displaced = [route for route in old.routes if _place(route) in places]
    rising = sorted(new.rules, key=_priority)
    falling = sorted(old.rules, key=_priority, reverse=True)
    held_on = {sysctl.name for sysctl in new.sysctls}
    ordered = [
        _tables(replaced, new.tables),
        *(_sysctl(names_held.get(sysctl.name), sysctl) for sysctl in _by_name(new.sysctls)),
        *(_remove_route(route) for route in displaced),
        *(Step(added=NetworkState(routes=frozenset({route}))) for route in new.routes),
        *(Step(added=NetworkState(rules=frozenset({rule}))) for rule in rising),
        *(Step(removed=NetworkState(rules=frozenset({rule}))) for rule in falling),
        *(_remove_route(route) for route in old.routes if route not in displaced),
        *(_sysctl(held, None) for held in _by_name(old.sysctls) if held.name not in held_on),
        _tables(old.tables - replaced, frozenset()),
    ]
    return [step for step in ordered if step.removed or step.added]


def _tables(removed: frozenset[NftTable], added: frozenset[NftTable]) -> Step:
    return Step(NetworkState(tables=removed), NetworkState(tables=added))


def _sysctl(old: Sysctl | None, new: Sysctl | None) -> Step:
    removed, added = (frozenset({one} if one else ()) for one in (old, new))
    return Step(NetworkState(sysctls=removed), NetworkState(sysctls=added))


def _remove_route(route: Route) -> Step:
    return Step(removed=NetworkState(routes=frozenset({route})))


def _name(table: NftTable) -> tuple[str, str]:
    return table.family, table.name


def _place(route: Route) -> tuple[object, int]:
    return route.destination, route.table


def _priority(rule: Rule) -> tuple[int, int]:
    return rule.priority, rule.family


def _by_name(sysctls: Iterable[Sysctl]) -> list[Sysctl]:
    return sorted(sysctls, key=lambda sysctl: sysctl.name)
