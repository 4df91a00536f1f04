"""The small shells of the daemon: readiness, names, shares of the network."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import cast

import pytest

from anubis.daemon.notify import notify, watchdog_seconds
from anubis.daemon.resolver import resolve
from anubis.daemon.shares import Shares
from anubis.errors import LocalFailure
from anubis.files.authorized_peers import NamedEndpoint
from anubis.network.apply import Network
from anubis.network.state import NetworkState, Route
from anubis.wireguard.types import Endpoint

ONE = NetworkState(routes=frozenset({Route(ip_network("10.1.0.0/16"), 214, "wg0")}))
TWO = NetworkState(routes=frozenset({Route(ip_network("10.2.0.0/16"), 214, "wg0")}))


class RecordingNetwork:
    """Stands for the network: remembers what was applied, and can fail."""

    def __init__(self) -> None:
        self.applied: list[NetworkState] = []
        self.broken = False

    async def apply(self, desired: NetworkState) -> None:
        """Remember or fail."""
        if self.broken:
            raise LocalFailure("broken")
        self.applied.append(desired)


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One datagram with the assignments goes to $NOTIFY_SOCKET."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        notify("READY=1", "STATUS=ready")
        assert receiver.recv(100) == b"READY=1\nSTATUS=ready"


def test_a_deaf_systemd_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a socket, or with one that nobody reads, nothing happens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")


@pytest.mark.parametrize("host", ["203.0.113.1", "2001:db8::1"])
async def test_an_address_is_not_looked_up(host: str) -> None:
    """A literal endpoint needs no name server."""
    assert await resolve(NamedEndpoint(host, 4296)) == (Endpoint(ip_address(host), 4296),)


async def test_a_name_is_resolved() -> None:
    """A name becomes addresses with the endpoint's port."""
    found = await resolve(NamedEndpoint("localhost", 4296))
    assert {str(endpoint.address) for endpoint in found} <= {"127.0.0.1", "::1"}
    assert {endpoint.port for endpoint in found} == {4296}


async def test_a_bad_name_says_which() -> None:
    """What cannot be resolved is named, with what to do. No name server is asked about this."""
    impossible = "x" * 64
    with pytest.raises(LocalFailure, match=impossible) as raised:
        await resolve(NamedEndpoint(impossible, 4296))
    assert raised.value.hint


async def test_shares_are_applied_together() -> None:
    """Each owner's share is replaced, the others' stay."""
    network = RecordingNetwork()
    shares = Shares(cast("Network", network))
    await shares.put("control", ONE)
    await shares.put("production", TWO)
    await shares.put("production", NetworkState())
    assert network.applied == [ONE, ONE | TWO, ONE]


async def test_a_share_that_fails_is_forgotten() -> None:
    """After a failure the next change starts from what is in place."""
    network = RecordingNetwork()
    shares = Shares(cast("Network", network))
    await shares.put("control", ONE)
    network.broken = True
    with pytest.raises(LocalFailure):
        await shares.put("production", TWO)
    network.broken = False
    await shares.put("control", ONE)
    assert network.applied == [ONE, ONE]


async def test_held_shares_are_applied_by_the_next() -> None:
    """While held nothing is applied, so nothing is taken away either."""
    network = RecordingNetwork()
    shares = Shares(cast("Network", network))
    with shares.held():
        await shares.put("production", TWO)
    assert network.applied == []
    await shares.put("control", ONE)
    assert network.applied == [ONE | TWO]


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "180000000"}, 180.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "42"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_wants_a_sign_of_life(
    environment: dict[str, str], seconds: float | None
) -> None:
    """As often as it says, of the process that it names (sd_watchdog_enabled(3))."""
    assert watchdog_seconds(environment, 42) == seconds
