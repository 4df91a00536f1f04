"""The one interface through which WireGuard is controlled, whatever runs it.

Four operations, all asynchronous, all raising only `anubis.wireguard.errors`. `configure` is
declarative: applying the same change twice is the same as once.
"""

from __future__ import annotations

from typing import Protocol

from anubis.wireguard.types import Device, DeviceChange

__all__ = ["Backend"]


class Backend(Protocol):
    """Implemented by `kernel`, `userspace`, `auto` and `fake`; one contract test serves all."""

    async def create(self, interface: str) -> None:
        """Make an interface, down and unconfigured.

        Raises DeviceExists, BackendUnavailable, BackendPermissionDenied.
        """

    async def configure(self, interface: str, change: DeviceChange) -> None:
        """Apply a change. Raises DeviceNotFound or BackendError.

        WireGuard has no transactions: when it refuses a part, what came before stays applied.
        """

    async def device(self, interface: str) -> Device:
        """Read an interface with all its peers. Raises DeviceNotFound or BackendError."""

    async def delete(self, interface: str) -> None:
        """Remove an interface, whoever made it. Raises DeviceNotFound or BackendError."""

    async def close(self) -> None:
        """Release what the backend itself holds; interfaces stay as they are."""
