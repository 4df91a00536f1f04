"""The README's quick start for two real hosts, followed on hosts that have nothing."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from anubis.lab.scene import scene
from anubis.lab.topology import Topology

from .conftest import MakeLab

README = (Path(__file__).parents[2] / "README.md").read_text()
HOUSE, LAPTOP = "jacinth", "xena"


def bare() -> Topology:
    """Return the scene with two hosts on which Anubis was never set up."""
    topology = scene().without_daemons()
    for name in (HOUSE, LAPTOP):
        kept = [f for f in topology.host(name).files if not f.path.startswith("/etc/anubis/")]
        topology = topology.change(name, files=tuple(kept))
    return topology


def stanza(output: str) -> str:
    """Return the [Peer] section that `anubis init` prints for the other administrator."""
    begin = output.index("[Peer]")
    return output[begin : output.index("\n\n", begin)] + "\n"


@pytest.fixture(scope="module")
def hosts(make_lab: MakeLab) -> Lab:
    """Set both hosts up as the README says, and start their daemons."""
    lab = make_lab(bare())
    printed = {
        host: lab.run(
            host, "anubis", "init", "--name", name, "--address", address, check=True
        ).stdout
        for host, name, address in (
            (HOUSE, "house", "10.66.0.1/32"),
            (LAPTOP, "laptop", "10.66.0.2/32"),
        )
    }
    house = stanza(printed[HOUSE]).replace("# Endpoint = HOST:4296", "Endpoint = 203.0.113.1:4296")
    with lab.path(LAPTOP, "/etc/anubis/authorized_peers").open("a") as file:
        file.write(house)
    with lab.path(HOUSE, "/etc/anubis/authorized_peers").open("a") as file:
        file.write(stanza(printed[LAPTOP]))
    for host in (HOUSE, LAPTOP):
        lab.run(host, "anubis", "check", check=True)
        lab.daemon(host).start()
    return lab


def test_the_readme_has_these_commands() -> None:
    """What is followed here is what the README says."""
    for command in (
        "anubis init --name house --address 10.66.0.1/32",
        "anubis init --name laptop --address 10.66.0.2/32",
        "anubis check",
        "anubis up house",
        "anubis status",
        "anubis down house",
    ):
        assert command in README


def test_up_status_down(hosts: Lab) -> None:
    """The laptop reaches the house while the connection is up, and not before and after."""
    ping = ("ping", "-n", "-c1", "-W1", "10.66.0.1")
    assert hosts.run(LAPTOP, *ping).returncode != 0
    up = hosts.run(LAPTOP, "anubis", "up", "house")
    assert (up.returncode, up.stderr) == (0, "")
    hosts.run(LAPTOP, *ping, check=True)
    status = json.loads(hosts.run(LAPTOP, "anubis", "status", "--json", check=True).stdout)
    assert [(c["name"], c["state"]) for c in status["connections"]] == [("house", "up")]
    hosts.run(LAPTOP, "anubis", "down", "house", check=True)
    assert hosts.run(LAPTOP, *ping).returncode != 0


def shows(hosts: Lab, host: str, text: str) -> bool:
    """Return whether `wg show` on a host prints just this text."""
    return hosts.run(host, "wg", "show", check=True).stdout == text


def test_afterwards_wireguard_is_as_before(hosts: Lab) -> None:
    """`wg show` is byte for byte what it was, sessions and learned addresses included."""
    before = {host: hosts.run(host, "wg", "show", check=True).stdout for host in (HOUSE, LAPTOP)}
    hosts.run(LAPTOP, "anubis", "up", "house", check=True)
    assert "latest handshake" in hosts.run(HOUSE, "wg", "show").stdout
    hosts.run(LAPTOP, "anubis", "down", "house", check=True)
    for host, text in before.items():
        wait_until(partial(shows, hosts, host, text), 2, f"wg show on {host} as before")
