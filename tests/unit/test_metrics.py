"""The metrics say what the parts have counted, and documents and dashboard name what there is."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from anubis.daemon import metrics as module
from anubis.daemon.chronicle import COUNTED, TOLD, Chronicle
from anubis.daemon.clock import Clock
from anubis.daemon.metrics import Metrics
from anubis.daemon.parts import Parts
from anubis.errors import LocalFailure
from anubis.exposition import Histogram
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers
from anubis.files.config import Production
from anubis.gatekeeper import Gatekeeper, Role
from anubis.wireguard.types import Endpoint, Peer
from tests.unit.test_gatekeeper import entry

DOCS = Path(__file__).parents[2] / "docs"
NOW = 1_000.0  # of the clock of leases
UNIX = 1_700_000_000.0
NAME = re.compile(r"\b(?:anubis|process)_[a-z_]+\b")


@dataclass
class House:
    """The parts of a daemon, as far as metrics read them."""

    gatekeeper: Gatekeeper
    seen: list[Peer] = field(default_factory=list)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    mends: Counter[str] = field(default_factory=Counter)
    round_trips: Histogram = field(default_factory=lambda: Histogram((0.1, 1.0)))
    unanswered: int = 0
    over_budget: int = 0
    clock: Clock = field(default_factory=lambda: Clock(lambda: NOW, lambda: int(UNIX * 1e9)))
    broken: bool = False

    @property
    def control(self) -> House:
        """Be the control plane."""
        return self

    production = control

    async def device(self) -> SimpleNamespace:
        """Return what WireGuard has on production."""
        if self.broken:
            raise LocalFailure("wg0 is gone")
        return SimpleNamespace(peers=tuple(self.seen))

    async def samples(self, tmp_path: Path) -> dict[tuple[str, ...], float]:
        """Return the metrics as another parser reads them."""
        one = cast("Any", self)
        chronicle = Chronicle(tmp_path / "history", lambda: UNIX)
        chronicle.on_event("up", {"connection": "jacinth"})
        text = await Metrics(cast("Parts", self), one, one, one, chronicle).text()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def house(*names: str) -> House:
    """Return a house with these entries."""
    peers = AuthorizedPeers(entry(name, f"10.0.{n}.0/24") for n, name in enumerate(names))
    key_file = Path("/nowhere")
    return House(Gatekeeper(peers, Production(private_key_file=key_file)))


def open_(house: House, name: str, **known: Any) -> AuthorizedPeer:
    """Have a connection up, of which WireGuard knows this."""
    peer = house.gatekeeper.peer(name)
    house.gatekeeper.opened(name, Role.INITIATOR, 3600, NOW - 600, since=UNIX - 600)
    house.seen.append(Peer(public_key=peer.public_key, **known))
    return peer


async def test_connections_are_told_by_name(tmp_path: Path) -> None:
    """What is up with what WireGuard knows of it, the others as down; no keys."""
    given = house("jacinth", "surya")
    open_(given, "jacinth", rx_bytes=10, tx_bytes=20, last_handshake=UNIX - 12.5)
    given.gatekeeper.wishes.want("surya", 3600)
    found = await given.samples(tmp_path)
    assert found["anubis_peers",] == 2
    assert found["anubis_connections", "initiator"] == 1
    assert found["anubis_connections", "responder"] == 0
    assert found["anubis_connection_up", "jacinth"] == 1
    assert found["anubis_connection_up", "surya"] == 0
    assert found["anubis_connection_pinned", "jacinth"] == 0
    assert found["anubis_connection_pinned", "surya"] == 1
    assert found["anubis_connection_lease_seconds", "jacinth"] == 3000
    assert found["anubis_connection_handshake_age_seconds", "jacinth"] == 12.5
    assert found["anubis_connection_receive_bytes_total", "jacinth"] == 10
    assert found["anubis_connection_transmit_bytes_total", "jacinth"] == 20
    assert not [key for key in found if "surya" in key and "lease" in key[0]]
    assert {key for key in found if len(key) > 1 and len(key[-1]) > 40} == set()


async def test_without_the_interface_the_rest_is_told(tmp_path: Path) -> None:
    """What only WireGuard knows is left out."""
    given = house("jacinth")
    open_(given, "jacinth", rx_bytes=10)
    given.broken = True
    found = await given.samples(tmp_path)
    assert found["anubis_connection_up", "jacinth"] == 1
    assert ("anubis_connection_receive_bytes_total", "jacinth") not in found


async def test_what_is_counted(tmp_path: Path) -> None:
    """Each part's own numbers."""
    given = house("jacinth")
    given.answers["up", "done"] = 3
    given.drops["bad_size"] = 4
    given.over_budget, given.unanswered = 5, 6
    given.mends["vanished"] = 7
    given.round_trips.observe(0.05)
    found = await given.samples(tmp_path)
    assert found["anubis_requests_total", "up", "done"] == 3
    assert found["anubis_dropped_total", "bad_size"] == 4
    assert found["anubis_dropped_total", "over_budget"] == 5
    assert found["anubis_control_unanswered_total",] == 6
    assert found["anubis_mends_total", "vanished"] == 7
    assert found["anubis_control_round_trip_seconds_bucket", "0.1"] == 1
    assert found["anubis_events_total", "up"] == 1
    assert found["process_resident_memory_bytes",] > 1_000_000
    assert 3 < found["process_open_fds",] < found["process_max_fds",]


