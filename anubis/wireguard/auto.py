"""The choice between kernel and userspace.

Owns the rule: a new interface is the kernel's where the kernel can, and an existing one belongs
to whoever serves it. Refuses to know how either works.
"""

from __future__ import annotations

from typing import Literal

from anubis.wireguard.backend import Backend
from anubis.wireguard.errors import BackendUnavailable, DeviceNotFound
from anubis.wireguard.kernel import KernelBackend
from anubis.wireguard.types import Device, DeviceChange
from anubis.wireguard.userspace import UserspaceBackend

__all__ = ["AutoBackend", "open_backend"]


def open_backend(choice: Literal["auto", "kernel", "userspace"]) -> Backend:
    """Make the backend that the configuration names. Does nothing to the system yet."""
    match choice:
        case "kernel":
            return KernelBackend()
        case "userspace":
            return UserspaceBackend()
        case "auto":
            return AutoBackend(KernelBackend(), UserspaceBackend())


class AutoBackend:
    """Kernel where it can, else userspace; each existing interface where it lives."""

    def __init__(self, kernel: Backend, userspace: UserspaceBackend) -> None:
        self._kernel = kernel
        self._userspace = userspace

    async def create(self, interface: str) -> None:
        """Make an interface. Raises DeviceExists, BackendUnavailable, BackendPermissionDenied."""
        try:
            await self._kernel.create(interface)
        except BackendUnavailable:
            await self._userspace.create(interface)

    async def configure(self, interface: str, change: DeviceChange) -> None:
        """Apply a change. Raises DeviceNotFound or BackendError."""
        try:
            await self._home(interface).configure(interface, change)
        except BackendUnavailable as error:
            raise _not_found(error) from error

    async def device(self, interface: str) -> Device:
        """Read an interface with all its peers. Raises DeviceNotFound or BackendError."""
        try:
            return await self._home(interface).device(interface)
        except BackendUnavailable as error:
            raise _not_found(error) from error

    async def delete(self, interface: str) -> None:
        """Remove an interface. Raises DeviceNotFound or BackendError."""
        try:
            await self._home(interface).delete(interface)
        except BackendUnavailable as error:
            raise _not_found(error) from error

    async def close(self) -> None:
        """Close both."""
        await self._kernel.close()
        await self._userspace.close()

    def _home(self, interface: str) -> Backend:
        # The socket first, as wg(8) does: only a userspace program has one.
        return self._userspace if self._userspace.serves(interface) else self._kernel


def _not_found(error: BackendUnavailable) -> DeviceNotFound:
    """Without WireGuard in the kernel, and without a socket, there is no such interface."""
    return DeviceNotFound(
        f"{error.interface}: no WireGuard interface of that name", error.interface, error.errno
    )
