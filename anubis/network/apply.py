"""Bring the host's network from what Anubis has in it to what Anubis wants: all of it or nothing.

Owns the belief of what is in place, the undoing of what was half done, and the values that kernel
parameters had before. Refuses to decide what is wanted (`plan`) and in which order (`changes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from anubis.errors import LocalFailure
from anubis.network.changes import Mended, Step, steps
from anubis.network.errors import NetworkError
from anubis.network.links import IPAddress, IPInterface, Links
from anubis.network.nft import Nft
from anubis.network.precedence import in_place
from anubis.network.rtnetlink import Netlink, link_index
from anubis.network.state import NFT_TABLES, NetworkState, Sysctl
from anubis.network.sysctl import read_sysctl, write_sysctl
from anubis.network.watch import Change

__all__ = ["Network"]

_log = logging.getLogger(__name__)


def _forget(_saved: Mapping[str, str]) -> None:
    """Keep the previous values of kernel parameters for this process's life only."""


class Network:
    """The network of the namespace that the process is in; an async context manager.

    Leaving the context closes the socket and leaves the network as it is. `saved_sysctls` is what
    a previous run saved; `remember` is called with the new values *before* a kernel parameter is
    first changed and after it is put back, so that they outlive a kill. It raises LocalFailure if
    it cannot, and then the parameter is not changed.
    """

    def __init__(
        self,
        saved_sysctls: Mapping[str, str] | None = None,
        remember: Callable[[Mapping[str, str]], None] = _forget,
    ) -> None:
        self.netlink = Netlink()
        self.nft = Nft()
        self._links = Links(self.netlink)
        self._saved = dict(saved_sysctls or {})
        self._remember = remember
        self._applied = NetworkState()
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.netlink.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.netlink.close()

    @property
    def applied(self) -> NetworkState:
        """What is believed to be in place; strangers may have deleted some of it."""
        return self._applied

    @property
    def saved_sysctls(self) -> dict[str, str]:
        """The values that kernel parameters had before they were first changed, by name."""
        return dict(self._saved)

    async def adopt(self, desired: NetworkState) -> NetworkState:
        """Read what is there of ours, from a previous run or this one, and believe in it.

        Changes nothing; the next `apply` starts from there. nftables tables are ours by name:
        the usual ones and those of `desired`. Also the way to notice what strangers deleted.
        Raises NetworkError.
        """
        async with self._lock:
            names = NFT_TABLES | {(table.family, table.name) for table in desired.tables}
            self._applied = NetworkState(
                await self.netlink.routes(),
                await self.netlink.rules(settle=True),
                await self.nft.tables(names),
                frozenset(Sysctl(name, read_sysctl(name)) for name in self._saved),
            )
            return self._applied

    async def apply(self, desired: NetworkState) -> None:
        """Make the difference between what is applied and `desired`.

        On NetworkError, and when cancelled, everything that this call did is undone, in reverse.
        What a stranger deleted meanwhile is no error where it should be deleted.
        """
        async with self._lock:
            before = self._applied
            change = asyncio.create_task(self._change(desired))
            try:
                await asyncio.shield(change)
            except asyncio.CancelledError:
                # A step that was sent cannot be called back: let the change end, then undo it.
                if await _settled(change):
                    await _settled(asyncio.create_task(self._change(before)))
                raise

    async def reduce(self, desired: NetworkState) -> None:
        """Take away what `desired` has not, whatever of it fails; `restore` tries that again.

        Raises the first NetworkError when all was tried. Not to be cancelled.
        """
        async with self._lock:
            failures = []
            for step in steps(self._applied, desired):
                try:
                    await self._perform(step)
                except NetworkError as error:
                    failures.append(error)
                else:
                    self._applied = step.after(self._applied)
            if failures:
                raise failures[0]

    async def restore(
        self, desired: NetworkState, look: Change, allow: Callable[[str], bool]
    ) -> tuple[Mended, ...]:
        """Look at the kernel again and mend what of ours is not as `desired`; say what was not.

        Looks only at the kinds in `look`, and leaves what `allow` refuses, asked by the name that
        `Mended.what` has. A single failure does not stop it: what was not mended is believed to be
        in place as before, for there may be no way to have it now. What an earlier change could not
        take away is found, whatever its kind. Raises NetworkError if it cannot look. Not to be
        cancelled.
        """
        async with self._lock:
            mended, left = [], NetworkState()
            found = await self._found(desired, look) | (self._applied - desired)
            overtaken = {in_place(rule) for rule in found.rules if rule.astray}
            for step in steps(found, desired):
                one = Mended.by(step)
                if overtaken & step.added.rules:
                    one = replace(one, how="overtaken")
                if allow(one.what):
                    one = await self._mend(step, one)
                    if one.failure or not any(rule.astray for rule in step.removed.rules):
                        mended.append(one)
                    if one.failure is None:
                        continue
                if not step.added:
                    left |= step.removed
            self._applied = desired | left
            return tuple(mended)

    async def missing(self, desired: NetworkState) -> NetworkState:
        """Return what of `desired` the kernel has not, changing nothing. Raises NetworkError."""
        async with self._lock:
            parameters = (each for each in desired.sysctls if read_sysctl(each.name) == each.value)
            return desired - NetworkState(
                await self.netlink.routes(),
                await self.netlink.rules(),
                await self.nft.intact(desired.tables),
                frozenset(parameters),
            )

    async def _mend(self, step: Step, one: Mended) -> Mended:
        try:
            for route in step.added.routes:
                await self.netlink.replace_route(route)
            if not step.added.routes:
                await self._perform(step)
        except NetworkError as error:
            return replace(one, failure=error.message)
        return one

    async def _found(self, desired: NetworkState, look: Change) -> NetworkState:
        """Read what there is of the kinds to look at; the others are taken to be as desired."""
        routes, rules, tables = desired.routes, desired.rules, desired.tables
        if look & (Change.ROUTE | Change.LINK | Change.ADDRESS):
            routes = await self.netlink.routes()
        if look & Change.RULE:
            rules = await self.netlink.rules(settle=True)
        if look & Change.NFTABLES:
            tables = await self.nft.intact(tables)
        return NetworkState(routes, rules, tables, desired.sysctls)

    async def _change(self, desired: NetworkState) -> None:
        done: list[tuple[Step, bool]] = []
        for step in steps(self._applied, desired):
            try:
                effective = await self._perform(step)
            except BaseException as error:
                if not isinstance(error, NetworkError) or error.errno == errno.ETIMEDOUT:
                    done.append((step, True))  # perhaps
                await self._undo(done, error)
                raise
            done.append((step, effective))
            self._applied = step.after(self._applied)

    async def _undo(self, done: list[tuple[Step, bool]], error: BaseException) -> None:
        """Undo the effective steps in reverse; what cannot be undone is said, and still believed.

        A step without effect found its work done. An addition then was not ours to undo; what was
        to be removed has gone for good.
        """
        for step, effective in reversed(done):
            try:
                if effective:
                    await self._perform(step.inverse)
                    self._applied = step.inverse.after(self._applied)
                else:
                    self._applied = self._applied - step.added
            except NetworkError as failure:
                _log.error("while undoing: %s", failure.message)
                if isinstance(error, NetworkError):
                    error.hint = f"and could not undo what was done before: {failure.message}"

    async def _perform(self, step: Step) -> bool:
        """Do one step; return whether it changed anything."""
        effective = False
        if step.removed.tables or step.added.tables:
            names = {(one.family, one.name) for one in step.removed.tables | step.added.tables}
            await self.nft.change(names, step.added.tables)
            effective = True
        for route in step.removed.routes:
            effective |= await self.netlink.delete_route(route)
        for route in step.added.routes:
            effective |= await self.netlink.add_route(route)
        for rule in step.removed.rules:
            effective |= await self.netlink.delete_rule(rule)
        for rule in step.added.rules:
            effective |= await self.netlink.add_rule(rule)
        if step.removed.sysctls or step.added.sysctls:
            self._perform_sysctls(step)
            effective = True
        return effective

    def _perform_sysctls(self, step: Step) -> None:
        for sysctl in step.added.sysctls:
            self._hold(sysctl)
        held_on = {sysctl.name for sysctl in step.added.sysctls}
        for sysctl in step.removed.sysctls:
            if sysctl.name in self._saved and sysctl.name not in held_on:
                self._release(sysctl)

    def _hold(self, sysctl: Sysctl) -> None:
        first = sysctl.name not in self._saved
        if first:
            self._saved[sysctl.name] = read_sysctl(sysctl.name)
        try:
            if first:
                self._remember(self.saved_sysctls)
            write_sysctl(sysctl.name, sysctl.value)
        except LocalFailure:
            if first:
                self._drop_saved(sysctl.name)
            raise

    def _release(self, sysctl: Sysctl) -> None:
        # A value that somebody else has set meanwhile is theirs, and stays.
        if read_sysctl(sysctl.name) == sysctl.value:
            write_sysctl(sysctl.name, self._saved[sysctl.name])
        self._drop_saved(sysctl.name)

    def _drop_saved(self, name: str) -> None:
        del self._saved[name]
        with contextlib.suppress(LocalFailure):  # it is put back; known too long, it does no harm
            self._remember(self.saved_sysctls)

    async def configure_link(
        self, interface: str, addresses: Iterable[IPInterface], mtu: int | None
    ) -> None:
        """Give a link that Anubis made its addresses and MTU, bring it up: `Links.configure`."""
        await self._links.configure(interface, addresses, mtu)

    async def link_is_up(self, interface: str) -> bool:
        """Tell whether a link is switched on."""
        return await self._links.is_up(interface)

    async def link_addresses(self, interface: str) -> frozenset[IPInterface]:
        """Return the addresses of a link."""
        return await self._links.addresses(interface)

    async def delete_link(self, interface: str) -> None:
        """Remove a link that Anubis made; one that is gone already is fine."""
        await self._links.delete(interface)

    def link_index(self, interface: str) -> int | None:
        """Return the index of a link, None without it."""
        return link_index(interface)

    async def alias(self, interface: str) -> str | None:
        """Return the alias of a link, None without one."""
        return await self._links.alias(interface)

    async def set_alias(self, interface: str, alias: str) -> None:
        """Set the alias of a link."""
        await self._links.set_alias(interface, alias)

    async def mtu(self, interface: str) -> int:
        """Return the MTU of a link in bytes."""
        return await self._links.mtu(interface)

    async def set_mtu(self, interface: str, mtu: int) -> None:
        """Set the MTU of a link in bytes."""
        await self._links.set_mtu(interface, mtu)

    async def bearer_mtu(self, endpoints: Iterable[IPAddress], fwmark: int = 0) -> int:
        """Return the MTU in bytes for a tunnel to these endpoints: `Links.bearer_mtu`."""
        return await self._links.bearer_mtu(endpoints, fwmark)


async def _settled(task: asyncio.Task[None]) -> bool:
    """Wait for a task whatever cancels the waiting; return whether it succeeded."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    if task.cancelled():
        return False
    failure = task.exception()
    if failure is not None:
        _log.error("a cancelled change of the network ended with: %s", failure)
    return failure is None
