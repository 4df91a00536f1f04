"""The choice between kernel and userspace, on the kernel that there is."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from anubis.wireguard.auto import AutoBackend, open_backend
from anubis.wireguard.errors import BackendUnavailable, DeviceExists, DeviceNotFound
from anubis.wireguard.fake import FakeBackend
from anubis.wireguard.kernel import KernelBackend
from anubis.wireguard.types import DeviceChange
from anubis.wireguard.userspace import UserspaceBackend
from tests.contract.conftest import NO_KERNEL_WIREGUARD
from tests.namespaces import Namespace
from tests.wgdump import wg_show_dump


@pytest.fixture
async def auto(host: Namespace) -> AsyncIterator[AutoBackend]:
    """Make the backend as the daemon does, inside a host of its own."""
    made = open_backend("auto")
    assert isinstance(made, AutoBackend)
    yield made
    await made.close()


def has_control_socket(interface: str) -> bool:
    """Tell who made it: only userspace has one."""
    return Path(f"/run/wireguard/{interface}.sock").exists()


async def test_a_choice_is_a_backend() -> None:
    """`kernel` and `userspace` leave no choice."""
    kernel, userspace = open_backend("kernel"), open_backend("userspace")
    assert isinstance(kernel, KernelBackend)
    assert isinstance(userspace, UserspaceBackend)
    await kernel.close()
    await userspace.close()


async def test_the_kernel_is_taken_where_it_can(auto: AutoBackend) -> None:
    """A new interface is the kernel's if it has WireGuard, else wireguard-go's."""
    await auto.create("wg0")
    assert has_control_socket("wg0") is (NO_KERNEL_WIREGUARD is not None)
    await auto.configure("wg0", DeviceChange(fwmark=7))
    assert (await auto.device("wg0")).fwmark == 7
    await auto.delete("wg0")
    assert [name for _index, name in socket.if_nameindex()] == ["lo"]


async def test_what_is_not_there_is_not_found(auto: AutoBackend) -> None:
    """Neither a missing interface nor one of another kind is found, whatever the kernel has."""
    for interface in ("wg0", "lo"):
        with pytest.raises(DeviceNotFound, match=interface):
            await auto.device(interface)
        with pytest.raises(DeviceNotFound, match=interface):
            await auto.configure(interface, DeviceChange(fwmark=1))
        with pytest.raises(DeviceNotFound, match=interface):
            await auto.delete(interface)
    with pytest.raises(DeviceExists, match="lo"):
        await auto.create("lo")


async def test_each_interface_is_found_where_it_lives(host: Namespace) -> None:
    """An interface with a control socket is userspace's, any other the kernel's."""
    kernel, userspace = FakeBackend(), UserspaceBackend()
    auto = AutoBackend(kernel, userspace)
    await auto.create("wg1")
    await userspace.create("wg0")
    await auto.configure("wg0", DeviceChange(fwmark=7))
    await auto.configure("wg1", DeviceChange(fwmark=8))
    assert wg_show_dump("wg0").device.fwmark == 7
    assert (await kernel.device("wg1")).fwmark == 8
    await auto.delete("wg0")
    assert not has_control_socket("wg0")
    await auto.delete("wg1")
    await auto.close()


async def test_with_neither_there_is_advice(host: Namespace) -> None:
    """Without WireGuard in the kernel and without wireguard-go, the error tells how to get one."""
    kernel = FakeBackend()
    kernel.fail_next("create", BackendUnavailable("wg0: this kernel has no WireGuard", "wg0"))
    auto = AutoBackend(kernel, UserspaceBackend("no-such-wireguard"))
    with pytest.raises(BackendUnavailable, match="apt install wireguard-go"):
        await auto.create("wg0")
    await auto.close()
