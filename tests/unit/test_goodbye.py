"""Goodbyes have one end, whenever they begin, and what cannot be said harms nobody."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from anubis.daemon.control_plane import ControlPlane
from anubis.daemon.goodbye import GOODBYE_SECONDS, Goodbyes, Reason
from anubis.errors import LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.gatekeeper import Gatekeeper
from anubis.protocol.wire import Verb


class Deaf:
    """Stands for the control plane: remembers what was asked, and fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Verb, float]] = []

    async def ask(
        self, peer: AuthorizedPeer, verb: Verb, *, deadline: float, **_more: object
    ) -> None:
        """Find no way."""
        self.asked.append((peer.name, verb, deadline))
        raise LocalFailure("no way")


def goodbyes_of(deaf: Deaf, *bare: str) -> Goodbyes:
    """Return what is tested; where there are the `bare` only WireGuard runs."""
    gatekeeper = cast("Gatekeeper", SimpleNamespace(bare=set(bare)))
    return Goodbyes(cast("ControlPlane", deaf), gatekeeper)


async def test_all_goodbyes_of_an_ending_daemon_have_one_deadline() -> None:
    """Neither a second word nor time that passes puts the end off."""
    goodbyes, loop = goodbyes_of(Deaf()), asyncio.get_running_loop()
    goodbyes.hurry()
    end = goodbyes.deadline()
    assert end <= loop.time() + GOODBYE_SECONDS
    await asyncio.sleep(0.001)
    assert loop.time() + GOODBYE_SECONDS > end
    goodbyes.hurry()
    assert goodbyes.deadline() == end


async def test_every_far_end_is_told_though_others_cannot_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All are asked, each failure is logged, nothing is raised."""
    deaf = Deaf()
    peers = [cast("AuthorizedPeer", SimpleNamespace(name=name)) for name in ("jacinth", "surya")]
    await goodbyes_of(deaf).say_all(peers, Reason.SHUTDOWN)
    assert [each[:2] for each in deaf.asked] == [("jacinth", Verb.GONE), ("surya", Verb.GONE)]
    for name in ("jacinth", "surya"):
        assert f"not_told connection={name}" in caplog.text


async def test_where_only_wireguard_runs_nobody_is_told() -> None:
    """What stays unanswered would have the peer made anew, and its own session be worth nothing."""
    deaf = Deaf()
    peer = cast("AuthorizedPeer", SimpleNamespace(name="selen"))
    assert not await goodbyes_of(deaf, "selen").say(peer, Reason.EXPIRED)
    assert deaf.asked == []
