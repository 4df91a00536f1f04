"""What a call of the HTTP API asks for, read strictly: `docs/api.md`, "Calls".

Bytes and text in, a value or an error out. Refuses to know sockets, aiohttp and who calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from anubis.errors import BadRequest, nearest
from anubis.events import DEFAULT_TIMEOUT, LEASE_SECONDS, TIMEOUT_SECONDS, check_name

__all__ = [
    "MAX_BODY",
    "ApproveCall",
    "Change",
    "EventsCall",
    "LogCall",
    "MetricsCall",
    "NoSuchCall",
    "PlanCall",
    "ReloadCall",
    "StatusCall",
    "Terms",
    "TooLarge",
    "Verb",
    "WhyCall",
    "WrongMethod",
    "parse_call",
]

MAX_BODY = 65536  # bytes

Verb = Literal["up", "down", "switch"]

_STATUS = re.compile(r"/v1/status(?:/(?P<name>[^/]+))?")
_LOG = re.compile(r"/v1/connections/(?P<name>[^/]+)/log")
_RELOAD = "/v1/reload"
_APPROVE = "/v1/approve"
_CHANGE = re.compile(r"/v1/connections/(?P<name>[^/]+)/(?P<verb>up|down|switch)")
_PLAN = re.compile(r"/v1/connections/(?P<name>[^/]+)/plan")
_WHY = re.compile(r"/v1/connections/(?P<name>[^/]+)/why")


class NoSuchCall(BadRequest):
    """Nothing is at this path."""


class WrongMethod(BadRequest):
    """Something is at this path, but not for this method."""


class TooLarge(BadRequest):
    """The body is longer than MAX_BODY."""


@dataclass(frozen=True, slots=True)
class StatusCall:
    """Read one connection, or all of them."""

    name: str | None


@dataclass(frozen=True, slots=True)
class LogCall:
    """Read what happened to one connection."""

    name: str


@dataclass(frozen=True, slots=True)
class EventsCall:
    """Listen to what happens."""


@dataclass(frozen=True, slots=True)
class MetricsCall:
    """Read what is counted and measured."""


_READINGS: dict[str, EventsCall | MetricsCall] = {
    "/v1/events": EventsCall(),
    "/v1/metrics": MetricsCall(),
}


@dataclass(frozen=True, slots=True)
class ReloadCall:
    """Read the authorized-peers file anew; in a `dry_run` only tell what that would change."""

    verb = "reload"
    dry_run: bool = False

    def with_body(self, body: bytes) -> ReloadCall:
        """Return this call as its body wants it. Raises BadRequest."""
        wishes = _parse_object(body)
        for key in wishes:
            if key != "dry_run":
                hint = nearest(key[:64], ["dry_run"])
                raise BadRequest(f"unknown key in the body: {key[:64]!r}", hint)
        return ReloadCall(_boolean("dry_run", wishes.get("dry_run", False)))


@dataclass(frozen=True, slots=True)
class ApproveCall:
    """Approve a connection, here or `at` another host; without a name, tell who waits there."""

    verb = "approve"
    name: str | None = None
    at: str | None = None
    timeout_seconds: float = DEFAULT_TIMEOUT

    def with_body(self, body: bytes) -> ApproveCall:
        """Return this call as its body wants it. Raises BadRequest."""
        wishes = _parse_object(body)
        known = ("name", "at", "timeout_seconds")
        for key in wishes:
            if key not in known:
                raise BadRequest(f"unknown key in the body: {key[:64]!r}", nearest(key[:64], known))
        timeout = _timeout(wishes.get("timeout_seconds", DEFAULT_TIMEOUT))
        return ApproveCall(_name(wishes, "name"), _name(wishes, "at"), timeout)


@dataclass(frozen=True, slots=True)
class PlanCall:
    """Tell what an `up` of a connection would do."""

    verb = "plan"
    name: str

    def with_body(self, body: bytes) -> PlanCall:
        """Return this call; a body can want nothing. Raises BadRequest."""
        _check_wants_nothing(body)
        return self


@dataclass(frozen=True, slots=True)
class WhyCall:
    """Look along the chain to the far end of a connection."""

    verb = "why"
    name: str

    def with_body(self, body: bytes) -> WhyCall:
        """Return this call; a body can want nothing. Raises BadRequest."""
        _check_wants_nothing(body)
        return self


@dataclass(frozen=True, slots=True)
class Terms:
    """How a connection is wanted: for how long, and how long its far end is waited for.

    No lease leaves it to the configuration. What is `pinned` is renewed, and brought up again,
    until somebody takes it down.
    """

    lease_seconds: int | None = None
    timeout_seconds: float = DEFAULT_TIMEOUT
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """Change one connection; a `down` has of the terms only the time to wait."""

    verb: Verb
    name: str
    terms: Terms = Terms()

    def with_body(self, body: bytes) -> Change:
        """Return this change as its body wants it. Raises BadRequest."""
        wishes = _parse_object(body)
        known: tuple[str, ...] = ("lease_seconds", "timeout_seconds", "pinned")
        if self.verb == "down":
            known = ("timeout_seconds",)
        for key in wishes:
            if key not in known:
                raise BadRequest(f"unknown key in the body: {key[:64]!r}", nearest(key[:64], known))
        terms = Terms(
            _lease(wishes.get("lease_seconds")),
            _timeout(wishes.get("timeout_seconds", DEFAULT_TIMEOUT)),
            _boolean("pinned", wishes.get("pinned", False)),
        )
        return replace(self, terms=terms)


def parse_call(
    method: str, path: str, query: str
) -> (
    StatusCall
    | LogCall
    | EventsCall
    | MetricsCall
    | ReloadCall
    | ApproveCall
    | PlanCall
    | WhyCall
    | Change
):
    """Read the request line, of a change all but its body. Raises BadRequest."""
    if match := _STATUS.fullmatch(path):
        _check_request_line("GET", method, query)
        return StatusCall(match["name"] and check_name(match["name"]))
    if match := _LOG.fullmatch(path):
        _check_request_line("GET", method, query)
        return LogCall(check_name(match["name"]))
    if reading := _READINGS.get(path):
        _check_request_line("GET", method, query)
        return reading
    if path == _RELOAD:
        _check_request_line("POST", method, query)
        return ReloadCall()
    if path == _APPROVE:
        _check_request_line("POST", method, query)
        return ApproveCall()
    if match := _PLAN.fullmatch(path):
        _check_request_line("POST", method, query)
        return PlanCall(check_name(match["name"]))
    if match := _WHY.fullmatch(path):
        _check_request_line("POST", method, query)
        return WhyCall(check_name(match["name"]))
    if match := _CHANGE.fullmatch(path):
        _check_request_line("POST", method, query)
        return Change(cast("Verb", match["verb"]), check_name(match["name"]))
    raise NoSuchCall(f"no such call: {method[:16]} {path[:64]}")


def _check_request_line(wanted: str, method: str, query: str) -> None:
    if method != wanted:
        raise WrongMethod(f"this call is a {wanted}, not a {method[:16]}")
    if query:
        raise BadRequest("no call has a query string; what is wanted stands in the body")


def _parse_object(body: bytes) -> dict[str, object]:
    """Parse a JSON object; an empty body is an empty one. Keys stand once."""
    if not body:
        return {}
    try:
        data = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadRequest("the body is not a JSON object")
    return data


def _check_wants_nothing(body: bytes) -> None:
    for key in _parse_object(body):
        raise BadRequest(f"unknown key in the body: {key[:64]!r}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key stands twice")
    return data


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _lease(value: object) -> int | None:
    if value is None:
        return None
    shortest, longest = LEASE_SECONDS
    # JSON's true is no number, though Python's True is an int.
    if isinstance(value, bool) or not isinstance(value, int) or not shortest <= value <= longest:
        raise BadRequest(f"lease_seconds is a whole number from {shortest} to {longest}, or null")
    return value


def _timeout(value: object) -> float:
    shortest, longest = TIMEOUT_SECONDS
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not shortest <= value <= longest
    ):
        raise BadRequest(f"timeout_seconds is a number from {shortest:g} to {longest:g}")
    return float(value)


def _name(wishes: Mapping[str, object], key: str) -> str | None:
    value = wishes.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRequest(f"{key} is a string, or null")
    return check_name(value)


def _boolean(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"{key} is true or false")
    return value
