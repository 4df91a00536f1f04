"""Who waits for whose approval, and who has it: for as long as a person may take, and once.

Owns the deadlines of both. Sans-IO: refuses to know what an approval lets somebody do, and who may
be asked for one. `now` is seconds of the gatekeeper's clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["APPROVAL_SECONDS", "ASK_AGAIN_SECONDS", "Approvals", "Plea"]

APPROVAL_SECONDS = 120.0  # to approve in, since it was asked for last; and to use it in
ASK_AGAIN_SECONDS = 2.0  # between askings of one who waits


@dataclass(frozen=True, slots=True)
class Plea:
    """Somebody wants what `approver` has to agree to; it stands `until` a time, asked or given."""

    name: str
    approver: str
    until: float
    given: bool = False


class Approvals:
    """The pleas of a host, at most one for each entry that has an approver."""

    def __init__(self) -> None:
        self._pleas: dict[str, Plea] = {}

    def __iter__(self) -> Iterator[Plea]:
        return iter(tuple(self._pleas.values()))

    def ask(self, name: str, approver: str, now: float) -> bool:
        """Note that somebody asks for an approval that he has not; return whether that is new."""
        is_new = not self.is_waiting(name, approver, now)
        if is_new:
            self._pleas = {each.name: each for each in self._pleas.values() if now < each.until}
        self._pleas[name] = Plea(name, approver, now + APPROVAL_SECONDS)
        return is_new

    def waiting(self, now: float, approver: str | None = None) -> tuple[Plea, ...]:
        """Return who waits, of all or of one approver, those first whose time is up first."""
        found = [
            plea
            for plea in self._pleas.values()
            if now < plea.until and not plea.given and approver in {None, plea.approver}
        ]
        return tuple(sorted(found, key=lambda plea: (plea.until, plea.name)))

    def is_waiting(self, name: str, approver: str, now: float) -> bool:
        """Tell whether somebody waits for this approver."""
        plea = self._get(name, approver, now)
        return plea is not None and not plea.given

    def is_pending(self, name: str, now: float) -> bool:
        """Tell whether somebody has asked for an approval that is neither used nor out of date."""
        plea = self._pleas.get(name)
        return plea is not None and now < plea.until

    def has(self, name: str, approver: str, now: float) -> bool:
        """Tell whether somebody has an approval that was this approver's to give."""
        plea = self._get(name, approver, now)
        return plea is not None and plea.given

    def give(self, name: str, approver: str, now: float) -> bool:
        """Approve somebody who waits, and return whether he did; it can be used for as long."""
        if not self.is_waiting(name, approver, now):
            return False
        self._pleas[name] = Plea(name, approver, now + APPROVAL_SECONDS, given=True)
        return True

    def forget(self, name: str) -> None:
        """Note that it was used, or is not wanted any more."""
        self._pleas.pop(name, None)

    def _get(self, name: str, approver: str, now: float) -> Plea | None:
        plea = self._pleas.get(name)
        return plea if plea and plea.approver == approver and now < plea.until else None
