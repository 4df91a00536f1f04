"""WireGuard in the Linux kernel.

Owns the worker thread on which all of it happens, the choice of tool, and the mapping of their
errors. Links are made and deleted by pyroute2, everyday changes are wgnlpy's; reading and bulk
loading are `netlink`'s, which says why. Neither library is imported before it is needed nor used
outside the worker thread: they are slow to load, they block, and they cannot be built inside a
running event loop.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Address
from typing import Any, TypeVar

from anubis.wireguard.errors import (
    BackendError,
    BackendUnavailable,
    DeviceNotFound,
    backend_error,
)
from anubis.wireguard.names import check_interface_name
from anubis.wireguard.netlink.requests import scope_number
from anubis.wireguard.netlink.transport import apply_change, check_available, read_device
from anubis.wireguard.types import Device, DeviceChange, Endpoint, PeerChange

__all__ = ["KernelBackend"]

_KIND = "wireguard"  # IFLA_INFO_KIND
_EVERYDAY_ALLOWED_IPS = 1_000  # wgnlpy fails at about 3,000
_Result = TypeVar("_Result")


class KernelBackend:
    """Controls links of type wireguard, in the network namespace of its first operation.

    (That is where its thread is started, and a thread keeps its namespace.)
    """

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="wireguard-kernel")
        self._control: Any = None  # a wgnlpy.WireGuard, touched by the worker only

    async def create(self, interface: str) -> None:
        """Make a link. Raises DeviceExists, BackendUnavailable, BackendPermissionDenied."""
        await self._on_worker(interface, "cannot create", lambda: _create_link(interface))

    async def configure(self, interface: str, change: DeviceChange) -> None:
        """Apply a change. Raises DeviceNotFound or BackendError."""
        apply = self._apply_everyday if _is_everyday(change) else apply_change
        await self._on_worker(interface, "cannot configure", lambda: apply(interface, change))

    async def device(self, interface: str) -> Device:
        """Read an interface with all its peers. Raises DeviceNotFound or BackendError."""
        return await self._on_worker(interface, "cannot read", lambda: read_device(interface))

    async def delete(self, interface: str) -> None:
        """Delete a link, if it is of type wireguard. Raises DeviceNotFound or BackendError."""
        await self._on_worker(interface, "cannot delete", lambda: _delete_link(interface))

    async def close(self) -> None:
        """Close the netlink socket and end the thread; interfaces stay."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._drop_control)
        self._worker.shutdown()

    # On the worker thread

    async def _on_worker(
        self, interface: str, doing: str, function: Callable[[], _Result]
    ) -> _Result:
        check_interface_name(interface)

        def mapped() -> _Result:
            from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415  slow to load

            try:
                return function()
            except NetlinkError as error:
                if error.code == errno.ENOENT:
                    self._drop_control()  # the module was loaded anew and has another number
                raise backend_error(interface, error.code, doing) from error
            except OSError as error:
                raise backend_error(interface, error.errno or errno.EIO, doing) from error

        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, mapped)
        except BackendError as error:
            if error.errno == errno.EOPNOTSUPP and not isinstance(error, BackendUnavailable):
                raise _not_wireguard(interface) from error
            raise

    def _drop_control(self) -> None:
        if self._control is not None:
            # wgnlpy closes its socket in its destructor only, which would come too late, and on
            # another thread, as long as the traceback of some error refers to the object.
            self._control.__del__()
            self._control = None

    def _apply_everyday(self, interface: str, change: DeviceChange) -> None:
        if self._control is None:
            from wgnlpy import WireGuard  # noqa: PLC0415  slow to load

            check_available(interface)  # wgnlpy leaks an event loop when it finds no WireGuard
            self._control = WireGuard()
        if change != DeviceChange(peers=change.peers) or not change.peers:
            self._control.set_interface(
                interface,
                private_key=None if change.private_key is None else bytes(change.private_key),
                listen_port=change.listen_port,
                fwmark=change.fwmark,
                replace_peers=change.replace_peers,
            )
        for peer in change.peers:
            if peer.remove:
                self._control.remove_peers(interface, bytes(peer.public_key))
            else:
                self._control.set_peer(interface, bytes(peer.public_key), **_peer_arguments(peer))


def _is_everyday(change: DeviceChange) -> bool:
    """Tell whether wgnlpy can do it in whole: one peer, and no removal that must not be seen."""
    return len(change.peers) <= 1 and not any(
        peer.replace or len(peer.allowed_ips or ()) > _EVERYDAY_ALLOWED_IPS for peer in change.peers
    )


def _peer_arguments(peer: PeerChange) -> dict[str, Any]:
    preshared_key = None if peer.preshared_key is None else bytes(peer.preshared_key)
    return {
        "preshared_key": preshared_key,
        "endpoint": None if peer.endpoint is None else _socket_address(peer.endpoint),
        "persistent_keepalive_interval": peer.persistent_keepalive,
        "allowedips": None if peer.allowed_ips is None else list(peer.allowed_ips),
        "update_only": peer.update_only,
    }


def _socket_address(endpoint: Endpoint) -> dict[str, Any]:
    """Return the fields of wgnlpy's socket addresses: a text would go through getaddrinfo."""
    address = endpoint.address
    if isinstance(address, IPv6Address) and address.scope_id:
        bare = IPv6Address(address.packed)
        return {"addr": bare, "port": endpoint.port, "scope_id": scope_number(address)}
    return {"addr": address, "port": endpoint.port}


def _create_link(interface: str) -> None:
    from pyroute2 import IPRoute  # noqa: PLC0415  slow to load
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415  slow to load

    with IPRoute() as route:
        try:
            route.link("add", ifname=interface, kind=_KIND)
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                raise _unavailable(interface, error.code) from error
            raise


def _delete_link(interface: str) -> None:
    from pyroute2 import IPRoute  # noqa: PLC0415  slow to load

    with IPRoute() as route:
        (link,) = route.link("get", ifname=interface)
        if link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") != _KIND:
            raise _not_wireguard(interface)
        route.link("del", index=link["index"])


def _unavailable(interface: str, number: int) -> BackendUnavailable:
    return BackendUnavailable(
        f"{interface}: this kernel has no WireGuard (it came with Linux 5.6); "
        "without it there is wireguard-go: apt install wireguard-go",
        interface,
        number,
    )


def _not_wireguard(interface: str) -> DeviceNotFound:
    return DeviceNotFound(
        f"{interface}: that interface is not WireGuard's", interface, errno.EOPNOTSUPP
    )
