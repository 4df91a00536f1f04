"""Every accepted request is answered, also when carrying it out meets a bug."""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from anubis.daemon.budget import CHANGES, REQUESTS
from anubis.daemon.clock import Clock
from anubis.daemon.parts import Parts
from anubis.daemon.responding import Responding
from anubis.daemon.serving import Serving
from anubis.daemon.watermarks import Watermarks
from anubis.errors import LocalFailure
from anubis.protocol.channel import Keyring
from anubis.protocol.initiator import Initiator
from anubis.protocol.responder import Responder
from anubis.protocol.wire import Reply, Result, Verb
from anubis.wireguard.keys import PrivateKey, PublicKey

SOURCE = IPv6Address("fd61:6e75:6269:7300::1")
PORT = 50000  # not a daemon's: its session is left alone


@dataclass
class Entry:
    """An entry of the authorized-peers file, as far as it is needed here."""

    public_key: PublicKey
    name: str = "xena"

    def by_control_address(self, _address: IPv6Address) -> Entry:
        """Be the only tunnel."""
        return self

    def by_public_key(self, _key: PublicKey) -> Entry:
        """Be the only key."""
        return self


@dataclass
class Failing:
    """Stands for all parts of the daemon; deciding fails, and what is sent is kept."""

    error: Exception
    sent: list[bytes] = field(default_factory=list)

    @property
    def peers(self) -> SimpleNamespace:
        """Know every peer."""
        return SimpleNamespace(by_name=self.peer)

    def judge(self, *_arguments: object) -> None:
        """Fail as a gatekeeper that has a bug, or as a host that cannot."""
        raise self.error

    def peer(self, name: str) -> SimpleNamespace:
        """Know every peer."""
        return SimpleNamespace(name=name)

    def connection(self, _name: str) -> None:
        """Have nothing up."""

    def send(self, datagram: bytes, _source: IPv6Address, _port: int) -> None:
        """Keep a reply."""
        self.sent.append(datagram)


def house(
    failing: Failing, tmp_path: Path, clock: Clock | None = None
) -> tuple[Responding, Keyring, Keyring]:
    """Return a house, its keyring, and that of the one peer it has."""
    draw = random.Random(1).randbytes
    ours, theirs = (Keyring(PrivateKey.generate(draw)) for _ in range(2))
    responder = Responder(ours, Entry(theirs.public_key), draw, (1,), floor_ns=0)
    parts = SimpleNamespace(
        gatekeeper=failing,
        production=failing,
        control=failing,
        clock=clock or Clock(),
        silence=SimpleNamespace(heard=lambda _peer: None, stop=lambda: None),
        note_bare=lambda _peer: None,
    )
    watermarks = Watermarks(tmp_path / "a", tmp_path / "b", responder)
    serving = Serving(cast("Parts", parts))
    return Responding(responder, watermarks, serving, cast("Parts", parts)), ours, theirs


@pytest.mark.parametrize("error", [LocalFailure("no route"), RuntimeError("a bug")])
async def test_who_asked_is_told_of_a_failure(error: Exception, tmp_path: Path) -> None:
    """The reply says `failed`, and nothing of what went wrong here."""
    failing = Failing(error)
    responding, ours, theirs = house(failing, tmp_path)
    initiator = Initiator(
        theirs, ours.public_key, Verb.UP, (1,), 10.0, clock=time.time_ns, random=os.urandom
    )
    responding.on_request(initiator.start(0.0), SOURCE, PORT)
    await asyncio.wait_for(responding.stop(), 5)
    (reply,) = failing.sent
    initiator.on_datagram(reply, 0.1)
    assert isinstance(initiator.outcome, Reply)
    assert initiator.outcome.result == Result.FAILED
    assert str(error) not in initiator.outcome.reason


async def test_who_asks_too_often_is_told_so(tmp_path: Path) -> None:
    """Beyond its budget a peer gets `busy`, without anything being done."""
    failing = Failing(LocalFailure("asked"))
    times = chain([0.0], repeat(3600.0))  # an hour after the start, and then no time passes
    stopped = Clock(boot=lambda: next(times))
    responding, ours, theirs = house(failing, tmp_path, stopped)
    results = []
    for asked in range(REQUESTS.burst + 20):
        initiator = Initiator(
            theirs, ours.public_key, Verb.STATUS, (1,), 10.0, clock=time.time_ns, random=os.urandom
        )
        responding.on_request(initiator.start(0.0), SOURCE, PORT)
        while len(failing.sent) == asked and responding._tasks:
            await asyncio.wait(set(responding._tasks), timeout=5)
        initiator.on_datagram(failing.sent[-1], 0.1)
        assert isinstance(initiator.outcome, Reply)
        results.append(initiator.outcome.result)
    assert results[: REQUESTS.burst] == [Result.FAILED] * REQUESTS.burst
    assert results[-1] == Result.BUSY


async def test_changes_are_paced(tmp_path: Path) -> None:
    """A peer that goes up and down at once is carried out at its rate, and refused nothing."""
    failing = Failing(LocalFailure("asked"))
    responding, ours, theirs = house(failing, tmp_path)
    asked = CHANGES.burst + 3
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for _ in range(asked):
        initiator = Initiator(
            theirs, ours.public_key, Verb.UP, (1,), 10.0, clock=time.time_ns, random=os.urandom
        )
        responding.on_request(initiator.start(0.0), SOURCE, PORT)
        while len(responding._tasks) > 4:
            await asyncio.wait(set(responding._tasks), timeout=5, return_when="FIRST_COMPLETED")
    await asyncio.wait(set(responding._tasks), timeout=5)
    assert len(failing.sent) == asked
    assert loop.time() - begin >= 2 / CHANGES.per_second
