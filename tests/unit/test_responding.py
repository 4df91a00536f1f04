"""Every accepted request is answered, also when carrying it out meets a bug."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from anubis.daemon.clock import Clock
from anubis.daemon.parts import Parts
from anubis.daemon.responding import Responding
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


@pytest.mark.parametrize("error", [LocalFailure("no route"), RuntimeError("a bug")])
async def test_who_asked_is_told_of_a_failure(error: Exception, tmp_path: Path) -> None:
    """The reply says `failed`, and nothing of what went wrong here."""
    draw = random.Random(1).randbytes
    ours, theirs = (Keyring(PrivateKey.generate(draw)) for _ in range(2))
    responder = Responder(ours, Entry(theirs.public_key), draw, (1,), floor_ns=0)
    failing = Failing(error)
    parts = SimpleNamespace(
        gatekeeper=failing,
        production=failing,
        control=failing,
        clock=Clock(),
        save=lambda: None,
    )
    watermarks = Watermarks(tmp_path / "a", tmp_path / "b", responder)
    responding = Responding(responder, watermarks, cast("Parts", parts))
    initiator = Initiator(
        theirs, ours.public_key, Verb.UP, (1,), 10.0, clock=time.time_ns, random=draw
    )
    responding.on_request(initiator.start(0.0), SOURCE, PORT)
    await asyncio.wait_for(responding.stop(), 5)
    (reply,) = failing.sent
    initiator.on_datagram(reply, 0.1)
    assert isinstance(initiator.outcome, Reply)
    assert initiator.outcome.result == Result.FAILED
    assert str(error) not in initiator.outcome.reason