async def test_series_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are up come first, and how many are left out is told."""
    monkeypatch.setattr(module, "MAX_SERIES", 3)
    given = house(*"abcdef")
    open_(given, "e")
    found = await given.samples(tmp_path)
    assert {key[1] for key in found if key[0] == "anubis_connection_up"} == {"e", "a", "b"}
    assert (found["anubis_peers",], found["anubis_peers_without_series",]) == (6, 3)


async def every_name(tmp_path: Path) -> set[str]:
    """Return the name of every metric that there can be."""
    given = house("jacinth")
    known = {"endpoint": Endpoint(ip_address("203.0.113.1"), 4296), "last_handshake": UNIX}
    open_(given, "jacinth", **known)
    given.answers["up", "done"] = given.mends["vanished"] = 1
    return {key[0] for key in await given.samples(tmp_path)}


async def test_the_document_names_every_metric_and_no_other(tmp_path: Path) -> None:
    """In its table."""
    document = (DOCS / "monitoring.md").read_text()
    rows = [line for line in document.splitlines() if re.match(r"\| `(anubis|process)_", line)]
    named = {name for row in rows for name in NAME.findall(row.split("|")[1])}
    suffix = re.compile(r"(?<=_seconds)_(bucket|sum|count)$")
    assert named == {suffix.sub("", name) for name in await every_name(tmp_path)}


def test_the_document_names_every_event_and_no_other() -> None:
    """In its tables, and as told by itself or counted."""
    document = (DOCS / "monitoring.md").read_text()
    tables = document.split("| event | what happened |")[1:]
    found = [
        {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in row.split("`")[1::2]}
        for table in (part.split("\n\n")[0] for part in tables)
    ]
    assert len(found) == 3
    assert found[0] <= TOLD
    assert found[1] <= COUNTED
    assert set.union(*found) == TOLD | COUNTED


async def test_the_dashboard_asks_for_what_there_is(tmp_path: Path) -> None:
    """Every query names a metric that exists, and every metric but two is shown."""
    board = json.loads((DOCS / "anubis-dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [each["definition"] for each in board["templating"]["list"] if "definition" in each]
    names = await every_name(tmp_path)
    assert queries
    for query in queries:
        assert NAME.findall(query), query
        assert set(NAME.findall(query)) <= names, query
    shown = {name for query in queries for name in NAME.findall(query)}
    suffixes = {f"anubis_control_round_trip_seconds_{each}" for each in ("sum", "count")}
    assert names - shown == {*suffixes, "anubis_peers_without_series", "anubis_history_entries"}


def test_the_panels_do_not_overlap() -> None:
    """Each has its place in the grid of 24 columns."""
    board = json.loads((DOCS / "anubis-dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
