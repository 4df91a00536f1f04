"""The backends under test, each where it can do no harm."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import pytest

from anubis.wireguard.backend import Backend
from anubis.wireguard.fake import FakeBackend
from anubis.wireguard.kernel import KernelBackend
from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import Device, Peer
from anubis.wireguard.userspace import UserspaceBackend
from tests.namespaces import Namespace, namespace
from tests.wgdump import wg_show_dump


def why_the_kernel_has_no_wireguard() -> str | None:
    """Ask iproute2, in a namespace of its own; None if the kernel has WireGuard."""
    done = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "probe", "type", "wireguard"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return None if done.returncode == 0 else done.stderr.strip()


NO_KERNEL_WIREGUARD = why_the_kernel_has_no_wireguard()
BACKENDS: dict[str, Callable[[], Backend]] = {
    "fake": FakeBackend,
    "userspace": UserspaceBackend,
    "kernel": KernelBackend,
}
if NO_KERNEL_WIREGUARD is not None:
    # Not skipped in silence: test_the_kernel_backend_agrees_with_iproute2 reports it.
    del BACKENDS["kernel"]


@dataclass
class Subject:
    """A backend, and somebody else to ask whether it tells the truth."""

    backend: Backend
    is_real: bool

    async def observe(self, interface: str = "wg0") -> Device:
        """Read an interface; for real backends wg(8) must see the same."""
        device = await self.backend.device(interface)
        if self.is_real:
            seen = wg_show_dump(interface).device
            assert (device.public_key, device.listen_port, device.fwmark) == (
                seen.public_key,
                seen.listen_port,
                seen.fwmark,
            )
            assert by_key(device) == by_key(seen)
            assert len(device.peers) == len(seen.peers)
        return device


def by_key(device: Device) -> dict[PublicKey, Peer]:
    """Return the peers without their order, which means nothing."""
    return {peer.public_key: peer for peer in device.peers}


@pytest.fixture
def host() -> Iterator[Namespace]:
    """Make a host of its own and be inside."""
    with namespace() as made, made.entered():
        yield made


@pytest.fixture(params=list(BACKENDS))
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name a backend, inside a host of its own if it touches one."""
    name: str = request.param
    with contextlib.ExitStack() as stack:
        if name != "fake":
            stack.enter_context(stack.enter_context(namespace()).entered())
        yield name


@pytest.fixture
async def subject(kind: str) -> AsyncIterator[Subject]:
    """Make the backend under test."""
    backend = BACKENDS[kind]()
    yield Subject(backend, is_real=kind != "fake")
    await backend.close()
