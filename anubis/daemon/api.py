"""The HTTP API on the unix socket: `docs/api.md` is its contract.

Owns what becomes of a call: who may make it, what is done, and the stream of steps that tells of
it. What is done lies behind `Operations`, what is only told behind `Records`; `calls` reads what is
asked, `callers` knows who asks, `http` and `listener` carry it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from aiohttp import web

from anubis.daemon import http, log
from anubis.daemon.aside import Aside
from anubis.daemon.audience import Audience, TooManyListeners
from anubis.daemon.callers import Caller, check_may_change
from anubis.daemon.calls import (
    ApproveCall,
    Change,
    EventsCall,
    LogCall,
    MetricsCall,
    PlanCall,
    ReloadCall,
    StatusCall,
    Terms,
    WhyCall,
    parse_call,
)
from anubis.daemon.listener import Listener, accept, listen
from anubis.diagnosis import Diagnosis
from anubis.errors import AnubisError, LocalFailure, NotPermitted
from anubis.events import Approval, ConnectionStatus, ErrorEvent, Reloaded, Result, Step
from anubis.exposition import CONTENT_TYPE
from anubis.forecast import Difference, Plan
from anubis.happening import Happening

__all__ = ["ApiServer", "Operations", "Records", "Report"]

MAX_CHANGES = 64  # at once
MAX_LOOKING = 8  # chains that are looked along at once
MAX_ASKING = 64  # callers whom the user database is asked about at once
STOP_SECONDS = 2.0  # for what is under way when the daemon stops
_CUT_SECONDS = 0.1  # for a caller who reads, when that time is over

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class Report(Protocol):
    """Tells the caller of a step as it happens; the time is taken here."""

    def __call__(self, step: str, detail: str = "", connection: str | None = None) -> None:
        """Report a step; `connection` where it is not the one that the call named."""


class Operations(Protocol):
    """What the API can ask of the daemon.

    Names come in lower case and well-formed, but may be unknown: each raises UnknownConnection
    then, and any other AnubisError as it must. Cancelling a change rolls it back. A Result's
    `elapsed_ms` is filled in by the API.
    """

    async def status(self, name: str | None) -> list[ConnectionStatus]:
        """Tell of one connection, or of all, sorted by name."""

    async def up(self, name: str, terms: Terms, report: Report) -> Result:
        """Bring a connection up."""

    async def down(self, name: str, timeout_seconds: float, report: Report) -> Result:
        """Take a connection down, here even if the far end cannot be reached."""

    async def switch(self, name: str, terms: Terms, report: Report) -> Result:
        """Bring a connection up, then the others that share its routes down."""

    async def reload(self) -> Reloaded:
        """Read the authorized-peers file anew. Raises ConfigError; cancelling does not undo it."""

    async def foresee(self) -> Difference:
        """Read the same, and only tell what a reload would change. Raises ConfigError."""

    async def plan(self, name: str) -> Plan:
        """Tell what `up` of a connection would do."""

    async def approve(self, name: str | None, at: str | None, timeout_seconds: float) -> Approval:
        """Approve a connection here, or at another host, and tell who waits there."""

    async def why(self, name: str) -> Diagnosis:
        """Look along the chain to a far end, and tell what is broken."""


class Records(Protocol):
    """What the API can tell without asking for anything to be done."""

    @property
    def audience(self) -> Audience:
        """Those who listen to what happens."""

    def log(self, name: str) -> list[Happening]:
        """Tell what happened to a connection. Raises UnknownConnection."""

    async def metrics(self) -> str:
        """Tell what is counted and measured, in Prometheus's text format."""


