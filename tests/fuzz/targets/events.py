"""What the daemon tells its callers, as JSON (`anubis/events.py`, `anubis/forecast.py`).

Any JSON is an event, a connection, nothing that this version knows, or a ValueError. What was read
is written as JSON that reads the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields

from anubis.errors import AnubisError, Refused
from anubis.events import (
    ConnectionStatus,
    ErrorEvent,
    Result,
    Step,
    event_from_json,
    event_to_json,
)
from anubis.forecast import ChangedEntry, Difference, Obstacle, Plan, PlannedStep

RUNS = 100_000
MAX_LENGTH = 600
TOKENS = (
    *(f'"{field.name}": '.encode()
      for kind in (Step, Result, ErrorEvent, ConnectionStatus) for field in fields(kind)),
    b'"event": ', b'"step"', b'"result"', b'"error"', b"null", b"true", b"NaN", b"1e999", b"[]",
)  # fmt: skip


def run(data: bytes) -> None:
    """Read the input as one line of an answer."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(found, dict):
        return
    try:
        event = event_from_json(found)
    except ValueError as error:
        assert str(error)
    else:
        if event is not None:
            again = event_from_json(_through_json(event_to_json(event)))
            assert repr(again) == repr(event)  # NaN is not equal to itself
        if isinstance(event, ErrorEvent):
            _check_error(event)
    _check_forecasts(found)
    try:
        status = ConnectionStatus.from_json(found)
    except ValueError as error:
        assert str(error)
    else:
        assert repr(ConnectionStatus.from_json(_through_json(status.to_json()))) == repr(status)


def _check_forecasts(found: dict[str, object]) -> None:
    """See that a forecast, too, reads the same again."""
    kinds: tuple[type[Difference | Plan], ...] = (Difference, Plan)
    for kind in kinds:
        try:
            forecast = kind.from_json(found)
        except ValueError as error:
            assert str(error)
        else:
            assert repr(kind.from_json(_through_json(forecast.to_json()))) == repr(forecast)


def _check_error(event: ErrorEvent) -> None:
    error = event.to_error()
    assert isinstance(error, AnubisError)
    again = ErrorEvent.from_error(error)
    assert (again.message, again.hint) == (event.message, event.hint)
    if isinstance(error, Refused):
        assert again.result


def _through_json(data: dict[str, object]) -> dict[str, object]:
    read = json.loads(json.dumps(data))
    assert isinstance(read, dict)
    return read


def seeds() -> Iterator[bytes]:
    """Give every event with every key, and a connection."""
    events = (
        Step("control", 12.4, "203.0.113.1:4297"),
        Step("agreed", 40, connection="surya"),
        Result("jacinth", "up", "done", 3600, "[::1]:1", {"total": 1.5}, ("one",), ("two",)),
        Result("jacinth", "down", "unchanged"),
        ErrorEvent("refused", "no", "ask", "conflict"),
        ErrorEvent("of_next_year", "no"),
    )
    yield from (json.dumps(event_to_json(event)).encode() for event in events)
    status = ConnectionStatus(
        "leaf", "up", "initiator", "2026-11-20T11:57:00Z", 3600, "[::1]:1", 10.0, 1, 2,
        pinned=True, retry_seconds=12.5,
    )  # fmt: skip
    yield json.dumps(status.to_json()).encode()
    yield json.dumps(
        Difference(1, ("a",), ("b",), (ChangedEntry("c", ("May",)),), ("b",), ("w",)).to_json()
    ).encode()
    step = PlannedStep("add", "mtu", "1420 on wg0", {"mtu": 1420})
    yield json.dumps(
        Plan("a", "down", 60, (step,), (Obstacle("no", "go"), Obstacle("so")), ("u",)).to_json()
    ).encode()
    yield b'{"event": "next_year", "name": "surya", "state": "down", "rx_bytes": 0, "tx_bytes": 0}'
    yield b'{"event": "step", "step": "control", "elapsed_ms": 1' + b"0" * 400 + b"}"
