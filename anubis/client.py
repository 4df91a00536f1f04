"""The Python client of the daemon's HTTP API (`docs/api.md`), on the standard library alone.

Owns the words between a program and the daemon of its host; refuses to know asyncio, and imports
as little as it can, because the command line starts with it. Errors are those of `anubis.errors`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import TypeVar

from anubis.diagnosis import Diagnosis
from anubis.errors import AnubisError, DaemonNotRunning, LocalFailure, NotPermitted
from anubis.events import (
    DEFAULT_TIMEOUT,
    Approval,
    ConnectionStatus,
    ErrorEvent,
    Reloaded,
    Result,
    Step,
    check_name,
    event_from_json,
)
from anubis.forecast import Difference, Plan
from anubis.happening import Happening
from anubis.http_reader import Answer, Silence

__all__ = ["SOCKET_PATH", "Client"]

SOCKET_PATH = "/run/anubis/anubis.sock"

_JOURNAL = "journalctl -u anubis -n 50 may tell why"

_PLAN_SECONDS = 5.0  # for a name server
_WHY_SECONDS = 90.0  # for a change that is under way, the files, and a far end that is silent
_RELOAD_SECONDS = 120.0  # a million entries take their time
_HEARTBEAT = 15.0  # seconds between signs of life in a stream of events

_T = TypeVar("_T")


class Client:
    """Asks the daemon of this host. Holds no connection, so it can be kept for ever.

    `path` is the daemon's socket; None means $ANUBIS_SOCKET, or else SOCKET_PATH. `timeout` is how
    many seconds the daemon itself may be silent, beyond its wait for the far end.

    Every method raises DaemonNotRunning, NotPermitted, or LocalFailure if the daemon is silent or
    talks nonsense. An exception that ends a change early (KeyboardInterrupt) rolls it back.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, timeout: float = 5.0) -> None:
        self.path = os.fspath(path or os.environ.get("ANUBIS_SOCKET") or SOCKET_PATH)
        self.timeout = timeout

    def status(self, name: str | None = None) -> list[ConnectionStatus]:
        """Return all connections by name, or only the one. Raises UnknownConnection."""
        path = "/v1/status" if name is None else f"/v1/status/{check_name(name)}"
        return self._once("GET", path, b"", self.timeout, _read_status)

    def up(
        self,
        name: str,
        lease_seconds: int | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT,
        on_step: Callable[[Step], None] | None = None,
        *,
        pinned: bool = False,
    ) -> Result:
        """Bring a connection up, and return once a production handshake was seen.

        No lease leaves it to the configuration. What is `pinned` is renewed, and brought up again,
        until somebody takes it down. `on_step` is called with each step as it happens.
        Raises BadRequest, UnknownConnection, Refused, NoAnswer.
        """
        wishes = _wishes(lease_seconds, pinned=pinned)
        return self._change("up", name, wishes, timeout_seconds, on_step)

    def down(
        self,
        name: str,
        timeout_seconds: float = DEFAULT_TIMEOUT,
        on_step: Callable[[Step], None] | None = None,
    ) -> Result:
        """Take a connection down at both ends; here even if the far end does not answer.

        Raises BadRequest, UnknownConnection.
        """
        return self._change("down", name, {}, timeout_seconds, on_step)

    def switch(
        self,
        name: str,
        lease_seconds: int | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT,
        on_step: Callable[[Step], None] | None = None,
        *,
        pinned: bool = False,
    ) -> Result:
        """Bring a connection up, then those that share its routes down. Raises as `up`."""
        wishes = _wishes(lease_seconds, pinned=pinned)
        return self._change("switch", name, wishes, timeout_seconds, on_step)

    def log(self, name: str) -> list[Happening]:
        """Return what happened to a connection and, meanwhile, to the host, the older first.

        Raises UnknownConnection.
        """
        path = f"/v1/connections/{check_name(name)}/log"
        with closing(self._call("GET", path, b"", self.timeout, _read_log)) as answers:
            for log in answers:
                return log
        raise _broken_off()

    def events(self, on_open: Callable[[], None] | None = None) -> Iterator[Happening]:
        """Yield what happens from now on, as it happens, to any connection and to the host.

        `on_open` is called once the daemon listens to us: what happens after that is told. The end
        is always an error: LocalFailure if this caller reads too slowly or the daemon stops.
        """
        silence = _HEARTBEAT + self.timeout
        calls = self._lines("GET", "/v1/events", b"", silence, on_open=on_open, endless=True)
        with closing(calls) as lines:
            for line in lines:
                if line.strip():  # an empty one only says that the daemon is there
                    match _read(_read_event, line):
                        case ErrorEvent() as error:
                            raise error.to_error()
                        case Happening() as happening:
                            yield happening
        raise _broken_off()

    def metrics(self) -> str:
        """Return what is counted and measured, in Prometheus's text format."""
        with closing(self._lines("GET", "/v1/metrics", b"", self.timeout)) as lines:
            return b"".join(line + b"\n" for line in lines).decode()

    def reload(self) -> Reloaded:
        """Have the authorized-peers file read anew; who was removed from it is cut off.

        Raises ConfigError with everything that is wrong with the files; then nothing has changed.
        """
        return self._once("POST", "/v1/reload", b"", _RELOAD_SECONDS, Reloaded.from_json)

    def foresee_reload(self) -> Difference:
        """Return what `reload` would change now, changing nothing. Raises ConfigError, as that."""
        body = json.dumps({"dry_run": True}).encode()
        return self._once("POST", "/v1/reload", body, _RELOAD_SECONDS, Difference.from_json)

    def plan(self, name: str) -> Plan:
        """Return what `up` of a connection would do now, doing nothing.

        Raises UnknownConnection. What is in the way of it is a part of the plan.
        """
        path = f"/v1/connections/{check_name(name)}/plan"
        return self._once("POST", path, b"", _PLAN_SECONDS + self.timeout, Plan.from_json)

    def approve(
        self,
        name: str | None = None,
        at: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT,
    ) -> Approval:
        """Approve a connection that waits for that, and return who waits still.

        Here, or `at` another host that asks for this one's approval; without a name only the latter
        is told. Raises BadRequest, UnknownConnection, Refused, NoAnswer, and LocalFailure if it
        does not wait here.
        """
        wishes = {
            "name": name and check_name(name),
            "at": at and check_name(at),
            "timeout_seconds": timeout_seconds,
        }
        body, silence = json.dumps(wishes).encode(), timeout_seconds + self.timeout
        return self._once("POST", "/v1/approve", body, silence, Approval.from_json)

    def why(self, name: str) -> Diagnosis:
        """Return what is found on the chain to a far end: what is broken, and what mends it.

        Raises UnknownConnection.
        """
        path = f"/v1/connections/{check_name(name)}/why"
        return self._once("POST", path, b"", _WHY_SECONDS + self.timeout, Diagnosis.from_json)

    def _change(
        self,
        verb: str,
        name: str,
        wishes: dict[str, float],
        timeout_seconds: float,
        on_step: Callable[[Step], None] | None,
    ) -> Result:
        path = f"/v1/connections/{check_name(name)}/{verb}"
        body = json.dumps({"timeout_seconds": timeout_seconds, **wishes}).encode()
        silence = timeout_seconds + self.timeout
        with closing(self._call("POST", path, body, silence, event_from_json)) as events:
            for event in events:
                match event:
                    case Step() if on_step is not None:
                        on_step(event)
                    case Result():
                        return event
                    case ErrorEvent():
                        raise event.to_error()
        raise _broken_off()

    def _once(
        self,
        method: str,
        path: str,
        body: bytes,
        silence: float,
        read: Callable[[Mapping[str, object]], _T],
    ) -> _T:
        """Return what `read` makes of an answer that is a single JSON object."""
        with closing(self._call(method, path, body, silence, read)) as answers:
            for answer in answers:
                return answer
        raise _broken_off()

    def _call(
        self,
        method: str,
        path: str,
        body: bytes,
        silence: float,
        read: Callable[[Mapping[str, object]], _T],
    ) -> Generator[_T, None, None]:
        """Yield what `read` makes of each JSON object in the answer, `silence` seconds apart."""
        with closing(self._lines(method, path, body, silence)) as lines:
            for line in lines:
                yield _read(read, line)

    def _lines(
        self,
        method: str,
        path: str,
        body: bytes,
        silence: float,
        *,
        on_open: Callable[[], None] | None = None,
        endless: bool = False,
    ) -> Generator[bytes, None, None]:
        """Yield each line of the answer; an answer that is an error is raised."""
        with self._connect() as connection:
            try:
                _send(connection, method, path, body, silence)
                answer = Answer(connection, silence)
                if on_open is not None and answer.status == 200:
                    on_open()
                for line in answer.lines(endless=endless):
                    if answer.status != 200:
                        raise ErrorEvent.from_json(_parse(line)).to_error()
                    yield line
            except Silence:
                raise LocalFailure(
                    f"the daemon did not answer within {silence:g} s", _JOURNAL
                ) from None
            except OSError as error:
                raise _broken_off(error.strerror) from None
            except ValueError as error:
                raise _nonsense(error) from None

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(self.path)
        except OSError as error:
            connection.close()
            raise _cannot_connect(self.path, error) from None
        return connection