class ApiServer:
    """Serves the API at `path`. Members of `group` may change things, as may root.

    `clock` gives seconds, from any beginning.
    """

    def __init__(
        self,
        operations: Operations,
        records: Records,
        path: Path,
        *,
        group: str = "anubis",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._operations = operations
        self._records = records
        self._path = path
        self._group = group
        self._clock = clock
        self._changes: set[asyncio.Task[Result]] = set()
        self._asking = Aside[None]("callers")
        self._server: http.Server | None = None
        self._listener: Listener | None = None
        self._runner: web.ServerRunner | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._stopping = False
        self._looking = 0  # how many chains are looked along

    async def start(self) -> None:
        """Serve. Raises LocalFailure, also if another daemon serves here."""
        self._listener = listen(self._path)
        self._server = http.Server(self._answer)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_CUT_SECONDS)
        await self._runner.setup()
        self._accepting = asyncio.create_task(accept(self._listener.socket, self._server))

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Take no more calls, roll back the changes under way, tell their callers, and close.

        After so many seconds a caller who does not read its answer is left. Rolling back is always
        brought to its end; it has a deadline of its own.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        self._stopping = True
        self._records.audience.dismiss()
        for change in self._changes:
            _roll_back(change)
        if self._changes:
            await asyncio.wait(self._changes)
        if self._accepting is not None:
            self._accepting.cancel()
        if self._server is not None and self._runner is not None:
            await self._server.shutdown(max(_CUT_SECONDS, until - loop.time()))
            await self._runner.cleanup()
        if self._listener is not None:
            self._listener.socket.close()
            self._listener.remove()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        arrived = self._clock()
        try:
            call = parse_call(request.method, request.path, request.query_string)
            caller = http.caller(request)
            if not isinstance(call, Change | ReloadCall | ApproveCall | PlanCall | WhyCall):
                return await self._tell_of(call, request, caller)
            await self._check_may_change(call, caller)
            if not isinstance(call, Change):
                call = call.with_body(await http.read_body(request))
                return http.json_answer(await _explained(self._tell_once(call)))
            call = call.with_body(await http.read_body(request))
            progress = _Progress(call.name, arrived, self._clock)
            change = self._begin(call, progress)
        except AnubisError as error:
            return http.error_answer(error)
        try:
            return await _tell(request, change, progress)
        finally:
            # If the caller has left, the change is undone before its task is forgotten.
            _roll_back(change)
            await asyncio.wait({change})
            _log_end(call, caller, change)

    async def _tell_of(
        self,
        call: StatusCall | LogCall | EventsCall | MetricsCall,
        request: web.BaseRequest,
        caller: Caller,
    ) -> web.StreamResponse:
        """Answer a call that changes nothing."""
        match call:
            case StatusCall(name):
                connections = await _explained(self._operations.status(name))
                return http.json_answer({"connections": [each.to_json() for each in connections]})
            case LogCall(name):
                log = [each.to_json() for each in self._records.log(name)]
                return http.json_answer({"connection": name, "log": log})
            case MetricsCall():
                return http.text_answer(await _explained(self._records.metrics()), CONTENT_TYPE)
            case EventsCall():
                return await self._let_listen(request, caller)

    async def _let_listen(self, request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        if self._stopping:
            raise http.Busy("the daemon is stopping")
        try:
            with self._records.audience.listener(caller.uid) as listening:
                answer = await http.begin_stream(request)
                await listening.serve(answer)
                return answer
        except TooManyListeners as error:
            raise http.Busy(error.message, error.hint) from None

    async def _tell_once(
        self, call: ReloadCall | ApproveCall | PlanCall | WhyCall
    ) -> dict[str, object]:
        if isinstance(call, ApproveCall):
            approval = await self._operations.approve(call.name, call.at, call.timeout_seconds)
            return approval.to_json()
        if isinstance(call, WhyCall):
            return await self._look_along(call)
        if isinstance(call, PlanCall):
            return (await self._operations.plan(call.name)).to_json()
        if call.dry_run:
            return (await self._operations.foresee()).to_json()
        return (await self._operations.reload()).to_json()

    async def _look_along(self, call: WhyCall) -> dict[str, object]:
        if self._looking >= MAX_LOOKING:
            raise http.Busy(f"{MAX_LOOKING} chains are being looked at", "try again in a moment")
        self._looking += 1
        try:
            return (await self._operations.why(call.name)).to_json()
        finally:
            self._looking -= 1

    async def _check_may_change(
        self, call: Change | ReloadCall | ApproveCall | PlanCall | WhyCall, caller: Caller
    ) -> None:
        if self._asking.running >= MAX_ASKING:
            raise http.Busy(f"{MAX_ASKING} callers are being looked up", "try again in a moment")
        try:
            # The user database may be on the network; a thread keeps the daemon awake.
            await self._asking.begin(partial(check_may_change, caller, self._group))
        except NotPermitted:
            log.event(logging.WARNING, "call-not-permitted", call=call.verb, uid=caller.uid)
            raise

    def _begin(self, call: Change, progress: _Progress) -> asyncio.Task[Result]:
        if self._stopping:
            raise http.Busy("the daemon is stopping")
        if len(self._changes) >= MAX_CHANGES:
            raise http.Busy(f"{MAX_CHANGES} changes are under way", "try again in a moment")
        change = asyncio.create_task(_explained(self._operate(call, progress.report)))
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)
        change.add_done_callback(progress.end)
        return change

    def _operate(self, call: Change, report: Report) -> Coroutine[None, None, Result]:
        match call.verb:
            case "up":
                return self._operations.up(call.name, call.terms, report)
            case "switch":
                return self._operations.switch(call.name, call.terms, report)
            case "down":
                return self._operations.down(call.name, call.terms.timeout_seconds, report)


