"""Let every call that a daemon makes to its host fail, and see that nothing stays half done.

Owns one failure, what the caller is told of it, and that the daemon lives on. Refuses to know what
the operations are (`test_faults`) and how a call comes to fail (`faulting`).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from anubis.errors import AnubisError, LocalFailure, Refused
from anubis.events import Result
from anubis.lab.daemon import DaemonFailed
from tests.lab.walks import Walk

__all__ = ["Faults"]

_BUG = re.compile(r"Traceback|internal.error|never retrieved|Exception in")
_JUST = 1000  # bytes: of one kind the daemon logs a line a second, and calls fail faster than that
_SAID = re.compile(r"^anubis: (?:error|hint): .*$", re.M)


@dataclass
class Faults(Walk):
    """A call fails with `number` of errno(3), and the daemon goes on without it.

    A call that is given without its number fails every time, until the operation has ended. A
    daemon that does not start for it is started again.
    """

    kind: ClassVar[str] = "calls"
    number: int = errno.ENOBUFS
    told: int = 0  # how often the caller got an error, or a warning

    def disturb(self, place: str) -> bool:
        """Do the operation; return whether the call was made, and has failed."""
        daemon = self.victim.daemon
        known = len(daemon.log)
        self.victim.plan(fail=place, errno=self.number)
        error: AnubisError | None = None
        warnings: tuple[str, ...] = ()
        try:
            result = self.act()
        except AnubisError as failure:
            error = failure
        else:
            warnings = result.warnings if isinstance(result, Result) else ()
        failed = bool(self.victim.passed())
        self.victim.plan()
        said = daemon.log[known:]
        just_said = daemon.log[max(0, known - _JUST) :]
        if isinstance(error, DaemonFailed):
            self.victim.start()
        self.told += error is not None or bool(warnings)
        for wrong in (*self._unclear(error, said, just_said), *_BUG.findall(said)):
            self.fail(place, wrong)
        for warning in warnings:
            if os.strerror(self.number) not in warning or "\n" in warning:
                self.fail(place, f"unclear: {warning}")
        if daemon.process is None:
            self.fail(place, "the daemon has died")
            self.victim.start()
        return failed

    def _unclear(self, error: AnubisError | None, said: str, just_said: str) -> Sequence[str]:
        """Return what is wrong with the one message: what, where, why, and what to do now."""
        why = os.strerror(self.number)
        match error:
            case None:
                return ()
            case DaemonFailed():
                lines = _SAID.findall(said)
                clear = len(lines) == 2 and "cannot" in lines[0] and why in lines[0]
                return () if clear else (f"unclear: {lines}",)
            case Refused(result="failed", hint=str()) if why in just_said:
                return ()  # how a far end fails is for its own log
            case LocalFailure(hint=str()) if re.match(f"cannot [^\n]*{why}", error.message):
                return ()
        return (f"unclear: {type(error).__name__}: {error.message} ({error.hint})",)