def _wishes(lease_seconds: int | None, *, pinned: bool) -> dict[str, float]:
    """Return the keys of a body that are not left to the daemon."""
    wishes: dict[str, float] = {} if lease_seconds is None else {"lease_seconds": lease_seconds}
    return {**wishes, "pinned": True} if pinned else wishes


def _send(connection: socket.socket, method: str, path: str, body: bytes, timeout: float) -> None:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: anubis\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.settimeout(timeout)
    try:
        connection.sendall(head.encode() + body)
    except (BrokenPipeError, ConnectionResetError):
        return  # a daemon that has too much to do answers without listening


def _parse(line: bytes) -> Mapping[str, object]:
    try:
        data = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 (bad data, not a wrong call)
    return data


def _read_status(data: Mapping[str, object]) -> list[ConnectionStatus]:
    connections = data.get("connections")
    if not isinstance(connections, list) or not all(isinstance(c, dict) for c in connections):
        raise ValueError("connections is not a list of objects")
    return [ConnectionStatus.from_json(each) for each in connections]


def _read_log(data: Mapping[str, object]) -> list[Happening]:
    log = data.get("log")
    if not isinstance(log, list) or not all(isinstance(each, dict) for each in log):
        raise ValueError("log is not a list of objects")
    return [Happening.from_json(each) for each in log]


