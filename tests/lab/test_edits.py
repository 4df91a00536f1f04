"""The authorized peers edited while the daemons watch: nobody says reload.

What WireGuard and the kernel have is read with `wg` and `ip`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from anubis.lab.scene import scene as whole_scene
from anubis.lab.slowness import stretched
from tests.lab.conftest import MakeLab
from tests.lab.steps import (
    ANUBIS_CONF,
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    Ping,
    anubis,
    client,
    configured,
    end_all,
    left_over,
    page,
    stanza_key,
    states,
)

CUT_SECONDS = 1.0  # from the moment at which the new file is in place
HEARD_SECONDS = 5.0


@pytest.fixture(scope="module")
def watching(make_lab: MakeLab) -> Lab:
    """Bring up the scene as it is, daemons that watch their files."""
    return make_lab(whole_scene())


@pytest.fixture(scope="module")
def before(watching: Lab) -> dict[str, str]:
    """Return the state of every host, while nothing is up."""
    return states(watching)


@pytest.fixture(autouse=True)
def file_and_network_as_before(watching: Lab, before: dict[str, str]) -> Iterator[Path]:
    """Give the file of jacinth; put it back, and see that nothing is left at any end."""
    path = watching.path("jacinth", AUTHORIZED_PEERS)
    text = path.read_text()
    yield path
    rename(path, text)
    wait_until(
        lambda: {"xena", "selen"} <= names(watching), HEARD_SECONDS, "all are authorized again"
    )
    end_all(watching)
    assert left_over(watching, before, seconds=8) == []


def rename(path: Path, text: str) -> float:
    """Put a new file in the place of an old one, as editors do; return when it was there."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)
    return time.monotonic()


def stanza(text: str, name: str) -> str:
    """Return the stanza of a peer in the text of a file."""
    (found,) = (part for part in text.split("[Peer]") if f"Name = {name}\n" in part)
    return f"[Peer]{found}"


def without(text: str, name: str) -> str:
    """Return the text of a file without a peer."""
    return text.replace(stanza(text, name), "")


def linger(seconds: float) -> None:
    """Write no faster than somebody who takes his time."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, 2 * seconds, "a moment has passed")


def names(lab: Lab) -> set[str]:
    """Return who is authorized at jacinth."""
    return {each.name for each in client(lab, "jacinth").status()}


def wg(lab: Lab, what: str) -> list[str]:
    """Return what `wg show all` has of jacinth's peers, which have no order of their own."""
    return sorted(lab.run("jacinth", "wg", "show", "all", what, check=True).stdout.splitlines())


def are_peers(lab: Lab, keys: set[str]) -> set[str]:
    """Return which of these keys any interface of jacinth has as a peer."""
    return keys & {line.split()[1] for line in wg(lab, "allowed-ips")}


def of_production(lines: list[str]) -> list[str]:
    """Return those of the production interface."""
    return [line for line in lines if line.startswith("wg0\t")]


def received(lab: Lab) -> int:
    """Return how many bytes jacinth's one connection has received in its session."""
    (line,) = of_production(wg(lab, "transfer"))
    return int(line.split()[2])


def test_a_removed_line_cuts_a_live_connection_within_a_second(
    watching: Lab, before: dict[str, str], file_and_network_as_before: Path
) -> None:
    """From the moment at which the new file is there: tunnel and control plane, at both ends."""
    path, lab = file_and_network_as_before, watching
    keys = {stanza_key(lab, "jacinth", "xena", k) for k in ("PublicKey", "ControlPublicKey")}
    anubis(lab, "xena", "up", "jacinth")
    assert page(lab, "xena", LEAF[4]).startswith("leaf, in the house")
    assert are_peers(lab, keys) == keys
    placed = rename(path, without(path.read_text(), "xena"))
    wait_until(
        lambda: not are_peers(lab, keys),
        2 * CUT_SECONDS,
        "neither interface of jacinth has a peer xena",
    )
    assert time.monotonic() - placed <= stretched(CUT_SECONDS)
    told = "asked=gone reason=revoked"
    wait_until(lambda: told in lab.daemon("xena").log, 2, "xena was told why")
    assert left_over(lab, before, "xena") == []


def test_who_is_not_touched_keeps_the_session(
    watching: Lab, file_and_network_as_before: Path
) -> None:
    """While another is removed and comes again: no packet lost, no handshake, no counter anew."""
    path, lab = file_and_network_as_before, watching
    text = path.read_text()
    anubis(lab, "xena", "up", "jacinth")
    with Ping(lab, "xena", LEAF[4]) as ping:
        (shaken,) = of_production(wg(lab, "latest-handshakes"))
        bytes_before = received(lab)
        rename(path, without(text, "selen"))
        wait_until(lambda: "selen" not in names(lab), HEARD_SECONDS, "selen is not authorized")
        rename(path, text)
        wait_until(lambda: "selen" in names(lab), HEARD_SECONDS, "selen is authorized")
        assert ping.outages() == []
        assert of_production(wg(lab, "latest-handshakes")) == [shaken]
        assert received(lab) > bytes_before > 0


