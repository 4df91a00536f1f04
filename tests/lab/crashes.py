"""Kill a daemon at every await point of what it does, and see what the next start makes of it.

Owns one crash and the start after it. Refuses to know what the operations are (`test_crashes`) and
how a daemon comes to die (`crashing`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ClassVar

from anubis.errors import AnubisError, LocalFailure
from anubis.lab.daemon import DaemonFailed
from anubis.lab.observe import wait_until
from tests.lab.walks import DEAD_SECONDS, Walk

__all__ = ["Crashes"]


class Crashes(Walk):
    """The daemon dies at a point, and is started again."""

    kind: ClassVar[str] = "points"

    def disturb(self, place: str) -> bool:
        """Do the operation; return whether the daemon died of it, and is up again."""
        self.victim.plan(kill=place)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(self.act)
            with suppress(LocalFailure):
                wait_until(
                    lambda: bool(self.victim.passed()) or call.done(),
                    DEAD_SECONDS,
                    "the daemon has died",
                )
            died = bool(self.victim.passed())
            self.victim.plan()
            if died:
                try:
                    self.victim.start()
                except DaemonFailed as error:
                    self.fail(place, "\n".join([error.message, *error.log[-8:]]))
                    self.victim.start()
            with suppress(AnubisError):
                call.result(30)
        if not died and self.victim.daemon.process is None:
            # It came to the point after the call had ended, while it was told to live on.
            died = True
            self.victim.start()
        return died