def _read(read: Callable[[Mapping[str, object]], _T], line: bytes) -> _T:
    """Return what `read` makes of a line; raises LocalFailure if it can make nothing of it."""
    try:
        return read(_parse(line))
    except ValueError as error:
        raise _nonsense(error) from None


def _read_event(data: Mapping[str, object]) -> Happening | ErrorEvent:
    return ErrorEvent.from_json(data) if data.get("event") == "error" else Happening.from_json(data)


def _nonsense(error: ValueError) -> LocalFailure:
    return LocalFailure(f"the daemon's answer makes no sense: {error}")


def _cannot_connect(path: str, error: OSError) -> AnubisError:
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            return DaemonNotRunning(
                f"the daemon is not running: nobody listens on {path}",
                "sudo systemctl start anubis",
            )
        case PermissionError():
            return NotPermitted(f"may not connect to {path}", f"ls -l {path} shows who may")
        case BlockingIOError() | TimeoutError():
            return LocalFailure("the daemon has too many callers", "try again in a moment")
        case _:
            return LocalFailure(f"cannot connect to {path}: {error.strerror or error}")


def _broken_off(reason: str | None = None) -> LocalFailure:
    why = f" ({reason})" if reason else ""
    return LocalFailure(f"the daemon left before it had answered{why}", _JOURNAL)
