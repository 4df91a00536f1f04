"""A daemon that dies of SIGKILL at a chosen await point: the program that runs in a lab's host.

Every task of the event loop is stepped through `_Traced`. Whenever a task of Anubis starts,
suspends, resumes or ends is a *point*, named by which of these it is, by the lines of Anubis that
wait for one another, and by how often it came already. Between two points nothing is awaited, so a
crash there is, for the world, a crash at one of them.

The plan, a file that is read anew whenever it changes, says what to do with the points: nothing,
write them down, or die at one. Calls to the host (`faulting`) are written down, and made to fail,
in the same way. Owns the process; refuses to know what is tested (`crashes`).

Run in a host as `python -m tests.lab.crashing anubis daemon`, words by which the lab knows its
daemons. It imports everything once and forks a daemon for each line of its standard input, which
makes a start cheap; each is acknowledged by a line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Coroutine, Generator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import anubis
from anubis.cli import app
from anubis.daemon import main as _main  # noqa: F401
from anubis.network import links as _links  # noqa: F401
from tests.lab import faulting

__all__ = ["PLAN", "POINTS", "main"]

# JSON: {"record": "points" or "calls"}, {"kill": point}, or {"fail": call, "errno": number}, where
# a call without its number stands for all of that name
PLAN = Path("/run/crashing-plan")
POINTS = Path("/run/crashing-points")  # a line for each point or call that was passed
_PACKAGE = str(Path(anubis.__file__).parent)


class _Tracer:
    """Counts points, and carries out the plan."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._read_at: object = None
        self._record = False
        self._kill: str | None = None
        self._calls = False
        self._fail: str | None = None
        self._errno = 0

    def point(self, what: str, coroutine: object) -> None:
        """Pass a point. Does not return if this is the one to die at."""
        self._read_plan()
        if not self._record and self._kill is None:
            return
        lines = list(_lines(coroutine))
        if not lines:
            return
        if self._is_chosen(f"{what} {' > '.join(lines)}", self._record, self._kill):
            os.kill(os.getpid(), signal.SIGKILL)

    def fails(self, call: str) -> int:
        """Pass a call to the host; return the error number with which it is to fail, or 0."""
        self._read_plan()
        if not self._calls and self._fail is None:
            return 0
        failing = self._is_chosen(call, self._calls, self._fail)
        return self._errno if failing else 0

    def _is_chosen(self, place: str, record: bool, chosen: str | None) -> bool:
        self._seen[place] += 1
        name = f"{place} #{self._seen[place]}"
        found = chosen in (name, place)
        if record or found:
            with POINTS.open("a") as file:
                file.write(f"{name}\n")
        return found

    def _read_plan(self) -> None:
        try:
            found = PLAN.stat()
        except FileNotFoundError:
            return
        if (found.st_ino, found.st_mtime_ns) != self._read_at:
            self._read_at = found.st_ino, found.st_mtime_ns
            plan = json.loads(PLAN.read_text())
            self._record, self._kill = plan.get("record") == "points", plan.get("kill")
            self._calls, self._fail = plan.get("record") == "calls", plan.get("fail")
            self._errno = plan.get("errno", 0)
            self._seen.clear()


class _Traced(Coroutine[Any, Any, Any]):
    """A task's coroutine, whose every step is told to the tracer."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], tracer: _Tracer) -> None:
        self._coroutine = coroutine
        self._tracer = tracer
        self._begun = False

    def send(self, value: Any) -> Any:
        """Step."""
        return self._step(lambda: self._coroutine.send(value))

    def throw(self, *error: Any) -> Any:
        """Step by an exception."""
        return self._step(lambda: self._coroutine.throw(*error))

    def _step(self, step: Any) -> Any:
        self._tracer.point("resumes" if self._begun else "starts", self._coroutine)
        self._begun = True
        origin = _first_line(self._coroutine)
        try:
            result = step()
        except BaseException:
            self._tracer.point("ends", origin)
            raise
        self._tracer.point("suspends", self._coroutine)
        return result

    def close(self) -> None:
        """Close."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()


class _Ended(str):
    """Where a coroutine began that has no frames any more."""

    __slots__ = ()


def _first_line(coroutine: Any) -> _Ended:
    code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
    return _Ended(_place(code, code.co_firstlineno) if isinstance(code, CodeType) else "")


def _place(code: CodeType, line: int) -> str:
    if not code.co_filename.startswith(_PACKAGE):
        return ""
    return f"{code.co_filename[len(_PACKAGE) + 1 :]}:{line}:{code.co_name}"


def _lines(coroutine: Any) -> Generator[str, None, None]:
    """Yield the lines of Anubis at which the coroutines of a task wait, outermost first."""
    if isinstance(coroutine, _Ended):
        if coroutine:
            yield str(coroutine)
        return
    while coroutine is not None:
        frame, inner = _look(coroutine)
        if frame is not None:
            place = _place(frame.f_code, frame.f_lineno)
            if place:
                yield place
        coroutine = inner


def _look(coroutine: Any) -> tuple[FrameType | None, Any]:
    for prefix, awaits in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
        if hasattr(coroutine, f"{prefix}_frame"):
            return getattr(coroutine, f"{prefix}_frame"), getattr(coroutine, awaits)
    return None, None


def _run() -> None:
    """Be the daemon."""
    tracer = _Tracer()
    faulting.install(tracer.fails)
    new = asyncio.events.new_event_loop

    def new_event_loop() -> asyncio.AbstractEventLoop:
        loop = new()
        loop.set_task_factory(
            lambda loop, coroutine, **options: asyncio.Task(
                _Traced(coroutine, tracer),
                loop=loop,
                **options,
            )
        )
        return loop

    asyncio.events.new_event_loop = new_event_loop  # what asyncio.run makes its loop with
    os._exit(app.run(["daemon"]))


def _fork() -> None:
    """Start a daemon whose parent is the lab's first process."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    _run()


def main() -> None:
    """Fork daemons for as long as somebody asks for them."""
    gc.freeze()  # so that the children share their memory
    for _line in sys.stdin:
        _fork()
        sys.stdout.write("started\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
