"""What happened is told afterwards, at both ends, whatever became of the daemons since."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from anubis.daemon.chronicle import PAUSE
from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.caller import Caller
from tests.lab.steps import (
    ANUBIS_CONF,
    LEAF,
    Edit,
    anubis,
    client,
    configured,
    page,
    stanza_key,
)

HISTORY = "/var/lib/anubis/history"
WRITTEN = PAUSE + 2.0  # seconds, with a thread's work


@pytest.fixture(autouse=True)
def _leaves_nothing(everything_as_before: None) -> None:
    """See after each test that nothing is left of it."""


def told(lab: Lab, host: str, peer: str, since: float) -> list[str]:
    """Return the events of a peer that `anubis log` tells of, and those of the host."""
    log = json.loads(anubis(lab, host, "log", peer, "--json").stdout)["log"]
    return [each["event"] for each in log if each["at"] >= round(since, 3)]


def in_order(events: list[str], *wanted: str) -> bool:
    """Tell whether these are among the events, in this order."""
    rest = iter(events)
    return all(each in rest for each in wanted)


def await_written(lab: Lab, host: str, event: str, since: float) -> None:
    """Wait until the file has an event."""

    def written() -> bool:
        path = lab.path(host, HISTORY)
        lines = path.read_text().splitlines() if path.exists() else []
        return any(
            data["event"] == event and data["at"] >= round(since, 3)
            for data in map(json.loads, lines)
        )

    wait_until(written, WRITTEN, f"{event} is written")


def test_the_past_outlives_stop_restart_and_kill(lab: Lab) -> None:
    """`anubis log` tells of ups and downs at both ends, and when the daemons came and went."""
    xena, jacinth = lab.daemon("xena"), lab.daemon("jacinth")
    since = time.time()
    anubis(lab, "xena", "up", "jacinth")
    up_by = time.time()
    for host in ("xena", "jacinth"):
        await_written(lab, host, "up", since)
    xena.kill()
    jacinth.kill()
    jacinth.start()
    xena.start()
    anubis(lab, "xena", "down", "jacinth")
    xena.stop()
    xena.start()
    jacinth.let_go()
    jacinth.start()
    for host, peer in (("xena", "jacinth"), ("jacinth", "xena")):
        assert in_order(told(lab, host, peer, since), "up", "ready", "down", "ready"), host
    assert "stopped" in told(lab, "xena", "jacinth", since)
    assert "let-go" in told(lab, "jacinth", "xena", since)
    log = client(lab, "jacinth").log("xena")
    (up,) = [each for each in log if each.event == "up" and each.at >= round(since, 3)]
    assert since <= up.at <= up_by
    assert (up.connection, up.detail["role"]) == ("xena", "responder")
    status = lab.path("jacinth", HISTORY).stat()
    assert status.st_mode & 0o777 == 0o600


def test_a_failure_and_a_mend_are_told_with_their_reasons(lab: Lab) -> None:
    """Why an `up` failed; what a stranger took and Anubis put back."""
    since = time.time()
    lab.daemon("surya").stop()
    anubis(lab, "xena", "up", "surya", "--timeout", "1s", status=3)
    assert in_order(told(lab, "xena", "surya", since), "up_failed")
    shown = anubis(lab, "xena", "log", "surya").stdout
    assert "surya: up failed: no answer from the control plane of surya" in shown
    anubis(lab, "xena", "up", "jacinth")
    lab.run("xena", "ip", "route", "flush", "table", "214", check=True)
    wait_until(
        lambda: in_order(told(lab, "xena", "jacinth", since), "up", "vanished"), 5, "it is told"
    )
    lab.daemon("surya").start()


def test_a_flood_of_refused_requests_is_one_entry(lab: Lab) -> None:
    """A peer that is refused again and again changes nobody else's history, and costs no room."""
    since = time.time()
    anubis(lab, "xena", "up", "jacinth")
    before = told(lab, "jacinth", "xena", since)
    with Caller(lab, "xena", key_of="selen") as thief:
        begun = time.monotonic()
        while time.monotonic() < begun + 3:
            assert thief.ask("up").result == "key_mismatch"
    size = lab.path("jacinth", HISTORY).stat().st_size
    refused = [each for each in client(lab, "jacinth").log("selen") if each.event == "refused"]
    assert len(refused) == 1
    assert refused[0].count > 3
    assert refused[0].detail["reason"] == "key_mismatch"
    assert told(lab, "jacinth", "xena", since) == before
    assert size < 200_000


@contextmanager
def listening(lab: Lab, host: str) -> Iterator[tuple[Popen[str], Path]]:
    """Run `anubis events --json` on a host; give its process, and where its output goes."""
    output = lab.path(host, "/run/events")
    with output.open("w") as file:
        process = lab.popen(host, "anubis", "events", "--json", stdout=file, stderr=PIPE)
    try:
        yield process, output
    finally:
        process.kill()
        process.communicate()
        output.unlink()


def heard(output: Path, event: str, connection: str | None) -> bool:
    """Tell whether a listener has heard of something."""
    lines = [json.loads(line) for line in output.read_text().splitlines() if line.endswith("}")]
    return any((line["event"], line["connection"]) == (event, connection) for line in lines)


def has_listener(lab: Lab, host: str) -> bool:
    """Tell whether somebody listens, by the connections to the socket that the kernel knows."""
    shown = lab.run(host, "ss", "-xH", "src", "/run/anubis/anubis.sock").stdout
    return "ESTAB" in shown


