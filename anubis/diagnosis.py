"""What the daemon finds on the chain from here to a far end, as values and as the JSON of docs.

The same way as `events`: `to_json` writes, `from_json` reads and raises ValueError with the key
that is at fault. Owns the links of the chain, and which exit status each stands for. Refuses to
know how anything is found out.

The chain begins with this host, goes on along the way and ends with what both ends do together: so
the first broken link is not merely the effect of a later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from anubis.errors import ConfigError, DaemonNotRunning, LocalFailure, NoAnswer, Refused

__all__ = ["BROKEN", "LINKS", "OK", "SKIPPED", "UNKNOWN", "Check", "Diagnosis"]

OK = "ok"
BROKEN = "broken"
UNKNOWN = "unknown"  # it could not be looked at, or does not tell
SKIPPED = "skipped"  # there is nothing to look at, or an earlier link is broken

# In their order; each with the exit status that it stands for when it is the first broken one.
LINKS = {
    "files": ConfigError.exit_status,
    "daemon": DaemonNotRunning.exit_status,
    "peer": LocalFailure.exit_status,
    "routes": LocalFailure.exit_status,
    "rules": LocalFailure.exit_status,
    "rp_filter": LocalFailure.exit_status,
    "firewall": LocalFailure.exit_status,
    "reachability": NoAnswer.exit_status,
    "control_handshake": NoAnswer.exit_status,
    "far_daemon": NoAnswer.exit_status,
    "policy": Refused.exit_status,
    "production_handshake": NoAnswer.exit_status,
    "mtu": NoAnswer.exit_status,
    "return_path": NoAnswer.exit_status,
    "clock": LocalFailure.exit_status,
}


@dataclass(frozen=True, slots=True)
class Check:
    """One link: its name, its state, what was found, and what mends it."""

    name: str
    state: str
    finding: str
    remedy: str | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Check:
        """Read the JSON object of a check. Raises ValueError."""
        remedy = None if data.get("remedy") is None else _text(data, "remedy")
        return cls(_text(data, "name"), _text(data, "state"), _text(data, "finding"), remedy)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The chain to one far end; `state` is that of the connection here, None if nobody knows."""

    connection: str
    state: str | None
    checks: tuple[Check, ...]

    @property
    def broken(self) -> Check | None:
        """The first broken link."""
        return next((check for check in self.checks if check.state == BROKEN), None)

    @property
    def exit_status(self) -> int:
        """0 if nothing is broken, else that of the first broken link."""
        broken = self.broken
        return 0 if broken is None else LINKS.get(broken.name, LocalFailure.exit_status)

    def to_json(self) -> dict[str, object]:
        """Return the JSON object of this diagnosis."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Diagnosis:
        """Read the JSON object of a diagnosis. Raises ValueError."""
        checks = data.get("checks")
        if not isinstance(checks, list) or not all(isinstance(each, dict) for each in checks):
            raise ValueError("checks is not a list of objects")
        state = None if data.get("state") is None else _text(data, "state")
        return cls(_text(data, "connection"), state, tuple(map(Check.from_json, checks)))


def _text(data: Mapping[str, object], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is missing or is not of type str")  # noqa: TRY004 (as in `events`)
    return value
