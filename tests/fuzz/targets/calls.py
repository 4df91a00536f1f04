"""What a call of the HTTP API asks for (`anubis/daemon/calls.py`), without HTTP.

Any method, path, query and body are a call that is as documented, or a BadRequest. Only a POST
changes something, and what it asks for is within its ranges.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from anubis.daemon.calls import (
    ApproveCall,
    Change,
    EventsCall,
    LogCall,
    MetricsCall,
    PlanCall,
    ReloadCall,
    StatusCall,
    WhyCall,
    parse_call,
)
from anubis.errors import BadRequest
from anubis.events import LEASE_SECONDS, TIMEOUT_SECONDS

RUNS = 80_000
MAX_LENGTH = 2200
TOKENS = (
    b"GET\n", b"POST\n", b"/v1/status", b"/v1/connections/", b"/up\n\n", b"/down\n\n", b"/switch\n",
    b"/v1/reload\n\n", b"/v1/approve\n\n", b'{"name": "xena", "at": "',
    b'{"lease_seconds": ', b'{"timeout_seconds": ', b'{"pinned": ', b"true", b"null", b"1e999",
    b"NaN", b"-Infinity", b"2678400", b"120.0", b"[", b"{}", b"%2f", b"..",
)  # fmt: skip

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def run(data: bytes) -> None:
    """Read three lines as method, path and query, and what follows them as the body."""
    method, path, query, body = (*data.split(b"\n", 3), b"", b"", b"")[:4]
    words = [part.decode("utf-8", "surrogateescape") for part in (method, path, query)]
    try:
        call = parse_call(*words)
        if isinstance(call, Change | PlanCall | ReloadCall | ApproveCall | WhyCall):
            call = call.with_body(body)
    except BadRequest as error:
        assert len(error.message) < 5000, "an error that repeats what it was sent"
        json.dumps(error.message)
        return
    assert words[2] == ""
    if isinstance(call, ReloadCall):
        assert words[:2] == ["POST", "/v1/reload"]
        assert (json.loads(body or b"{}") or {"dry_run": False}) == {"dry_run": call.dry_run}
        return
    if isinstance(call, EventsCall | MetricsCall):
        assert words[0] == "GET"
        return
    assert call.name is None or _NAME.fullmatch(call.name)
    if isinstance(call, StatusCall | LogCall):
        assert words[0] == "GET"
        return
    assert words[0] == "POST"
    if isinstance(call, ApproveCall):
        assert words[1] == "/v1/approve"
        assert call.at is None or _NAME.fullmatch(call.at)
        assert TIMEOUT_SECONDS[0] <= call.timeout_seconds <= TIMEOUT_SECONDS[1]
        return
    if isinstance(call, PlanCall | WhyCall):
        assert not body or json.loads(body) == {}
        return
    assert TIMEOUT_SECONDS[0] <= call.terms.timeout_seconds <= TIMEOUT_SECONDS[1]
    lease, pinned = call.terms.lease_seconds, call.terms.pinned
    assert lease is None or (type(lease) is int and LEASE_SECONDS[0] <= lease <= LEASE_SECONDS[1])
    assert call.verb != "down" or (lease, pinned) == (None, False)
    assert type(pinned) is bool


def seeds() -> Iterator[bytes]:
    """Give every call with every key, and each in some disorder."""
    yield from (
        b"GET\n/v1/status\n\n", b"GET\n/v1/status/Jacinth\n\n", b"GET\n/v1/status\na=1\n",
        b'POST\n/v1/connections/jacinth/up\n\n{"lease_seconds": 60, "timeout_seconds": 0.5}',
        b'POST\n/v1/connections/surya/switch\n\n{"pinned": true, "lease_seconds": null}',
        b'POST\n/v1/connections/surya/down\n\n{"timeout_seconds": 120}', b"PUT\n/v1/status\n\n",
        b"POST\n/v1/reload\n\n{}", b'POST\n/v1/reload\n\n{"a": 1}', b"GET\n/v1/reload\n\n",
        b"GET\n/v1/events\n\n", b"POST\n/v1/metrics\n\n", b"GET\n/v1/connections/Jacinth/log\n\n",
        b'POST\n/v1/approve\n\n{"name": "Xena", "at": "jacinth", "timeout_seconds": 1}',
        b'POST\n/v1/approve\n\n{"name": 1, "at": null}', b"GET\n/v1/approve\n\n",
        b'POST\n/v1/connections/a/down\n\n{"lease_seconds": 60}', b"POST\n/v1/connections/../up\n",
        b'POST\n/v1/connections/a/up\n\n{"pinned": 1, "pinned": 1}',
        b'POST\n/v1/connections/a/up\n\n{"timeout_seconds": 1e999}',
        b"POST\n/v1/connections/a/up\n\n[NaN]", b"POST\n/v1/connections/a/up\n\n" + b"[" * 2000,
    )  # fmt: skip
