"""Starting a lab's supervisor and keeping hold of it until the lab stands by itself.

Owns the pipes to `anubis.lab.supervisor`: the topology goes in, one line comes out, and as long as
the first stays open the lab lives no longer than this process.
"""

from __future__ import annotations

import pickle
import select
import subprocess
import sys

from anubis.errors import LocalFailure
from anubis.lab.slowness import stretched
from anubis.lab.state import StateDirectory
from anubis.lab.supervisor import DETACH
from anubis.lab.topology import Topology

__all__ = ["Creation"]

_BUILD_SECONDS = 30.0


class Creation:
    """A lab that is tied to this process."""

    def __init__(self, state: StateDirectory, topology: Topology) -> None:
        """Build the lab, without its daemons. Raises LocalFailure; then nothing is left of it."""
        state.make()
        with state.log("lab").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "anubis.lab.supervisor", str(state.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            answer = self._converse(pickle.dumps(topology))
        except BaseException:  # an interrupt ends what is only half built
            self.close()
            raise
        if answer == "ready":
            return
        self.close()
        reason = _reason(answer, state)
        state.remove()  # which a supervisor that was killed could not do itself
        raise LocalFailure(f"the lab in {state.path} could not be built: {reason}")

    def detach(self) -> None:
        """Let the lab outlive this process."""
        if self._process.stdin is not None:
            self._process.stdin.write(DETACH)
        self.close()

    def close(self) -> None:
        """Let go. If it was not detached, the lab ends."""
        with self._process:
            pass

    def _converse(self, topology: bytes) -> str:
        """Hand over the topology; return the supervisor's one line, or nothing if it died."""
        request, answer = self._process.stdin, self._process.stdout
        if request is None or answer is None:
            raise ValueError("the supervisor was started without pipes")
        try:
            request.write(topology)
            request.flush()
        except BrokenPipeError:
            return ""
        seconds = stretched(_BUILD_SECONDS)
        if not select.select([answer], [], [], seconds)[0]:
            return f"failed it took longer than {seconds:g} s"
        return answer.readline().decode().strip()


def _reason(answer: str, state: StateDirectory) -> str:
    if answer == "busy":
        return "somebody else is building or removing it"
    log = state.log("lab")
    words = log.read_text(errors="replace").strip() if log.exists() else ""
    return answer.removeprefix("failed ") or words or "its supervisor was killed"
