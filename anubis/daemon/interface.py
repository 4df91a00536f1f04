"""A WireGuard interface that Anubis makes where there is none, and removes only if it made it.

Who made it is written where no crash can lose it: in the interface's alias (`ip link show`). As it
can be written there only when the interface exists, the state file first says that one is made.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import pwd
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from anubis.daemon.log import event
from anubis.errors import LocalFailure
from anubis.network.apply import Network
from anubis.network.changes import Mended
from anubis.network.errors import remedy
from anubis.wireguard.backend import Backend
from anubis.wireguard.errors import (
    BackendError,
    BackendPermissionDenied,
    BackendUnavailable,
    DeviceNotFound,
    WireGuardError,
)
from anubis.wireguard.keys import PrivateKey
from anubis.wireguard.types import Device, DeviceChange

__all__ = ["Allow", "Interface", "Making", "Settings", "explained"]

_STARTING_SECONDS, _POLL_SECONDS = 2.0, 0.02  # for a program that nobody waits for any more
ALIAS = "made by anubis"
Allow = Callable[[str], bool]  # whether a thing may be put right now, by its name in `Mended`


@dataclass(frozen=True, slots=True)
class Settings:
    """What an interface that Anubis made has besides its peers."""

    private_key: PrivateKey
    listen_port: int
    fwmark: int
    addresses: Sequence[IPv4Interface | IPv6Interface]


@asynccontextmanager
async def explained(doing: str) -> AsyncIterator[None]:
    """Turn an error of the WireGuard package into one for people. `doing` begins the message."""
    try:
        yield
    except BackendPermissionDenied as error:
        raise LocalFailure(f"{doing}: {error}", _permission_hint(error)) from error
    except BackendUnavailable as error:
        hint = "load the kernel's wireguard module, or install wireguard-go"
        raise LocalFailure(f"{doing}: {error}", hint) from error
    except BackendError as error:
        raise LocalFailure(f"{doing}: {error}", remedy(error.errno or 0)) from error
    except WireGuardError as error:
        raise LocalFailure(f"{doing}: {error}") from error


def _permission_hint(error: BackendPermissionDenied) -> str:
    # EACCES is a file's word, and the one file is the control socket of a userspace program.
    if error.errno == errno.EACCES and os.geteuid() != 0:
        # Not chown: wireguard-go quits when anything about its socket changes.
        user = pwd.getpwuid(os.geteuid()).pw_name
        return f"start the program that serves {error.interface} as the daemon's user, {user}"
    return "the daemon needs CAP_NET_ADMIN"


@dataclass(frozen=True, slots=True)
class Making:
    """The names of interfaces that are being made, or were when an earlier run was killed."""

    names: set[str]
    save: Callable[[], None]  # writes them down; raises LocalFailure

    def begin(self, name: str) -> None:
        """Note that an interface is about to be made. Raises LocalFailure if it must not be."""
        self.names.add(name)
        try:
            self.save()
        except LocalFailure:
            self.names.discard(name)
            raise

    def end(self, name: str) -> None:
        """Note that it bears its alias and is set up."""
        self.names.discard(name)
        with suppress(LocalFailure):  # the alias tells, too
            self.save()


class Interface:
    """One interface, by name; `made` is true while Anubis has to remove it."""

    def __init__(self, name: str, backend: Backend, network: Network, making: Making) -> None:
        self.name = name
        self._making = making
        self.made = False
        self._backend = backend
        self._network = network
        self._index: int | None = None  # of the link that was made or found

    async def ensure(self) -> None:
        """Make the interface, unless one of that name is there already."""
        async with explained(f"cannot make {self.name}"):
            self._index = self._network.link_index(self.name)
            if self._index is not None:
                self.made = await self._network.alias(self.name) == ALIAS
                if self.made or not await self._is_ours():
                    return
            else:
                self._making.begin(self.name)
                try:
                    await self._backend.create(self.name)
                except BaseException:
                    self._making.end(self.name)
                    raise
            self.made = True
            await self._network.set_alias(self.name, ALIAS)
            self._index = self._network.link_index(self.name)
            event(logging.DEBUG, "interface_made", interface=self.name)

    @property
    def half_made(self) -> bool:
        """Whether it has yet to be set up."""
        return self.name in self._making.names

    async def is_own(self) -> bool:
        """Tell whether Anubis made what is there, or is about to know it again as its own."""
        return self.half_made or await self._network.alias(self.name) == ALIAS

    async def _is_ours(self) -> bool:
        """Tell whether an earlier run was killed before it could write who made this interface.

        Anubis configures only what bears its alias, so one that has a key is somebody else's.
        """
        if not self.half_made:
            return False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _STARTING_SECONDS
        while True:
            try:
                return (await self._backend.device(self.name)).public_key is None
            except DeviceNotFound:
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(_POLL_SECONDS)  # its program has only just been started

    @property
    def present(self) -> bool:
        """Whether there is an interface of that name."""
        return self._network.link_index(self.name) is not None

    async def set_up(self, settings: Settings) -> None:
        """Configure an interface that Anubis made and bring it up, still without peers."""
        listen_port = settings.listen_port
        change = DeviceChange(
            private_key=settings.private_key, listen_port=listen_port, fwmark=settings.fwmark
        )
        try:
            await self._backend.configure(self.name, change)
            await self._network.configure_link(self.name, settings.addresses, None)
        except (BackendError, LocalFailure) as error:
            if _errno(error) == errno.EADDRINUSE:
                raise LocalFailure(
                    f"UDP port {listen_port} of {self.name} is in use by another program",
                    f"ss -lunp sport = :{listen_port} shows which; or set another ListenPort",
                ) from error
            async with explained(f"cannot configure {self.name}"):
                raise
        self._making.end(self.name)

    async def mend(self, settings: Settings, allow: Allow) -> tuple[Mended, ...]:
        """Put right what strangers did to the link of an interface that Anubis made.

        Made anew, it has no peers: then "interface NAME" has vanished. Raises LocalFailure.
        """
        link = f"interface {self.name}"
        if not self.present:
            if not allow(link):
                return ()
            await self.ensure()
            await self.set_up(settings)
            return (Mended(link, "vanished"),)
        mended = await self._mend_alias(allow)
        there = {address.ip for address in await self._network.link_addresses(self.name)}
        lost = [address for address in settings.addresses if address.ip not in there]
        wrong = [Mended(f"address {address} of {self.name}", "vanished") for address in lost]
        if not await self._network.link_is_up(self.name):
            wrong.append(Mended(f"state of {self.name} (it was down)", "changed"))
        wrong = [one for one in wrong if allow(one.what)]
        if wrong:
            await self._network.configure_link(self.name, settings.addresses, None)
        return (*mended, *wrong)

    async def _mend_alias(self, allow: Allow) -> tuple[Mended, ...]:
        """See that it is still ours, and put back the alias that says so."""
        what = f"alias of {self.name}"
        if await self._network.alias(self.name) == ALIAS or not allow(what):
            return ()
        if self._network.link_index(self.name) != self._index:
            raise LocalFailure(
                f"{self.name} is another interface now, which Anubis did not make",
                f"ip link delete {self.name}",
            )
        await self._network.set_alias(self.name, ALIAS)
        return (Mended(what, "changed"),)

    async def device(self) -> Device:
        """Read the interface. Raises LocalFailure."""
        async with explained(f"cannot read {self.name}"):
            return await self._backend.device(self.name)

    async def configure(self, change: DeviceChange) -> None:
        """Change the interface. Raises LocalFailure."""
        async with explained(f"cannot configure {self.name}"):
            await self._backend.configure(self.name, change)

    async def remove(self) -> None:
        """Remove the interface if Anubis made it."""
        if self.made:
            try:
                async with explained(f"cannot remove {self.name}"):
                    await self._backend.delete(self.name)
            except LocalFailure as error:
                if not isinstance(error.__cause__, DeviceNotFound):
                    raise
            self.made = False


def _errno(error: BaseException) -> int | None:
    """Return the system's error number behind an error, wherever in the chain it stands."""
    seen: BaseException | None = error
    while seen is not None:
        number = getattr(seen, "errno", None) or getattr(seen, "code", None)
        if isinstance(number, int):
            return number
        seen = seen.__cause__
    return None