def test_a_mistake_changes_nothing_until_it_is_mended(
    watching: Lab, file_and_network_as_before: Path
) -> None:
    """It is in the log, once, and `anubis check` tells the same; what is right then is taken up."""
    path, lab = file_and_network_as_before, watching
    daemon, text = lab.daemon("jacinth"), path.read_text()
    known = len(daemon.log)
    anubis(lab, "xena", "up", "jacinth")
    peers = wg(lab, "allowed-ips")
    wrong = without(text, "xena").replace("AllowedIPs", "AlowedIPs")
    rename(path, wrong)
    wait_until(lambda: "not_reloaded" in daemon.log[known:], HEARD_SECONDS, "it is in the log")
    assert wg(lab, "allowed-ips") == peers
    found = set(re.findall(r'not_reloaded reason="?([^:]*:\d+)', daemon.log[known:]))
    checked = lab.run("jacinth", "anubis", "check")
    assert checked.returncode == 78
    assert found == set(re.findall(r"^anubis: error: ([^:]*:\d+)", checked.stderr, re.M))
    times = daemon.log.count("not_reloaded")
    rename(path, wrong)  # saved again as it was
    rename(path.with_name("authorized_peers.d.conf"), "")  # no part
    path.write_text(without(text, "selen"))  # in place, and right
    wait_until(lambda: "selen" not in names(lab), HEARD_SECONDS, "the mended file is taken up")
    assert daemon.log.count("not_reloaded") == times
    assert of_production(wg(lab, "allowed-ips")) == of_production(peers)
    path.with_name("authorized_peers.d.conf").unlink()


def test_a_slow_writer_is_waited_for(watching: Lab, file_and_network_as_before: Path) -> None:
    """A file that is written bit by bit is no mistake, and revokes nobody in between."""
    path, lab = file_and_network_as_before, watching
    daemon, text = lab.daemon("jacinth"), path.read_text()
    known = len(daemon.log)
    with path.open("w") as file:  # empty for now
        new = without(text, "selen")
        for start in range(0, len(new), 64):
            file.write(new[start : start + 64])
            file.flush()
            linger(0.5 if start == 0 else 0.01)  # the first 64 bytes are no stanza yet
    wait_until(lambda: "reloaded peers=" in daemon.log[known:], HEARD_SECONDS, "it is taken up")
    assert "selen" not in names(lab)
    assert daemon.log[known:].count("reloaded") == 1
    assert "not_reloaded" not in daemon.log[known:]


def test_a_part_and_a_whole_directory_come_and_go(
    watching: Lab, file_and_network_as_before: Path
) -> None:
    """Files in authorized_peers.d count from the first on, also when all of it is replaced."""
    path, lab = file_and_network_as_before, watching
    text = path.read_text()
    parts = path.with_name("authorized_peers.d")
    rename(path, without(text, "selen"))
    wait_until(lambda: "selen" not in names(lab), HEARD_SECONDS, "selen is not authorized")
    selen = stanza(text, "selen")
    parts.mkdir()
    (parts / "selen.conf").write_text(selen)
    wait_until(lambda: "selen" in names(lab), HEARD_SECONDS, "the part is taken up")
    (parts / "selen.conf").unlink()
    wait_until(lambda: "selen" not in names(lab), HEARD_SECONDS, "the part is gone")
    script = (
        "cp -a /etc/anubis /etc/anubis.new; rmdir /etc/anubis.new/authorized_peers.d;"
        " cat >> /etc/anubis.new/authorized_peers; mv /etc/anubis /etc/anubis.old;"
        " mv /etc/anubis.new /etc/anubis"
    )
    lab.run("jacinth", "sh", "-ec", script, input=selen, check=True)
    wait_until(lambda: "selen" in names(lab), HEARD_SECONDS, "the other directory is taken up")
    lab.run("jacinth", "rm", "-r", "/etc/anubis.old", check=True)


def test_a_directory_that_the_service_may_not_see_is_told(
    watching: Lab, file_and_network_as_before: Path
) -> None:
    """While it may not, all stays as it is; what was changed meanwhile counts when it may again."""
    path, lab = file_and_network_as_before, watching
    daemon, text = lab.daemon("jacinth"), path.read_text()
    known = len(daemon.log)
    lab.run("jacinth", "chmod", "700", "/etc/anubis", check=True)
    try:
        wait_until(lambda: "not_watched" in daemon.log[known:], HEARD_SECONDS, "it is told")
        wait_until(lambda: "not_reloaded" in daemon.log[known:], HEARD_SECONDS, "and why")
        assert "directory=/etc/anubis" in daemon.log[known:]
        rename(path, without(text, "selen"))
        assert "selen" in names(lab)
    finally:
        lab.run("jacinth", "chmod", "755", "/etc/anubis", check=True)
    wait_until(lambda: "selen" not in names(lab), HEARD_SECONDS, "it is taken up")
    rename(path, text)
    wait_until(lambda: "selen" in names(lab), HEARD_SECONDS, "and so is the next edit")


def inotify_descriptors(lab: Lab) -> int:
    """Return how many inotify instances the daemon of jacinth has."""
    process = lab.daemon("jacinth").process
    return sum(
        str(fd.readlink()) == "anon_inode:inotify" for fd in Path(f"/proc/{process}/fd").iterdir()
    )


def test_it_can_be_switched_off(watching: Lab) -> None:
    """Then the daemon does not even listen; a reload still does everything."""
    assert inotify_descriptors(watching) == 1
    off = Edit(
        "jacinth", ANUBIS_CONF, "[Production]\n", "[Authorization]\nWatch = no\n[Production]\n"
    )
    with configured(watching, off):
        assert inotify_descriptors(watching) == 0
        path = watching.path("jacinth", AUTHORIZED_PEERS)
        text = path.read_text()
        rename(path, without(text, "selen"))
        assert client(watching, "jacinth").reload().removed == ("selen",)
        rename(path, text)
