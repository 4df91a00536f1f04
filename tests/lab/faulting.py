"""Make one call to WireGuard, netlink, nftables or a kernel parameter fail, in a lab's daemon.

Owns where the daemon touches the host: the backend interface, the one gate of rtnetlink, `nft`, and
`/proc/sys`. A call fails before it has any effect, with the error that its module has for a number
of errno(3). Refuses to know which is to fail (`crashing`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import iscoroutine
from typing import Any, Literal
from unittest.mock import patch

from anubis.network import nft, watch
from anubis.network.errors import explain
from anubis.network.rtnetlink import Netlink
from anubis.network.sysctl import read_sysctl, write_sysctl
from anubis.wireguard.auto import open_backend
from anubis.wireguard.backend import Backend
from anubis.wireguard.errors import backend_error
from anubis.wireguard.types import Device, DeviceChange

__all__ = ["install"]

Gate = Callable[[str], int]  # the number of errno(3) with which a call is to fail; 0: it is not


class _Faulty:
    """A backend whose calls pass the gate."""

    def __init__(self, real: Backend, fails: Gate) -> None:
        self._real = real
        self._fails = fails

    async def create(self, interface: str) -> None:
        self._pass("create", interface)
        await self._real.create(interface)

    async def configure(self, interface: str, change: DeviceChange) -> None:
        self._pass("configure", interface)
        await self._real.configure(interface, change)

    async def device(self, interface: str) -> Device:
        self._pass("read", interface)
        return await self._real.device(interface)

    async def delete(self, interface: str) -> None:
        self._pass("delete", interface)
        await self._real.delete(interface)

    async def close(self) -> None:
        await self._real.close()

    def _pass(self, what: str, interface: str) -> None:
        if number := self._fails(f"wireguard: {what} {interface}"):
            raise backend_error(interface, number, f"cannot {what}")


def install(fails: Gate) -> None:
    """Lead every call of this process past the gate."""

    def backend(choice: Literal["auto", "kernel", "userspace"]) -> Backend:
        return _Faulty(open_backend(choice), fails)

    patch("anubis.daemon.main.open_backend", backend).start()
    patch.object(Netlink, "ask", _faulty_ask(Netlink.ask, fails)).start()
    patch("anubis.network.nft._nft", _faulty_nft(nft._nft, fails)).start()
    patch("anubis.network.watch._subscribed", _faulty_watch(watch._subscribed, fails)).start()
    for verb, function in (("read", read_sysctl), ("write", write_sysctl)):
        faulty = _faulty_sysctl(verb, function, fails)
        patch(f"anubis.network.apply.{function.__name__}", faulty).start()


def _faulty_ask(real: Any, fails: Gate) -> Any:
    async def ask(self: Netlink, what: str, answer: Any) -> Any:
        if number := fails(f"netlink: {what}"):
            if iscoroutine(answer):
                answer.close()
            raise explain(what, number)
        return await real(self, what, answer)

    return ask


def _faulty_nft(real: Any, fails: Gate) -> Any:
    async def run(what: str, *arguments: Any) -> Any:
        if number := fails(f"nft: {what}"):
            raise explain(what, number)
        return await real(what, *arguments)

    return run


def _faulty_watch(real: Any, fails: Gate) -> Any:
    def subscribed(*arguments: Any) -> Any:
        if number := fails("netlink: watch the network"):
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    return subscribed


def _faulty_sysctl(verb: str, real: Any, fails: Gate) -> Any:
    def faulty(name: str, *value: str) -> Any:
        if number := fails(f"sysctl: {verb} {name}"):
            raise explain(f"{verb} the kernel parameter {name}", number)
        return real(name, *value)

    return faulty
