"""The client does what docs/api.md says, and every way to fail is an error that is explained."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anubis import http_reader
from anubis.client import Client
from anubis.errors import (
    AnubisError,
    BadRequest,
    ConfigError,
    DaemonNotRunning,
    LocalFailure,
    Location,
    NoAnswer,
    Problem,
    Refused,
    UnknownConnection,
)
from anubis.events import Approval, Step
from anubis.forecast import ChangedEntry
from anubis.http_reader import MAX_HEAD, Answer, Silence
from tests.fake_daemon import DEADLINE, HISTORY, FakeDaemon, fake_daemon

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """Run a fake daemon."""
    with fake_daemon(tmp_path / "anubis.sock") as running:
        yield running


@contextmanager
def liar(path: Path, answer: bytes, *, stay: bool = False) -> Iterator[None]:
    """Answer one caller with these bytes whatever it asks, then hang up, or stay on the line."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(DEADLINE)

        def serve() -> None:
            connection, _ = listening.accept()
            connection.settimeout(DEADLINE)
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(answer)
                while stay and connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(DEADLINE)
        assert not thread.is_alive()


class TestCalls:
    def test_the_example_of_the_document_runs(
        self, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The Python example in docs/api.md works as it stands there."""
        monkeypatch.setenv("ANUBIS_SOCKET", str(daemon.path))
        _, _, rest = DOCUMENT.read_text().partition("```python\n")
        example, _, _ = rest.partition("```")
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(example, str(DOCUMENT), "exec"), {})  # noqa: S102 (our own document)
        assert output.getvalue().splitlines() == [
            *["control", "agreed", "peer", "routes", "handshake"],
            "jacinth is up at 203.0.113.1:4296",
            "jacinth up 1258291",
            "leaf up 1",
            "surya down 0",
            "selen down 0",
            *(f"{each.at} {each.event} {each.detail}" for each in HISTORY),
        ]
        assert daemon.operations.calls == [
            ("up", "jacinth", 3600, 10.0, False),
            ("status", None),
            ("down", "jacinth", 10.0),
        ]

    def test_switch_tells_whose_each_step_is(self, daemon: FakeDaemon) -> None:
        """Steps of the connections that are replaced carry their name, and are not timed."""
        steps: list[Step] = []
        result = Client(daemon.path).switch("jacinth", 3600, 5.0, steps.append, pinned=True)
        assert [step.connection for step in steps] == [None] * 5 + ["surya"] * 2
        assert result.replaced == ("surya",)
        assert set(result.elapsed_ms) == {*(step.step for step in steps[:5]), "total"}
        assert daemon.operations.calls == [("switch", "jacinth", 3600, 5.0, True)]

    def test_a_reload_tells_what_it_changed(self, daemon: FakeDaemon) -> None:
        """Names by what became of them."""
        reloaded = Client(daemon.path).reload()
        assert (reloaded.peers, reloaded.added) == (3, ("leaf", "selen"))
        assert (reloaded.removed, reloaded.changed) == (("xena",), ("jacinth",))
        assert reloaded.ended == ("xena",)
        assert daemon.operations.calls == [("reload",)]

    def test_the_past_of_a_connection(self, daemon: FakeDaemon) -> None:
        """As values."""
        assert Client(daemon.path).log("Jacinth") == list(HISTORY)
        with pytest.raises(UnknownConnection, match="nobody"):
            Client(daemon.path).log("nobody")

    def test_events_are_heard_until_the_daemon_ends(self, daemon: FakeDaemon) -> None:
        """What happens after `on_open` is told; the end is an error that says why."""
        opened: list[None] = []

        def on_open() -> None:
            opened.append(None)
            daemon.tell(*HISTORY[:2])

        events = Client(daemon.path).events(on_open)
        assert [next(events), next(events)] == list(HISTORY[:2])
        daemon.dismiss()
        with pytest.raises(LocalFailure, match="the daemon is stopping"):
            next(events)
        assert len(opened) == 1

    def test_a_stream_outlasts_silence_and_the_bound_of_an_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An empty line is a sign of life, and there is no end to what may come in time."""
        monkeypatch.setattr(http_reader, "MAX_BODY", 1000)
        line = json.dumps(HISTORY[1].to_json()).encode() + b"\n"
        chunks = (b"1\r\n\n\r\n" + b"%x\r\n%s\r\n" % (len(line), line)) * 50
        answer = OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
        with liar(tmp_path / "sock", answer):
            events = Client(tmp_path / "sock").events()
            assert [next(events) for _ in range(50)] == [HISTORY[1]] * 50
            with pytest.raises(LocalFailure, match="left"):
                next(events)
        endless = b"%x\r\n%s\r\n" % (2000, b" " * 2000)
        answer = OK + b"Transfer-Encoding: chunked\r\n\r\n" + endless * 9
        with (
            liar(tmp_path / "other", answer),
            pytest.raises(LocalFailure, match="makes no sense"),
        ):
            next(Client(tmp_path / "other").events())

    def test_metrics_are_text(self, daemon: FakeDaemon) -> None:
        """Unchanged, and whole."""
        text = Client(daemon.path).metrics()
        assert text.splitlines()[-1] == 'anubis_connection_up{connection="selen"} 0'
        assert text.endswith("\n")

    def test_what_a_reload_would_change(self, daemon: FakeDaemon) -> None:
        """It is told and not done; a change has its keys."""
        difference = Client(daemon.path).foresee_reload()
        assert (difference.added, difference.removed) == (("leaf", "selen"), ("xena",))
        assert difference.changed == (ChangedEntry("jacinth", ("AllowedIPs", "PresharedKey")),)
        assert difference.ended == ("jacinth", "xena")
        assert daemon.operations.calls == [("foresee",)]

    def test_a_plan(self, daemon: FakeDaemon) -> None:
        """Steps in their order with their details, and what is in the way."""
        plan = Client(daemon.path).plan("Selen")
        assert [(step.do, step.kind) for step in plan.steps] == [
            ("add", "peer"),
            ("change", "mtu"),
            ("add", "route"),
        ]
        assert plan.steps[1].detail == {"interface": "wg0", "mtu": 1420}
        assert (plan.state, plan.lease_seconds) == ("down", 28800)
        assert [each.hint for each in plan.in_the_way] == ["anubis switch selen"]
        assert daemon.operations.calls == [("plan", "selen")]

    def test_approvals(self, daemon: FakeDaemon) -> None:
        """Who was approved, and who waits still, here or at another host."""
        client = Client(daemon.path)
        assert client.approve() == Approval(None, ("selen", "xena"))
        assert client.approve("Xena", "Jacinth", 2.0) == Approval("xena", ("selen",))
        with pytest.raises(NoAnswer):
            client.approve("xena", "leaf")
        assert daemon.operations.calls[1] == ("approve", "xena", "jacinth", 2.0)

    def test_why(self, daemon: FakeDaemon) -> None:
        """The links in their order, and the first that is broken."""
        found = Client(daemon.path).why("Broken")
        assert [check.state for check in found.checks] == [
            "ok",
            "ok",
            "unknown",
            "broken",
            "broken",
        ]
        assert found.broken is found.checks[3]
        assert (found.state, found.broken.remedy, found.exit_status) == ("up", "ip rule", 4)
        assert daemon.operations.calls == [("why", "broken")]

    def test_mistakes_in_the_files_come_back_with_their_places(self, daemon: FakeDaemon) -> None:
        """What the daemon cannot read is raised here as if it had been read here."""
        problems = (
            Problem(Location(Path("/etc/anubis/anubis.conf")), "others can write it", "chmod"),
            Problem(Location(Path("/etc/anubis/authorized_peers"), 7), "no key"),
        )
        daemon.operations.problems = problems
        with pytest.raises(ConfigError) as caught:
            Client(daemon.path).reload()
        assert caught.value.problems == problems
        with pytest.raises(ConfigError) as caught:
            Client(daemon.path).foresee_reload()
        assert caught.value.problems == problems

    def test_down_that_the_far_end_does_not_hear_of(self, daemon: FakeDaemon) -> None:
        """A connection that is down here only is a result with a warning, not an error."""
        result = Client(daemon.path).down("surya", 0.5)
        assert (result.state, result.result) == ("down", "local_only")
        assert result.warnings == ("surya could not be told",)

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            (
                "jacint",
                UnknownConnection("no connection is called 'jacint'", "did you mean jacinth?"),
            ),
            (
                "selen",
                Refused(
                    "selen refused (not_permitted): ask \x1b[31mme\x1b[0m first",
                    "its administrator decides",
                    "not_permitted",
                ),
            ),
            ("leaf", NoAnswer("leaf did not answer within 10 s", "is UDP port 4297 open?")),
            ("broken", LocalFailure("wg0: the kernel said no; all is rolled back")),
        ],
    )
    def test_the_daemons_errors_are_raised(
        self, daemon: FakeDaemon, name: str, error: AnubisError
    ) -> None:
        """What the daemon met is raised here, before the stream has begun and after."""
        with pytest.raises(type(error)) as caught:
            Client(daemon.path).up(name)
        assert vars(caught.value) == vars(error)

    def test_an_exception_while_steps_come_rolls_back(self, daemon: FakeDaemon) -> None:
        """A program that gives up in the middle gives the change up."""

        def give_up(step: Step) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Client(daemon.path).up("slow", on_step=give_up)
        assert daemon.operations.rolled_back.wait(DEADLINE)

    def test_threads_may_share_a_client(self, daemon: FakeDaemon) -> None:
        """A Client holds nothing between calls."""
        client = Client(daemon.path)
        seen: list[str] = []
        threads = [
            threading.Thread(target=lambda: seen.append(client.status("surya")[0].name))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert seen == ["surya"] * 8

    @pytest.mark.parametrize("name", ["../status", "a/b", "", "a b", "a\r\nX: y"])
    def test_a_name_that_is_none_is_not_sent(self, tmp_path: Path, name: str) -> None:
        """What could mean something in HTTP never gets there."""
        client = Client(tmp_path / "absent.sock")
        for ask in (client.up, client.down, client.switch, client.status):
            with pytest.raises(BadRequest):
                ask(name)


class TestNobodyThere:
    def test_no_socket(self, tmp_path: Path) -> None:
        """Without a daemon the error says how to start it."""
        with pytest.raises(DaemonNotRunning) as caught:
            Client(tmp_path / "anubis.sock").status()
        assert caught.value.hint == "sudo systemctl start anubis"

    def test_a_stale_socket(self, tmp_path: Path) -> None:
        """A socket on which nobody listens is no daemon."""
        path = tmp_path / "anubis.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        with pytest.raises(DaemonNotRunning):
            Client(path).up("jacinth")

    def test_a_path_too_long(self) -> None:
        """A path that no socket can have is explained."""
        with pytest.raises(LocalFailure, match="too long"):
            Client("/" + "a" * 200).status()

    def test_a_socket_that_is_not_ours(self, tmp_path: Path) -> None:
        """If the system forbids the connection, that is NotPermitted."""
        code = (
            "import os, sys; from anubis.client import Client; from anubis.errors import *\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "try: Client(sys.argv[1]).status()\n"
            "except NotPermitted as error: print(error.message)\n"
        )
        path = tmp_path / "anubis.sock"
        tmp_path.chmod(0o700)
        with fake_daemon(path):
            done = subprocess.run(
                [sys.executable, "-c", code, str(path)],
                capture_output=True,
                text=True,
                check=True,
                timeout=DEADLINE,
                cwd=Path(__file__).parents[2],
            )
        assert done.stdout == f"may not connect to {path}\n"

    def test_the_environment_names_the_socket(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """$ANUBIS_SOCKET counts unless the program names a socket itself."""
        monkeypatch.setenv("ANUBIS_SOCKET", "/one")
        assert Client().path == "/one"
        assert Client("/two").path == "/two"
        monkeypatch.setenv("ANUBIS_SOCKET", "")
        assert Client().path == "/run/anubis/anubis.sock"


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class TestNonsense:
    @pytest.mark.parametrize(
        "answer",
        [
            b"garbage\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            OK + b"Content-Length: 2\r\n\r\n[]",
            OK + b"Content-Length: 2\r\n\r\n{}",
            OK + b"Content-Length: -2\r\n\r\n{}",
            OK + b"Content-Length: x\r\n\r\n{}",
            OK + b"\r\n{}",
            OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX\r\n",
            OK + b'Content-Length: 20\r\n\r\n{"connections": [1]}',
            OK + b"Content-Length: 9999\r\n\r\n" + b"[" * 9999,
            b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops",
            b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\n{}",
            b"A" * (MAX_HEAD + 70000),
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (MAX_HEAD // 4),
        ],
    )
    def test_a_daemon_that_talks_nonsense(self, tmp_path: Path, answer: bytes) -> None:
        """Whatever is answered, it is a LocalFailure and not an exception of a library."""
        with liar(tmp_path / "sock", answer), pytest.raises(LocalFailure, match="makes no sense"):
            Client(tmp_path / "sock").status()

    def test_a_daemon_that_does_not_stop(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An answer without end fills no memory."""
        monkeypatch.setattr(http_reader, "MAX_BODY", 100_000)
        answer = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\n \n\r\n" * 100_000
        with liar(tmp_path / "sock", answer), pytest.raises(LocalFailure, match="makes no sense"):
            Client(tmp_path / "sock").status()

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            OK + b"Content-Length: 0\r\n\r\n",
            OK + b"Content-Length: 19\r\n\r\n{",
            OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            OK + b'Content-Length: 21\r\n\r\n{"event": "weather"}\n',
        ],
    )
    def test_a_daemon_that_leaves(self, tmp_path: Path, answer: bytes) -> None:
        """A daemon that dies before it has answered is a LocalFailure; unknown events are not."""
        with liar(tmp_path / "sock", answer), pytest.raises(LocalFailure, match="left"):
            Client(tmp_path / "sock").up("jacinth")

    @pytest.mark.parametrize("answer", [b"", b"HTTP", OK, OK + b"Content-Length: 9\r\n\r\n{"])
    def test_a_daemon_that_falls_silent(self, tmp_path: Path, answer: bytes) -> None:
        """Every wait has an end, wherever in its answer the daemon hangs."""
        begun = time.monotonic()
        client = Client(tmp_path / "sock", timeout=0.1)
        with (
            liar(tmp_path / "sock", answer, stay=True),
            pytest.raises(LocalFailure, match=r"did not answer within 0\.2 s"),
        ):
            client.up("jacinth", timeout_seconds=0.1)
        assert 0.2 <= time.monotonic() - begun < 2


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nServer: anubis\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"3\r\none\r\nA;ext=1\r\n\ntwo\nthree\r\n1\r\n\n\r\n0\r\n\r\n"
)
PLAIN = b"HTTP/1.0 404 Not Found\r\ncontent-length:13\r\n\r\none\ntwo\nthree"


class TestReader:
    @pytest.mark.parametrize(("answer", "status"), [(CHUNKED, 200), (PLAIN, 404)])
    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    def test_any_pieces_make_the_same_answer(self, answer: bytes, status: int, size: int) -> None:
        """However the bytes are cut on their way, the lines are the same."""
        near, far = socket.socketpair()
        with near, far:

            def send() -> None:
                for start in range(0, len(answer), size):
                    far.sendall(answer[start : start + size])

            thread = threading.Thread(target=send)
            thread.start()
            read = Answer(near, DEADLINE)
            assert (read.status, list(read.lines())) == (status, [b"one", b"two", b"three"])
            thread.join(DEADLINE)

    @pytest.mark.parametrize("answer", [CHUNKED, PLAIN])
    def test_an_answer_cut_short_is_noticed(self, answer: bytes) -> None:
        """No part of an answer passes for the whole."""
        for end in range(len(answer) - 2):
            near, far = socket.socketpair()
            with near:
                with far:
                    far.sendall(answer[:end])
                with pytest.raises(ConnectionAbortedError):
                    list(Answer(near, DEADLINE).lines())

    def test_silence_counts_from_line_to_line(self) -> None:
        """A long answer may take its time, as long as each line comes in time."""
        near, far = socket.socketpair()
        with near, far:
            far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\none\n")
            lines = Answer(near, 0.3).lines()
            assert next(lines) == b"one"
            for line in (b"two", b"six"):
                later = threading.Timer(0.2, far.sendall, [line + b"\n"])
                later.start()
                assert next(lines) == line
                later.join()
            with pytest.raises(Silence):
                next(lines)
