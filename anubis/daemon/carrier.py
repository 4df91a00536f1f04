"""The interface that carries production: Anubis's own, or one of the administrator's, borrowed.

Owns the interface itself: whose it is, its key, its mark, its MTU, and what of these was changed
for as long as a connection is up. Refuses to know the peers on it and their routes, which are
`production`. Calls are serialized by who makes them.
"""

from __future__ import annotations

from collections.abc import Callable

from anubis.daemon.faults import own_faults
from anubis.daemon.interface import Allow, Interface, Making, Settings
from anubis.errors import LocalFailure
from anubis.files.config import Production as ProductionConfig
from anubis.network.apply import Network
from anubis.network.changes import Mended
from anubis.network.links import IPInterface
from anubis.wireguard.backend import Backend
from anubis.wireguard.keys import PrivateKey
from anubis.wireguard.types import Device, DeviceChange

__all__ = ["Carrier"]


class Carrier:
    """The production interface, without what is on it.

    `borrowed_mark` tells that a stranger's interface had no fwmark and has ours for now;
    `mtu_before`, in bytes, what the MTU was before the first connection.
    """

    def __init__(
        self,
        config: ProductionConfig,
        private_key: PrivateKey,
        *,
        backend: Backend,
        network: Network,
        making: Making,
        save: Callable[[], None],  # raises LocalFailure
    ) -> None:
        self.name = config.interface
        self.mark = config.fwmark
        self.borrowed_mark = False
        self.mtu_before: int | None = None
        self._config = config
        self._private_key = private_key
        self._public_key = private_key.public_key()
        self._interface = Interface(config.interface, backend, network, making)
        self._network = network
        self._save = save

    @property
    def present(self) -> bool:
        """Whether there is an interface of that name."""
        return self._interface.present

    async def ensure(self) -> Device:
        """Return the interface, made if need be, with our key on it. Raises LocalFailure."""
        await self._interface.ensure()
        device = await self._interface.device()
        if not self._interface.made:
            self._demand_key(device)
        elif self._interface.half_made or device.public_key != self._public_key:
            await self._interface.set_up(self._settings())
            device = await self._interface.device()
        return device

    def find_mark(self, device: Device) -> None:
        """Take the mark of bearer packets from the interface, if it has one."""
        self.mark = self.mark_of(device)

    def mark_of(self, device: Device) -> int:
        """Return the mark that bearer packets have with this interface: its own, or ours."""
        return device.fwmark or self._config.fwmark

    async def device(self) -> Device:
        """Read the interface. Raises LocalFailure."""
        return await self._interface.device()

    async def configure(self, change: DeviceChange) -> None:
        """Change the interface. Raises LocalFailure."""
        await self._interface.configure(change)

    async def remove(self) -> None:
        """Remove the interface if Anubis made it. Raises LocalFailure."""
        await self._interface.remove()

    async def borrow_mark(self, device: Device) -> None:
        """Find the mark of our bearer packets; lend a stranger's interface ours if it has none."""
        self.find_mark(device)
        if not device.fwmark:
            before, self.borrowed_mark = self.borrowed_mark, not self._interface.made
            try:
                self._save()
            except LocalFailure:
                self.borrowed_mark = before
                raise
            await self._interface.configure(DeviceChange(fwmark=self.mark))

    async def fit_mtu(self) -> None:
        """Set the MTU as wg-quick does, on an interface that Anubis made."""
        if self._interface.made:
            device = await self.device()
            mtu = await self._fitting_mtu(device, self.mark)
            if self.mtu_before is None:
                self.mtu_before = await self._network.mtu(self.name)
                try:
                    self._save()
                except LocalFailure:
                    self.mtu_before = None
                    raise
            await self._network.set_mtu(self.name, mtu)

    async def _fitting_mtu(self, device: Device, mark: int) -> int:
        endpoints = [peer.endpoint.address for peer in device.peers if peer.endpoint]
        return self._config.mtu or await self._network.bearer_mtu(endpoints, mark)

    async def foresee(self) -> tuple[Device, bool]:
        """Return the interface as `ensure` would, and whether it is Anubis's own; make nothing.

        Raises LocalFailure as that does.
        """
        if not self.present:
            settings = self._settings()
            port, mark = settings.listen_port, settings.fwmark
            return Device(self.name, self._public_key, port, mark), True
        device = await self._interface.device()
        is_own = await self._interface.is_own()
        if not is_own:
            self._demand_key(device)
        return device, is_own

    async def foresee_mtu(self, device: Device) -> int | None:
        """Return what `fit_mtu` would set for the peers of `device`; None if it is so already."""
        mtu = await self._fitting_mtu(device, self.mark_of(device))
        return None if self.present and await self._network.mtu(self.name) == mtu else mtu

    @property
    def addresses(self) -> tuple[IPInterface, ...]:
        """What an interface has that Anubis makes."""
        return self._config.addresses

    async def give_back(self) -> None:
        """With no connection left, give the interface what it had before the first.

        Raises LocalFailure if that cannot be; then it is still owed.
        """
        present = self.present  # one that is gone needs nothing
        if self.borrowed_mark and present:
            await self._interface.configure(DeviceChange(fwmark=0))
        self.borrowed_mark = False
        if self.mtu_before is not None and present:
            await self._network.set_mtu(self.name, self.mtu_before)
        self.mtu_before = None

    async def mend_link(self, allow: Allow, *, in_use: bool) -> tuple[Mended, ...]:
        """Put right what strangers did to the link; one that Anubis did not make is not made.

        Raises LocalFailure if there is none to carry the connections, which are `in_use`.
        """
        if self._interface.made:
            return await self._interface.mend(self._settings(), allow)
        if in_use and not self.present:
            raise LocalFailure(
                f"{self.name} is gone, which Anubis did not make",
                f"make it again, with the key in {self._config.private_key_file}",
            )
        return ()

    async def mend_settings(self, device: Device, allow: Allow) -> tuple[Mended, ...]:
        """Put right what strangers did to key, port and mark. Raises LocalFailure."""
        mended: tuple[Mended, ...] = ()
        if self._interface.made:
            own = own_faults(device, self._settings(device.fwmark), allow)
            if own.mended:
                await self._interface.configure(own.change())
            mended = tuple(own.mended)
        else:
            self._demand_key(device)
        mark = f"fwmark of {self.name}"
        if device.fwmark != self.mark and allow(mark):
            await self.borrow_mark(device)
            mended += (Mended(mark, "changed"),)
        return mended

    def _settings(self, fwmark: int | None = None) -> Settings:
        return Settings(
            self._private_key,
            self._config.listen_port,
            self._config.fwmark if fwmark is None else fwmark,
            self._config.addresses,
        )

    def _demand_key(self, device: Device) -> None:
        if device.public_key != self._public_key:
            raise LocalFailure(
                f"{self.name} exists with another key than {self._config.private_key_file}",
                "use its private key for PrivateKeyFile, or set another Interface in [Production]",
            )