def test_events_are_heard_as_they_happen(lab: Lab) -> None:
    """Of both ends of an `up`; after a restart of the daemon the listener is there again."""
    with listening(lab, "jacinth") as (process, output):
        wait_until(lambda: has_listener(lab, "jacinth"), 10, "somebody listens")
        anubis(lab, "xena", "up", "jacinth")
        wait_until(lambda: heard(output, "up", "xena"), 5, "the up is heard")
        lab.daemon("jacinth").kill()
        lab.daemon("jacinth").start()
        wait_until(lambda: has_listener(lab, "jacinth"), 10, "somebody listens again")
        anubis(lab, "xena", "down", "jacinth")
        wait_until(lambda: heard(output, "down", "xena"), 5, "the down is heard")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    said = errors.splitlines()
    assert len(said) == 2
    assert said[0].endswith("waiting for the daemon")
    assert said[1] == "anubis: warning: the daemon is back"


def test_metrics_are_what_wireguard_and_the_kernel_say(lab: Lab) -> None:
    """Bytes and handshakes as `wg show` has them, memory and descriptors as /proc has them."""
    anubis(lab, "xena", "up", "jacinth")
    assert page(lab, "xena", LEAF[4]).startswith("leaf, in the house")
    before = transfer(lab)
    text = anubis(lab, "xena", "metrics").stdout
    after, now = transfer(lab), time.time()
    found = {
        (sample.name, sample.labels.get("connection")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    received = found["anubis_connection_receive_bytes_total", "jacinth"]
    sent = found["anubis_connection_transmit_bytes_total", "jacinth"]
    assert 0 < before[0] <= received <= after[0]
    assert 0 < before[1] <= sent <= after[1]
    key = stanza_key(lab, "xena", "jacinth")
    shown = lab.run("xena", "wg", "show", "wg0", "latest-handshakes").stdout
    (handshake,) = [int(line.split()[1]) for line in shown.splitlines() if line.startswith(key)]
    age = found["anubis_connection_handshake_age_seconds", "jacinth"]
    assert abs(now - age - handshake) < 3
    assert found["anubis_connection_up", "jacinth"] == 1
    assert found["anubis_connection_up", "surya"] == 0
    assert ("anubis_connection_lease_seconds", "surya") not in found
    process = lab.daemon("xena").process
    status = Path(f"/proc/{process}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) * 1024
    assert abs(found["process_resident_memory_bytes", None] / resident - 1) < 0.2
    descriptors = len(list(Path(f"/proc/{process}/fd").iterdir()))
    assert abs(found["process_open_fds", None] - descriptors) <= 3
    for secret in ("production.key", "control.key"):
        assert lab.path("xena", f"/etc/anubis/{secret}").read_text().strip() not in text
    assert key not in text


def transfer(lab: Lab) -> tuple[int, int]:
    """Return what xena has received from jacinth on production, and sent, by `wg show`."""
    key = stanza_key(lab, "xena", "jacinth")
    shown = lab.run("xena", "wg", "show", "wg0", "transfer").stdout
    (words,) = [line.split() for line in shown.splitlines() if line.startswith(key)]
    return int(words[1]), int(words[2])


def test_requests_are_counted_by_what_was_answered(lab: Lab) -> None:
    """What jacinth answered xena, and what became of a datagram that is none."""
    before = counts(lab)
    anubis(lab, "xena", "up", "jacinth")
    with Caller(lab, "xena", key_of="selen") as thief:
        assert thief.ask("up").result == "key_mismatch"
        thief.send(b"garbage")
        wait_until(
            lambda: (
                counts(lab).get("anubis_dropped_total bad_size", 0)
                > before.get("anubis_dropped_total bad_size", 0)
            ),
            5,
            "it is counted",
        )
    after = counts(lab)
    for what in (
        "anubis_requests_total done up",
        "anubis_requests_total key_mismatch unknown",
        "anubis_events_total up",
    ):
        assert after[what] > before.get(what, 0), what


def counts(lab: Lab) -> dict[str, float]:
    """Return jacinth's counters by their names and the values of their labels."""
    return {
        " ".join(
            [sample.name, *(value for _, value in sorted(sample.labels.items()))]
        ): sample.value
        for family in text_string_to_metric_families(client(lab, "jacinth").metrics())
        for sample in family.samples
    }


def test_metrics_are_served_where_the_administrator_says(lab: Lab) -> None:
    """Off unless configured; then curl reads what `anubis metrics` prints, and nothing else."""
    address = "http://127.0.0.1:9586"
    curl = ("curl", "-sS", "--max-time", "5")
    assert lab.run("xena", *curl, f"{address}/metrics").returncode == 7  # nobody listens
    edit = Edit("xena", ANUBIS_CONF, "", "[Metrics]\nListen = 127.0.0.1:9586\n")
    with configured(lab, edit):
        served = lab.run("xena", *curl, f"{address}/metrics", check=True).stdout
        printed = anubis(lab, "xena", "metrics").stdout
        assert {line.split()[0] for line in served.splitlines()} == {
            line.split()[0] for line in printed.splitlines()
        }
        found = text_string_to_metric_families(served)
        assert "anubis_connection_up" in {family.name for family in found}
        other = lab.run("xena", *curl, "-w", "%{http_code}", f"{address}/v1/status").stdout
        assert other.endswith("404")
        listening = lab.run("xena", "ss", "-Htln", "sport = :9586").stdout
        assert listening.split()[3] == "127.0.0.1:9586"
