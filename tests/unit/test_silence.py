"""After the last word: a session that could not be forgotten is forgotten later."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from anubis.daemon import silence
from anubis.daemon.silence import Silence
from anubis.errors import LocalFailure

if TYPE_CHECKING:
    from anubis.daemon.control_plane import ControlPlane
    from anubis.files.authorized_peers import AuthorizedPeer
    from anubis.gatekeeper import Gatekeeper


@dataclass
class House:
    """Stands for the control plane and the gatekeeper, and for the state file."""

    failures: int
    forgotten: asyncio.Event = field(default_factory=asyncio.Event)
    saved: list[tuple[str, ...]] = field(default_factory=list)
    bare: set[str] = field(default_factory=set)

    def connection(self, _name: str) -> None:
        """Have nothing up."""

    def is_asking(self, _peer: AuthorizedPeer) -> bool:
        """Ask nobody."""
        return False

    async def has_session(self, _peer: AuthorizedPeer) -> bool:
        """Have one until it is forgotten."""
        return not self.forgotten.is_set()

    async def forget(self, _peer: AuthorizedPeer) -> None:
        """Forget, when all failures are over."""
        if self.failures:
            self.failures -= 1
            raise LocalFailure("cannot configure anubis0")
        self.forgotten.set()

    def silence(self) -> Silence:
        """Return what is tested."""
        control, gatekeeper = cast("ControlPlane", self), cast("Gatekeeper", self)
        found = Silence(control, gatekeeper, lambda: self.saved.append(found.names))
        return found


PEER = cast("AuthorizedPeer", SimpleNamespace(name="xena"))


async def test_a_session_that_cannot_be_forgotten_is_forgotten_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever fails, and however often; and a daemon that is killed meanwhile finds it noted."""
    monkeypatch.setattr(silence, "QUIET_SECONDS", 0.001)
    house = House(failures=3)
    await house.silence().fall(PEER)
    assert house.saved == [("xena",)]
    await asyncio.wait_for(house.forgotten.wait(), 5)


async def test_who_has_spoken_is_written_down_at_once() -> None:
    """Also if nothing else changes, as after a request that was refused."""
    house = House(failures=0)
    one = house.silence()
    one.heard(PEER)
    one.heard(PEER)
    assert house.saved == [("xena",)]
    one.stop()


async def test_the_session_of_a_peer_with_wireguard_only_stays() -> None:
    """Nobody there would begin another one."""
    house = House(failures=0, bare={"xena"})
    await house.silence().fall(PEER)
    assert not house.forgotten.is_set()