class _Progress:
    """The steps of one change, stamped as they come, until None says that it has ended."""

    def __init__(self, name: str, arrived: float, clock: Callable[[], float]) -> None:
        self.steps: asyncio.Queue[Step | None] = asyncio.Queue()
        self._name = name
        self._arrived = arrived
        self._clock = clock
        self._elapsed: dict[str, float] = {}

    def report(self, step: str, detail: str = "", connection: str | None = None) -> None:
        """Take a step of the operation, as `Report` has it."""
        elapsed = self._elapsed_ms()
        if connection in {None, self._name}:
            connection = None
            self._elapsed[step] = elapsed
        self.steps.put_nowait(Step(step, elapsed, detail, connection))

    def end(self, _change: asyncio.Task[Result]) -> None:
        """Take the end of the operation."""
        self._elapsed["total"] = self._elapsed_ms()
        self.steps.put_nowait(None)

    def complete(self, result: Result) -> Result:
        """Return the result with its times."""
        return replace(result, elapsed_ms=dict(self._elapsed))

    def _elapsed_ms(self) -> float:
        return round((self._clock() - self._arrived) * 1000, 1)


async def _tell(
    request: web.BaseRequest, change: asyncio.Task[Result], progress: _Progress
) -> web.StreamResponse:
    """Send the steps as they come, then how the change ended; an error at once needs no stream."""
    answer: web.StreamResponse | None = None
    while (step := await progress.steps.get()) is not None:
        if answer is None:
            answer = await http.begin_stream(request)
        await answer.write(http.event_line(step))
    end: Result | ErrorEvent
    try:
        end = progress.complete(change.result())
    except asyncio.CancelledError:
        # Of the change, not of us: only stop() does that while its caller still listens.
        end = ErrorEvent.from_error(LocalFailure("the daemon is stopping; all is rolled back"))
    except AnubisError as error:
        if answer is None:
            return http.error_answer(error)
        end = ErrorEvent.from_error(error)
    if answer is None:
        answer = await http.begin_stream(request)
    await answer.write(http.event_line(end))
    await answer.write_eof()
    return answer


async def _explained(operation: Awaitable[_T]) -> _T:
    """Await an operation; whatever escapes it is a bug, logged and answered as such."""
    try:
        return await operation
    except AnubisError:
        raise
    except Exception:
        _logger.exception("internal-error")
        raise http.internal_error() from None


def _roll_back(change: asyncio.Task[Result]) -> None:
    """Cancel a change, but only once: a second time would cut its rolling back short."""
    if not change.cancelling():
        change.cancel()


def _log_end(call: Change, caller: Caller, change: asyncio.Task[Result]) -> None:
    fields = {"call": call.verb, "connection": call.name, "uid": caller.uid}
    if not change.done():
        return  # this handler was cancelled twice; stop() waits for the change
    if change.cancelled():
        log.event(logging.WARNING, "call-cancelled", **fields)
    elif isinstance(error := change.exception(), AnubisError):
        log.event(logging.WARNING, "call-failed", **fields, error=error.kind, message=error.message)
    else:
        log.event(logging.INFO, "call-done", **fields, result=change.result().result)
