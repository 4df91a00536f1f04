"""The API keeps its contract towards good callers, bad ones, strangers, and those who leave."""

from __future__ import annotations

import asyncio
import grp
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anubis.client import Client
from anubis.daemon import api, http
from anubis.daemon.audience import MAX_OF_USER
from anubis.daemon.callers import Caller, check_may_change
from anubis.daemon.calls import MAX_BODY
from anubis.errors import (
    BadRequest,
    ConfigError,
    LocalFailure,
    NoAnswer,
    NotPermitted,
    Refused,
    UnknownConnection,
)
from tests.fake_daemon import DEADLINE, HISTORY, FakeDaemon, fake_daemon

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
GROUP = grp.getgrgid(1)  # any group that every system has; the tests make none
NOBODY = 65534


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    """Run a fake daemon on a socket that every user can reach."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with fake_daemon(Path(directory) / "anubis.sock", GROUP.gr_name) as running:
            yield running


def connect(path: Path) -> socket.socket:
    """Connect to the daemon."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE)
    connection.connect(str(path))
    return connection


def exchange(path: Path, request: bytes) -> bytes:
    """Send bytes, and return all that comes until the daemon closes."""
    with connect(path) as connection:
        with suppress(BrokenPipeError):  # it may have heard enough
            connection.sendall(request)
        answer = bytearray()
        with suppress(ConnectionResetError):
            while received := connection.recv(65536):
                answer += received
        return bytes(answer)


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """Return the bytes of a well-formed request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def parse(answer: bytes) -> tuple[int, dict[str, object]]:
    """Return the status of an answer, and its last JSON object."""
    *_, last = (line for line in answer.split(b"\r\n") if line.startswith(b"{"))
    return int(answer.split()[1]), json.loads(last)


def call(
    daemon: FakeDaemon, method: str, path: str, body: bytes = b""
) -> tuple[int, dict[str, object]]:
    """Make a well-formed call, and return what `parse` finds in the answer."""
    return parse(exchange(daemon.path, request(method, path, body)))


def blocks() -> list[str]:
    """Return the fenced blocks of the document."""
    return DOCUMENT.read_text().split("```")[1::2]


class TestEvents:
    def lines(self, connection: socket.socket, number: int) -> list[dict[str, object]]:
        """Read so many lines of a stream that is open."""
        received = b""
        while received.count(b"}\n") < number:
            piece = connection.recv(65536)
            assert piece, received
            received += piece
        return [json.loads(part) for part in received.split(b"\r\n") if part.startswith(b"{")]

    def listen(self, daemon: FakeDaemon) -> socket.socket:
        """Begin to listen."""
        connection = connect(daemon.path)
        connection.sendall(request("GET", "/v1/events"))
        head = connection.recv(65536)
        assert b" 200 " in head
        assert b"application/x-ndjson" in head
        return connection

    def test_what_happens_is_heard_until_the_caller_leaves(self, daemon: FakeDaemon) -> None:
        """Line by line, as it happens; who has left is forgotten."""
        with self.listen(daemon) as connection:
            daemon.tell(HISTORY[1])
            assert self.lines(connection, 1) == [HISTORY[1].to_json()]
            daemon.tell(*HISTORY)
            assert self.lines(connection, 5) == [each.to_json() for each in HISTORY]
            assert len(daemon.records.audience) == 1
        wait_until(lambda: len(daemon.records.audience) == 0)

    def test_one_who_does_not_read_is_cut_off_and_told(self, daemon: FakeDaemon) -> None:
        """When it reads again, the last line says why."""
        with self.listen(daemon) as connection:
            for _ in range(200):
                daemon.tell(*HISTORY, *HISTORY)
            wait_until(lambda: len(daemon.records.audience) == 0)
            received = b""
            while piece := connection.recv(65536):
                received += piece
        last = [part for part in received.split(b"\r\n") if part.startswith(b"{")][-1]
        error = json.loads(last)
        assert (error["event"], error["kind"]) == ("error", "failed")
        assert error["message"].startswith("you read too slowly")

    def test_too_many_are_told_so(self, daemon: FakeDaemon) -> None:
        """Status 503 beyond what one user may have."""
        with ExitStack() as stack:
            for _ in range(MAX_OF_USER):
                stack.enter_context(self.listen(daemon))
            status, data = call(daemon, "GET", "/v1/events")
            assert (status, data["kind"]) == (503, "failed")

    def test_an_end_of_the_daemon_is_told_at_once(self, tmp_path: Path) -> None:
        """A listener does not hold it up."""
        with fake_daemon(tmp_path / "sock") as daemon:
            connection = self.listen(daemon)
            begun = time.monotonic()
        assert time.monotonic() - begun < 1.0
        with connection:
            (error,) = self.lines(connection, 1)
            assert error["message"] == "the daemon is stopping"
            assert connection.recv(65536) in {b"", b"0\r\n\r\n"}


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestCalls:
    def test_the_stream_is_what_the_document_shows(self, daemon: FakeDaemon) -> None:
        """The event stream in docs/api.md is, byte for byte, what `up` answers."""
        shown = next(block for block in blocks() if '"event": "result"' in block)
        answer = exchange(daemon.path, request("POST", "/v1/connections/jacinth/up"))
        assert b"Content-Type: application/x-ndjson\r\n" in answer
        lines = [part for part in answer.decode().split("\r\n") if part.startswith("{")]
        assert "".join(lines) == shown.lstrip("\n")

    def test_defaults_and_wishes_reach_the_operation(self, daemon: FakeDaemon) -> None:
        """What the body says is done, and what it leaves out has the documented default."""
        call(daemon, "POST", "/v1/connections/Surya/up")
        body = b'{"lease_seconds": 60, "timeout_seconds": 0.5, "pinned": true}'
        call(daemon, "POST", "/v1/connections/surya/switch", body)
        call(daemon, "POST", "/v1/connections/surya/down", b'{"timeout_seconds": 120}')
        call(
            daemon, "POST", "/v1/connections/surya/up", b'{"lease_seconds": null, "pinned": false}'
        )
        assert daemon.operations.calls == [
            ("up", "surya", None, 10.0, False),
            ("switch", "surya", 60, 0.5, True),
            ("down", "surya", 120.0),
            ("up", "surya", None, 10.0, False),
        ]

    def test_status(self, daemon: FakeDaemon) -> None:
        """All connections, or one."""
        status, data = call(daemon, "GET", "/v1/status")
        names = [each["name"] for each in data["connections"]]  # type: ignore[attr-defined]
        assert (status, names) == (200, ["jacinth", "leaf", "surya", "selen"])
        status, data = call(daemon, "GET", "/v1/status/surya")
        names = [each["name"] for each in data["connections"]]  # type: ignore[attr-defined]
        assert (status, names) == (200, ["surya"])

    def test_the_log_of_a_connection(self, daemon: FakeDaemon) -> None:
        """As docs/api.md shows it, to the letter, whatever the case of the name."""
        shown = next(block for block in blocks() if "/jacinth/log" in block)
        status, data = call(daemon, "GET", "/v1/connections/Jacinth/log")
        assert (status, data["connection"]) == (200, "jacinth")
        entries = [json.dumps(each) for each in data["log"]]  # type: ignore[attr-defined]
        assert all(entry in shown for entry in entries[:3])
        status, data = call(daemon, "GET", "/v1/connections/nobody/log")
        assert (status, data["kind"]) == (404, "unknown_connection")

    def test_metrics_are_text(self, daemon: FakeDaemon) -> None:
        """Of the version that Prometheus is told."""
        answer = exchange(daemon.path, request("GET", "/v1/metrics"))
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in answer
        assert answer.endswith(b'anubis_connection_up{connection="selen"} 0\n')

    @pytest.mark.parametrize(
        ("name", "status", "kind"),
        [
            ("nobody", 404, "unknown_connection"),
            ("leaf", 504, "no_answer"),
            ("broken", 500, "failed"),
            ("buggy", 500, "failed"),
        ],
    )
    def test_an_error_before_the_first_step_has_its_http_status(
        self, daemon: FakeDaemon, name: str, status: int, kind: str
    ) -> None:
        """Before a stream has begun, the error is the whole answer."""
        answered, data = call(daemon, "POST", f"/v1/connections/{name}/up")
        assert (answered, data["event"], data["kind"]) == (status, "error", kind)

    def test_an_error_after_a_step_ends_the_stream(self, daemon: FakeDaemon) -> None:
        """Once a step was sent, the error is the last line."""
        answer = exchange(daemon.path, request("POST", "/v1/connections/selen/up"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        *_, last = (line for line in answer.decode().split("\r\n") if line.startswith("{"))
        data = json.loads(last)
        assert (data["event"], data["kind"], data["result"]) == (
            "error",
            "refused",
            "not_permitted",
        )

    def test_a_bug_is_logged_and_not_told(
        self, daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A bug behind the API leaves a traceback in the log, and none in the answer."""
        for answer in (
            exchange(daemon.path, request("POST", "/v1/connections/buggy/up")),
            exchange(daemon.path, request("GET", "/v1/status/buggy")),
        ):
            status, data = parse(answer)
            assert (status, data["message"]) == (500, "internal error, see the journal")
            assert b"KeyError" not in answer
        assert "KeyError: 'buggy'" in caplog.text

    def test_no_answer_tells_versions(self, daemon: FakeDaemon) -> None:
        """What software serves is nobody's business, also where the call was garbage."""
        for sent in (
            request("GET", "/v1/status"),
            request("GET", "/nowhere"),
            request("POST", "/v1/connections/jacinth/up"),
            b"garbage\r\n\r\n",
        ):
            answer = exchange(daemon.path, sent)
            assert b"\r\nServer: anubis\r\n" in answer
            assert b"aiohttp" not in answer
            assert b"Python" not in answer


