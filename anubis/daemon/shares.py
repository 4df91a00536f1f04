"""Several owners, one network state: each puts its share, the whole is applied.

The control plane and production both need routes and rules; neither knows of the other's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anubis.network.apply import Network
from anubis.network.changes import Mended, Step, steps
from anubis.network.state import NetworkState
from anubis.network.watch import Change

__all__ = ["Shares"]


class Shares:
    """The shares of the network state, by owner. Changes are serialized."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._shares: dict[str, NetworkState] = {}
        self._held = False
        self._lock = asyncio.Lock()

    async def put(self, owner: str, share: NetworkState) -> None:
        """Replace the share of an owner; on an error everything is as it was before."""
        async with self._lock:
            shares = {**self._shares, owner: share}
            if not self._held:
                await self.network.apply(_whole(shares))
            self._shares = shares

    def foresee(self, owner: str, share: NetworkState) -> list[Step]:
        """Return the steps by which `put` would replace the share of an owner now."""
        return steps(self.network.applied, _whole({**self._shares, owner: share}))

    async def reduce(self, owner: str, share: NetworkState) -> None:
        """Replace the share of an owner by a smaller one, and take away what that can be taken.

        Raises LocalFailure if something is left; it is no longer wanted, and `restore` takes it.
        """
        async with self._lock:
            self._shares = {**self._shares, owner: share}
            if not self._held:
                await self.network.reduce(_whole(self._shares))

    async def restore(self, look: Change, allow: Callable[[str], bool]) -> tuple[Mended, ...]:
        """Look for what strangers did to any share, and mend it: `Network.restore`."""
        async with self._lock:
            return await self.network.restore(_whole(self._shares), look, allow)

    @property
    def wanted(self) -> NetworkState:
        """What all owners want together."""
        return _whole(self._shares)

    async def missing(self) -> NetworkState:
        """Return what of that is not there, changing nothing. Raises NetworkError."""
        async with self._lock:
            return await self.network.missing(self.wanted)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Only note what is put; the next put outside applies all.

        For a start after a crash: what an earlier run left must not be taken away because one
        owner has spoken and the other not yet.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False


def _whole(shares: dict[str, NetworkState]) -> NetworkState:
    whole = NetworkState()
    for share in shares.values():
        whole |= share
    return whole
