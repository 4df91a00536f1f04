"""Events survive the way from one end to the other, also between different versions."""

from __future__ import annotations

import json

import pytest

from anubis.errors import (
    AnubisError,
    BadRequest,
    LocalFailure,
    NoAnswer,
    NotPermitted,
    Refused,
    UnknownConnection,
)
from anubis.events import (
    ConnectionStatus,
    ErrorEvent,
    Event,
    Result,
    Step,
    check_name,
    event_from_json,
    event_to_json,
)

EVENTS: list[Event] = [
    Step("control", 12.4, "203.0.113.1:4297"),
    Step("removed", 3.0, connection="surya"),
    Result("jacinth", "up", "done", 28800, "203.0.113.1:4296", {"total": 3.5}, ("w",), ("surya",)),
    Result("jacinth", "down", "unchanged"),
    ErrorEvent("refused", "no", "ask", "conflict"),
    ErrorEvent("failed", "no"),
]
STATUSES = [
    ConnectionStatus("surya", "down"),
    ConnectionStatus("leaf", "down", ended="shutdown"),
    ConnectionStatus("selen", "down", pinned=True, retry_seconds=1.5),
    ConnectionStatus("j", "up", "initiator", "2026-11-20T11:56:00Z", 60, "[::1]:1", 0.5, 1, 2),
]


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_read_as_it_was_written(event: Event) -> None:
    """What one end writes the other end reads, after a passage through JSON text."""
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_is_read_as_it_was_written(status: ConnectionStatus) -> None:
    """A status, too."""
    assert ConnectionStatus.from_json(json.loads(json.dumps(status.to_json()))) == status


@pytest.mark.parametrize("event", EVENTS)
def test_unknown_keys_of_a_newer_daemon_are_passed_over(event: Event) -> None:
    """A key that this version does not know changes nothing."""
    assert event_from_json({**json.loads(json.dumps(event_to_json(event))), "new": [1]}) == event
    assert ConnectionStatus.from_json({**STATUSES[0].to_json(), "new": 1}) == STATUSES[0]


def test_an_unknown_event_of_a_newer_daemon_is_none() -> None:
    """An event that this version does not know is no error."""
    assert event_from_json({"event": "weather", "sky": "clear"}) is None


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({}, "event"),
        ({"event": 1}, "event"),
        ({"event": "step", "elapsed_ms": 1}, "step"),
        ({"event": "step", "step": "control"}, "elapsed_ms"),
        ({"event": "step", "step": "control", "elapsed_ms": True}, "elapsed_ms"),
        ({"event": "step", "step": "control", "elapsed_ms": "1"}, "elapsed_ms"),
        ({"event": "step", "step": "control", "elapsed_ms": 1, "detail": 1}, "detail"),
        ({"event": "error", "kind": "failed"}, "message"),
        ({"event": "result", "connection": "a", "state": "up", "result": "done"}, "elapsed_ms"),
        (
            {
                "event": "result",
                "connection": "a",
                "state": "up",
                "result": "done",
                "elapsed_ms": {},
                "warnings": [1],
            },
            "warnings",
        ),
        ({"event": "step", "step": "peer", "elapsed_ms": 10**400}, "elapsed_ms"),
    ],
)
def test_a_malformed_event_names_the_key(data: dict[str, object], key: str) -> None:
    """Whatever is wrong with an event is a ValueError that names the key at fault."""
    with pytest.raises(ValueError, match=key):
        event_from_json(data)


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("m", "h"),
        UnknownConnection("m", "h"),
        Refused("m", "h", "conflict"),
        NoAnswer("m"),
        LocalFailure("m"),
        NotPermitted("m", "h"),
    ],
)
def test_an_error_arrives_as_what_it_was(error: AnubisError) -> None:
    """The caller raises the class, message, hint and result code that the daemon raised."""
    sent = json.loads(json.dumps(ErrorEvent.from_error(error).to_json()))
    arrived = ErrorEvent.from_json(sent).to_error()
    assert type(arrived) is type(error)
    assert (arrived.message, arrived.hint) == (error.message, error.hint)
    assert getattr(arrived, "result", None) == getattr(error, "result", None)


def test_an_unknown_kind_of_error_is_a_local_failure() -> None:
    """A newer daemon's new kind of error still is an error that is explained."""
    error = ErrorEvent("weather", "it rains", "wait").to_error()
    assert type(error) is LocalFailure
    assert (error.message, error.hint) == ("it rains", "wait")


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "a b", "a\n", "ä", "a" * 64, "a%62"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    """Nothing that could mean something in a path or on a terminal passes as a name."""
    with pytest.raises(BadRequest):
        check_name(name)


def test_the_case_of_a_name_does_not_count() -> None:
    """A name is folded to lower case, as the authorized-peers file does it."""
    assert check_name("Jacinth-2.home_a") == "jacinth-2.home_a"
    assert check_name("a" * 63) == "a" * 63