class TestRefusals:
    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"[]",
            b"1",
            b"nonsense",
            b"\xff\xfe{}",
            b'{"lease": 3600}',
            b'{"timeout_seconds": 10, "timeout_seconds": 10}',
            b'{"lease_seconds": 59}',
            b'{"lease_seconds": 2678401}',
            b'{"lease_seconds": 3600.0}',
            b'{"lease_seconds": true}',
            b'{"pinned": 1}',
            b'{"lease_seconds": "8h"}',
            b'{"timeout_seconds": 0.05}',
            b'{"timeout_seconds": 120.1}',
            b'{"timeout_seconds": true}',
            b'{"timeout_seconds": null}',
            b'{"timeout_seconds": NaN}',
            b'{"timeout_seconds": Infinity}',
            b'{"timeout_seconds": 1e999}',
            b'{"lease_seconds": ' + b"9" * 5000 + b"}",
            b"[" * 60000,
            b'{"a":' * 12000,
        ],
    )
    def test_a_body_that_is_not_as_documented(self, daemon: FakeDaemon, body: bytes) -> None:
        """Anything but the documented keys, types and ranges is refused, and nothing is begun."""
        status, data = call(daemon, "POST", "/v1/connections/jacinth/up", body)
        assert (status, data["kind"]) == (400, "bad_request")
        assert daemon.operations.calls == []

    @pytest.mark.parametrize(
        "body", [b'{"name": "xena"}', b'{"dryrun": true}', b'{"dry_run": 1}', b'{"dry_run": null}']
    )
    def test_a_reload_takes_one_wish(self, daemon: FakeDaemon, body: bytes) -> None:
        """A body with anything else in it is refused, and nothing is read."""
        status, data = call(daemon, "POST", "/v1/reload", body)
        assert (status, data["kind"]) == (400, "bad_request")
        assert daemon.operations.calls == []

    @pytest.mark.parametrize(("dry", "done"), [("true", "foresee"), ("false", "reload")])
    def test_a_dry_run_is_no_reload(self, daemon: FakeDaemon, dry: str, done: str) -> None:
        """What is only to be told is not done."""
        status, _ = call(daemon, "POST", "/v1/reload", f'{{"dry_run": {dry}}}'.encode())
        assert status == 200
        assert daemon.operations.calls == [(done,)]

    @pytest.mark.parametrize(
        ("body", "asked"),
        [
            (b"", (None, None, 10.0)),
            (b'{"name": "Xena"}', ("xena", None, 10.0)),
            (b'{"name": null, "at": "Jacinth", "timeout_seconds": 2}', (None, "jacinth", 2.0)),
        ],
    )
    def test_approvals(
        self, daemon: FakeDaemon, body: bytes, asked: tuple[str | None, str | None, float]
    ) -> None:
        """All may be left out; the case of names does not count."""
        status, data = call(daemon, "POST", "/v1/approve", body)
        assert (status, data["approved"]) == (200, asked[0])
        assert daemon.operations.calls == [("approve", *asked)]

    @pytest.mark.parametrize(
        "body",
        [b'{"name": 1}', b'{"name": ""}', b'{"at": "a/b"}', b'{"timeout_seconds": 0}', b'{"a": 1}'],
    )
    def test_approvals_that_are_not_as_documented(self, daemon: FakeDaemon, body: bytes) -> None:
        """Nobody is approved."""
        status, data = call(daemon, "POST", "/v1/approve", body)
        assert (status, data["kind"]) == (400, "bad_request")
        assert daemon.operations.calls == []

    def test_a_lease_for_down(self, daemon: FakeDaemon) -> None:
        """`down` takes no lease."""
        body = b'{"lease_seconds": 3600}'
        status, data = call(daemon, "POST", "/v1/connections/jacinth/down", body)
        assert (status, data["kind"]) == (400, "bad_request")

    def test_a_misspelt_key_is_told_the_right_one(self, daemon: FakeDaemon) -> None:
        """An unknown key is answered with the nearest known one."""
        _, data = call(daemon, "POST", "/v1/connections/jacinth/up", b'{"lease_second": 3600}')
        assert data["hint"] == "did you mean lease_seconds?"

    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_body_that_is_too_long(self, daemon: FakeDaemon, chunked: bool) -> None:
        """Whatever its framing, a body over 64 KiB is refused."""
        body = b" " * (MAX_BODY - 1) + b"{}"
        sent = request("POST", "/v1/connections/jacinth/up", body)
        if chunked:
            head = sent.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
            sent = head + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
        status, data = parse(exchange(daemon.path, sent))
        assert (status, data["kind"]) == (413, "bad_request")
        assert daemon.operations.calls == []

    def test_a_body_as_long_as_allowed(self, daemon: FakeDaemon) -> None:
        """64 KiB are allowed."""
        body = b" " * (MAX_BODY - 2) + b"{}"
        status, _ = call(daemon, "POST", "/v1/connections/surya/up", body)
        assert status == 200

    def test_a_body_that_does_not_come(
        self, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A caller who announces a body and sends none is not waited for."""
        monkeypatch.setattr(http, "BODY_TIMEOUT", 0.05)
        head = request("POST", "/v1/connections/jacinth/up", b"{}")[:-2]
        status, data = parse(exchange(daemon.path, head))
        assert (status, data["kind"]) == (400, "bad_request")

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/", 404),
            ("GET", "/v1/reload", 405),
            ("GET", "/v1/approve", 405),
            ("GET", "/v1/status/", 404),
            ("GET", "/v1/statusjacinth", 404),
            ("POST", "/v1/connections/jacinth/explode", 404),
            ("POST", "/v1/connections//up", 404),
            ("POST", "/v1/connections/../up", 400),
            ("POST", "/v1/connections/a%2fb/up", 404),
            ("POST", "/v1/connections/a%20b/up", 400),
            ("POST", "/v1/connections/-a/up", 400),
            ("GET", "/v1/status/%ff", 400),
            ("GET", "/v1/connections/jacinth/up", 405),
            ("PUT", "/v1/connections/jacinth/up", 405),
            ("POST", "/v1/status", 405),
            ("HEAD", "/v1/status?a=1", 405),
            ("GET", "/v1/status?name=jacinth", 400),
            ("POST", "/v1/connections/jacinth/up?lease_seconds=60", 400),
        ],
    )
    def test_a_call_that_is_none(
        self, daemon: FakeDaemon, method: str, path: str, status: int
    ) -> None:
        """Nothing but the documented calls does anything; a GET changes nothing."""
        answer = exchange(daemon.path, request(method, path))
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        if method != "HEAD":
            assert parse(answer)[1]["kind"] == "bad_request"
        assert daemon.operations.calls == []

    @pytest.mark.parametrize(
        "sent",
        [
            b"garbage\r\n\r\n",
            b"GET /v1/status HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 600,
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
            b"POST /v1/connections/a/up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ],
    )
    def test_garbage_is_answered_and_not_logged(
        self, daemon: FakeDaemon, caplog: pytest.LogCaptureFixture, sent: bytes
    ) -> None:
        """What is no HTTP is answered with `bad_request`, and does not fill the log."""
        status, data = parse(exchange(daemon.path, sent + b"\r\n\r\n"))
        assert (status, data["kind"]) == (400, "bad_request")
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    @settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(noise=st.binary(max_size=200))
    def test_noise_does_no_harm(self, daemon: FakeDaemon, noise: bytes) -> None:
        """After any bytes at all the next caller is served, and nothing was done."""
        with connect(daemon.path) as connection:
            connection.sendall(noise)
        assert call(daemon, "GET", "/v1/status/surya")[0] == 200
        assert {each[0] for each in daemon.operations.calls} == {"status"}


AS_SOMEBODY = """
import os, socket, sys
uid, gid, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.setgroups([int(each) for each in sys.argv[5:]])
os.setgid(gid)
os.setuid(uid)
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(20)
connection.connect(path)
try:
    connection.sendall(sys.argv[4].encode())
except BrokenPipeError:
    pass
try:
    while received := connection.recv(65536):
        sys.stdout.buffer.write(received)
except ConnectionResetError:
    pass
"""


class TestPermission:
    """The kernel says who calls; these tests really are somebody else."""

    def call_as(
        self, daemon: FakeDaemon, uid: int, gid: int, groups: list[int], sent: bytes
    ) -> tuple[int, dict[str, object]]:
        arguments = [str(uid), str(gid), str(daemon.path), sent.decode(), *map(str, groups)]
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", AS_SOMEBODY, *arguments],
            capture_output=True,
            check=True,
            timeout=DEADLINE,
        )
        return parse(done.stdout)

    @pytest.mark.parametrize(
        ("gid", "groups"),
        [(NOBODY, [GROUP.gr_gid]), (GROUP.gr_gid, []), (NOBODY, [NOBODY, 4, GROUP.gr_gid])],
    )
    def test_a_member_may_change(self, daemon: FakeDaemon, gid: int, groups: list[int]) -> None:
        """Membership counts, by the first group and by any supplementary one."""
        sent = request("POST", "/v1/connections/jacinth/up")
        status, data = self.call_as(daemon, NOBODY, gid, groups, sent)
        assert (status, data["event"]) == (200, "result")

    @pytest.mark.parametrize(
        "call",
        [
            "reload",
            "connections/jacinth/up",
            "connections/jacinth/down",
            "connections/jacinth/switch",
            "connections/jacinth/plan",
            "approve",
            "connections/jacinth/why",
        ],
    )
    @pytest.mark.parametrize("groups", [[], [NOBODY], list(range(10_000, 10_300))])
    def test_a_stranger_may_not(self, daemon: FakeDaemon, call: str, groups: list[int]) -> None:
        """Others are refused, told what to do, and nothing is begun."""
        sent = request("POST", f"/v1/{call}", b"{")
        status, data = self.call_as(daemon, NOBODY, NOBODY, groups, sent)
        assert (status, data["kind"]) == (403, "not_permitted")
        hint = f"sudo usermod -aG {GROUP.gr_name} nobody and log in again, or use sudo"
        assert data["hint"] == hint
        assert daemon.operations.calls == []

    def test_a_stranger_may_look(self, daemon: FakeDaemon) -> None:
        """Everybody may read."""
        sent = request("GET", "/v1/status")
        status, _ = self.call_as(daemon, NOBODY, NOBODY, [], sent)
        assert status == 200

    def test_without_the_group_only_root_may(self) -> None:
        """Where the group does not exist, the hint is how to make it."""
        with pytest.raises(NotPermitted) as caught:
            check_may_change(Caller(NOBODY, NOBODY, frozenset()), "no-such-group")
        assert caught.value.hint is not None
        assert "groupadd --system no-such-group" in caught.value.hint
        check_may_change(Caller(0, 0, frozenset()), "no-such-group")

    def test_of_too_many_groups_the_database_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A caller whose groups cannot all be read is in the group if the database says so."""
        for members, may in ((["nobody"], True), (["somebody"], False)):
            entry = SimpleNamespace(gr_gid=GROUP.gr_gid, gr_mem=members)
            monkeypatch.setattr(grp, "getgrnam", lambda _, entry=entry: entry)
            with ExitStack() as stack:
                if not may:
                    stack.enter_context(pytest.raises(NotPermitted))
                check_may_change(Caller(NOBODY, NOBODY, None), GROUP.gr_name)

    def test_a_daemon_that_is_not_root_obeys_its_own_user(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The user who runs the daemon may change what it does."""
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        check_may_change(Caller(1000, NOBODY, frozenset()), "no-such-group")
        with pytest.raises(NotPermitted):
            check_may_change(Caller(1001, NOBODY, frozenset()), GROUP.gr_name)


def begin_slow(daemon: FakeDaemon) -> socket.socket:
    """Call for a change that waits, and return when it is under way."""
    connection = connect(daemon.path)
    connection.sendall(request("POST", "/v1/connections/slow/up"))
    assert daemon.operations.waiting.wait(DEADLINE)
    return connection


async def end_of_asyncio_threads() -> None:
    """Wait for asyncio's threads, as asyncio.run does at its end."""
    await asyncio.get_running_loop().shutdown_default_executor()


class TestLeaving:
    def test_a_caller_who_leaves_has_its_change_rolled_back(self, daemon: FakeDaemon) -> None:
        """Closing the connection cancels the change."""
        begin_slow(daemon).close()
        assert daemon.operations.rolled_back.wait(DEADLINE)

    def test_steps_are_sent_as_they_happen(self, daemon: FakeDaemon) -> None:
        """The first step arrives while the change is still under way."""
        with begin_slow(daemon) as connection:
            received = bytearray()
            while b'"step": "control"' not in received:
                received += connection.recv(65536)
            assert not daemon.operations.rolled_back.is_set()

    def test_stopping_waits_until_all_is_rolled_back_and_says_so(self, daemon: FakeDaemon) -> None:
        """A daemon that stops undoes what is under way before it is gone, and tells the caller."""
        outcome: list[LocalFailure] = []

        def caller() -> None:
            with pytest.raises(LocalFailure) as caught:
                Client(daemon.path).up("slow")
            outcome.append(caught.value)

        thread = threading.Thread(target=caller)
        thread.start()
        assert daemon.operations.waiting.wait(DEADLINE)
        daemon.run(daemon.server.stop)
        assert daemon.operations.rolled_back.is_set()
        thread.join(DEADLINE)
        assert [error.message for error in outcome] == [
            "the daemon is stopping; all is rolled back"
        ]

    def test_stopping_waits_also_for_callers_who_have_left(self, daemon: FakeDaemon) -> None:
        """Rolling back goes on after its caller has left, and stopping waits for it."""
        daemon.operations.may_roll_back.clear()
        begin_slow(daemon).close()
        release = threading.Timer(0.05, daemon.operations.may_roll_back.set)
        release.start()
        daemon.run(daemon.server.stop)
        assert daemon.operations.rolled_back.is_set()
        release.join()

    def test_a_caller_who_does_not_read_holds_no_end_up(self, daemon: FakeDaemon) -> None:
        """When the time is over it is left, however much of its answers it has not taken."""
        with connect(daemon.path) as caller:
            caller.settimeout(1.0)
            with suppress(TimeoutError):
                while True:
                    caller.sendall(b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")
            began = time.monotonic()
            daemon.run(partial(daemon.server.stop, 0.5))
            assert time.monotonic() - began < 3

    def test_a_user_database_that_hangs_holds_no_end_up(
        self, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither the end of the API nor that of its loop; and only so many callers wait for it."""
        asked, released = threading.Semaphore(0), threading.Event()

        def hang(_caller: Caller, _group: str) -> None:
            asked.release()
            released.wait(DEADLINE)

        monkeypatch.setattr(api, "check_may_change", hang)
        monkeypatch.setattr(api, "MAX_ASKING", 2)
        with ExitStack() as stack:
            stack.callback(released.set)
            for _ in range(2):
                caller = stack.enter_context(connect(daemon.path))
                caller.sendall(request("POST", "/v1/connections/jacinth/up"))
                assert asked.acquire(timeout=DEADLINE)
            status, data = call(daemon, "POST", "/v1/connections/jacinth/up")
            assert (status, data["message"]) == (503, "2 callers are being looked up")
            began = time.monotonic()
            daemon.run(partial(daemon.server.stop, 0.5))
            daemon.run(end_of_asyncio_threads)
            assert time.monotonic() - began < 3


class TestBounds:
    def test_one_user_has_so_many_connections(self, daemon: FakeDaemon) -> None:
        """One more than allowed is answered with 503; when one is closed there is room again."""
        with ExitStack() as stack:
            held = [
                stack.enter_context(connect(daemon.path))
                for _ in range(http.MAX_CONNECTIONS_OF_USER)
            ]
            status, data = call(daemon, "GET", "/v1/status/surya")
            assert (status, data["kind"], data["hint"]) == (503, "failed", "try again in a moment")
            with pytest.raises(LocalFailure, match="too many connections"):
                Client(daemon.path).status()
            held[0].close()
            deadline = time.monotonic() + DEADLINE
            while call(daemon, "GET", "/v1/status/surya")[0] == 503:
                assert time.monotonic() < deadline
        assert daemon.operations.calls == [("status", "surya")]

    def test_others_cannot_lock_root_out(
        self, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When everybody together has too many connections, root still gets in."""
        monkeypatch.setattr(http, "MAX_CONNECTIONS", 0)
        assert call(daemon, "GET", "/v1/status/surya")[0] == 200
        sent = request("GET", "/v1/status")
        assert TestPermission().call_as(daemon, NOBODY, NOBODY, [], sent)[0] == 503

    def test_so_many_changes_are_under_way(
        self, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One change more than allowed is not begun."""
        monkeypatch.setattr(api, "MAX_CHANGES", 1)
        with begin_slow(daemon):
            status, data = call(daemon, "POST", "/v1/connections/jacinth/up")
            assert (status, data["kind"]) == (503, "failed")
        assert [each[1] for each in daemon.operations.calls] == ["slow"]


def test_the_error_table_of_the_document_is_true() -> None:
    """Each kind in docs/api.md has the class, the HTTP status and the exit status that it names."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in DOCUMENT.read_text().split("### Errors")[1].splitlines()
        if line.startswith("| `")
    ]
    documented = {row[0].strip("`"): (int(row[1][:3]), int(row[2])) for row in rows}
    known = {
        error.kind: (http.error_answer(error).status, error.exit_status)
        for error in (
            BadRequest("m"),
            UnknownConnection("m"),
            Refused("m"),
            NoAnswer("m"),
            LocalFailure("m"),
            NotPermitted("m"),
            ConfigError([]),
        )
    }
    assert documented == known
