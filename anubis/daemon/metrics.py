"""What is counted and measured in one daemon, as Prometheus reads it: `docs/monitoring.md`.

Owns the names and labels of the metrics, and how many connections have series of their own. Each
part counts for itself; here it is only read. Names of connections are labels, keys never are.
"""

from __future__ import annotations

import os
import resource
from collections import Counter
from itertools import islice
from pathlib import Path

from anubis import __version__
from anubis.daemon.chronicle import Chronicle
from anubis.daemon.guard import Guard
from anubis.daemon.parts import Parts
from anubis.daemon.serving import Serving
from anubis.errors import LocalFailure
from anubis.exposition import Metric, expose
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.gatekeeper import Role
from anubis.protocol.responder import Responder

__all__ = ["Metrics"]

MAX_SERIES = 1000  # connections that are told one by one, those that are up first
_TICKS = os.sysconf("SC_CLK_TCK")  # a second, in /proc/PID/stat
_PAGE = resource.getpagesize()  # bytes


class Metrics:
    """Reads the parts of one daemon."""

    def __init__(
        self,
        parts: Parts,
        responder: Responder,
        serving: Serving,
        guard: Guard,
        chronicle: Chronicle,
    ) -> None:
        self._parts = parts
        self._responder = responder
        self._serving = serving
        self._guard = guard
        self._chronicle = chronicle
        self._started = parts.clock.unix_ns() / 1e9

    async def text(self) -> str:
        """Return all metrics as Prometheus's text format has them."""
        process = Metric(
            "process_start_time_seconds", "gauge", "When the daemon started, in seconds since 1970."
        ).add(self._started)
        connections = await self._connections()
        return expose([*self._host(), *connections, *self._requests(), process, *_process()])

    def _host(self) -> list[Metric]:
        gatekeeper, history = self._parts.gatekeeper, self._chronicle.history
        roles = Counter({role.value: 0 for role in Role})
        roles.update(connection.role.value for connection in gatekeeper)
        told = min(len(gatekeeper.peers), MAX_SERIES)
        return [
            Metric("anubis_build_info", "gauge", "Always 1; the label is the version.").add(
                1, version=__version__
            ),
            Metric("anubis_peers", "gauge", "Entries of the authorized-peers file.").add(
                len(gatekeeper.peers)
            ),
            Metric(
                "anubis_peers_without_series", "gauge", "Entries without metrics of their own."
            ).add(len(gatekeeper.peers) - told),
            Metric(
                "anubis_connections", "gauge", "Connections that are up, by this host's role."
            ).add_each(roles, "role"),
            Metric(
                "anubis_events_total", "counter", "What happened, as anubis log tells it."
            ).add_each(self._chronicle.totals, "event"),
            Metric("anubis_history_entries", "gauge", "What anubis log can tell of.").add(
                len(history)
            ),
        ]

    async def _connections(self) -> list[Metric]:
        """Tell of each connection; of those that are up also what WireGuard knows of them."""
        up = Metric("anubis_connection_up", "gauge", "Whether a connection is up.")
        pinned = Metric("anubis_connection_pinned", "gauge", "Whether it is brought up again.")
        lease = Metric("anubis_connection_lease_seconds", "gauge", "What is left of its lease.")
        age = Metric(
            "anubis_connection_handshake_age_seconds", "gauge", "Age of its last handshake."
        )
        received = Metric(
            "anubis_connection_receive_bytes_total", "counter", "Received on production since up."
        )
        sent = Metric(
            "anubis_connection_transmit_bytes_total", "counter", "Sent on production since up."
        )
        gatekeeper, clock = self._parts.gatekeeper, self._parts.clock
        try:
            seen = {one.public_key: one for one in (await self._parts.production.device()).peers}
        except LocalFailure:
            seen = {}  # the interface is gone; what we know ourselves is still worth telling
        for entry in self._told():
            connection = gatekeeper.connection(entry.name)
            name = {"connection": entry.name}
            up.add(connection is not None, **name)
            pinned.add(gatekeeper.wishes.is_pinned(entry.name), **name)
            if connection is None:
                continue
            lease.add(max(0.0, round(connection.expires - clock.boot(), 1)), **name)
            if peer := seen.get(entry.public_key):
                received.add(peer.rx_bytes, **name)
                sent.add(peer.tx_bytes, **name)
                if peer.last_handshake:
                    seconds = clock.unix_ns() / 1e9 - peer.last_handshake
                    age.add(max(0.0, round(seconds, 1)), **name)
        return [up, pinned, lease, age, received, sent]

    def _told(self) -> list[AuthorizedPeer]:
        gatekeeper = self._parts.gatekeeper
        up = gatekeeper.up_peers()[:MAX_SERIES]
        down = (each for each in gatekeeper.peers if gatekeeper.connection(each.name) is None)
        return [*up, *islice(down, MAX_SERIES - len(up))]

    def _requests(self) -> list[Metric]:
        control = self._parts.control
        answers = Metric(
            "anubis_requests_total", "counter", "Requests of other hosts, by what was answered."
        )
        for (verb, result), count in sorted(self._serving.answers.items()):
            answers.add(count, verb=verb, result=result)
        drops = {**self._responder.drops, "over_budget": control.over_budget}
        return [
            answers,
            Metric(
                "anubis_dropped_total", "counter", "Datagrams that were not answered, by reason."
            ).add_each(drops, "reason"),
            Metric(
                "anubis_mends_total", "counter", "Things of Anubis's that were put right, by fault."
            ).add_each(self._guard.mends, "fault"),
            control.round_trips.metric(
                "anubis_control_round_trip_seconds",
                "From a request of this host to its answer, with the tunnel's handshake.",
            ),
            Metric(
                "anubis_control_unanswered_total", "counter", "Requests of this host, no answer."
            ).add(control.unanswered),
        ]


def _process() -> list[Metric]:
    """Read what the kernel knows of this process (proc_pid_stat(5)), under the usual names."""
    try:
        # The second field, the command's name, may have blanks and brackets in it.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return []  # no descriptor is left to read them with
    user, system, pages = (int(fields[number]) for number in (11, 12, 21))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        Metric("process_cpu_seconds_total", "counter", "Processor time of the daemon.").add(
            (user + system) / _TICKS
        ),
        Metric("process_resident_memory_bytes", "gauge", "Memory of the daemon.").add(
            pages * _PAGE
        ),
        Metric("process_open_fds", "gauge", "Descriptors that the daemon has open.").add(
            descriptors
        ),
        Metric("process_max_fds", "gauge", "Descriptors that it may have open.").add(allowed),
    ]
