"""What the API can tell of one daemon: its past, what happens now, and what it counts.

Owns the way from the chronicle to those who listen. Refuses to know HTTP (`api`).
"""

from __future__ import annotations

from anubis.daemon.audience import Audience
from anubis.daemon.chronicle import Chronicle
from anubis.daemon.metrics import Metrics
from anubis.gatekeeper import Gatekeeper
from anubis.happening import Happening

__all__ = ["DaemonRecords"]


class DaemonRecords:
    """The records behind the API (`anubis.daemon.api.Records`)."""

    def __init__(self, gatekeeper: Gatekeeper, chronicle: Chronicle, metrics: Metrics) -> None:
        self.audience = Audience()
        self.metrics = metrics.text
        self._gatekeeper = gatekeeper
        self._history = chronicle.history
        chronicle.on_news = self.audience.tell

    def log(self, name: str) -> list[Happening]:
        """Return what happened to a connection and, meanwhile, to the host, the older first.

        Raises UnknownConnection, unless it is an entry that was removed and is remembered.
        """
        own = self._history.of(name)
        if not own:
            self._gatekeeper.peer(name)
        return sorted([*own, *self._history.of(None)], key=lambda each: each.at)
