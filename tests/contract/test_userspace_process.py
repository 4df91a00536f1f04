"""The life of wireguard-go under UserspaceBackend: what it starts, leaves, adopts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from anubis.wireguard.errors import BackendUnavailable, DeviceExists, DeviceNotFound
from anubis.wireguard.types import DeviceChange
from anubis.wireguard.userspace import UserspaceBackend
from tests.namespaces import Namespace
from tests.wgdump import wg_show_dump

SOCKET = Path("/run/wireguard/wg0.sock")


@pytest.fixture
async def backend(host: Namespace) -> AsyncIterator[UserspaceBackend]:
    """Make a backend inside a host of its own."""
    made = UserspaceBackend()
    yield made
    await made.close()


def run(*command: str, **environment: str) -> int:
    """Run a command where this thread is; return its exit status."""
    done = subprocess.run(
        command, check=False, timeout=60, env={**os.environ, **environment}, capture_output=True
    )
    return done.returncode


def open_files(process: Path) -> list[str]:
    """Return what a process has open."""
    found = []
    for path in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found.append(str(path.readlink()))
    return found


def links() -> set[str]:
    """Return the names of the interfaces here."""
    return {name for _index, name in socket.if_nameindex()}


def traces() -> tuple[set[str], bool]:
    """Return the interfaces here, and whether there is a control socket."""
    return links(), SOCKET.exists()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail the test if it does not within 10 s."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_nothing_is_left(host: Namespace, backend: UserspaceBackend) -> None:
    """After `delete` there is no process, no interface and no socket."""
    await backend.create("wg0")
    assert len(host.processes()) == 1
    assert traces() == ({"lo", "wg0"}, True)
    await backend.delete("wg0")
    assert host.processes() == set()
    assert traces() == ({"lo"}, False)


async def test_the_program_inherits_nothing(host: Namespace, backend: UserspaceBackend) -> None:
    """It has a session of its own, a minimal environment and none of our descriptors."""
    ours = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(ours, True)  # noqa: FBT003  positional only
    await backend.create("wg0")
    os.close(ours)
    (pid,) = host.processes()
    process = Path("/proc", str(pid))
    assert "/etc/passwd" not in open_files(process)
    assert open_files(process).count("/dev/null") == 1
    assert (process / "environ").read_text() == "LOG_LEVEL=error\0"
    assert os.getsid(pid) == pid
    await backend.delete("wg0")


async def test_what_the_program_says_is_passed_on(
    host: Namespace, backend: UserspaceBackend
) -> None:
    """If wireguard-go cannot start, its own reason is in the error, and nothing is left."""
    assert run("mount", "--bind", "/dev/null", "/dev/net/tun") == 0
    with pytest.raises(
        BackendUnavailable, match=r"ERROR: .* Failed to create TUN device: [^┌│└]*$"
    ):
        await backend.create("wg0")
    assert host.processes() == set()
    assert traces() == ({"lo"}, False)


async def test_an_interface_outlives_its_maker(host: Namespace, backend: UserspaceBackend) -> None:
    """After kill -9 of the process that made it, it works on, and another process adopts it."""
    code = """if True:
        import asyncio, os, signal
        from anubis.wireguard.userspace import UserspaceBackend
        async def main():
            await UserspaceBackend().create("wg0")
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())"""
    assert run(sys.executable, "-c", code) == -signal.SIGKILL
    assert backend.serves("wg0")
    await backend.configure("wg0", DeviceChange(fwmark=7))
    assert wg_show_dump("wg0").device.fwmark == 7
    await backend.delete("wg0")
    assert traces() == ({"lo"}, False)
    await eventually(lambda: not host.processes())


async def test_an_interface_made_by_hand(host: Namespace, backend: UserspaceBackend) -> None:
    """One that somebody started with `wireguard-go wg0` is refused to `create` and served."""
    assert run("wireguard-go", "wg0", LOG_LEVEL="silent") == 0
    with pytest.raises(DeviceExists):
        await backend.create("wg0")
    await backend.configure("wg0", DeviceChange(listen_port=4296))
    assert (await backend.device("wg0")).listen_port == 4296
    await backend.delete("wg0")
    assert traces() == ({"lo"}, False)
    await eventually(lambda: not host.processes())


async def test_an_interface_that_somebody_deleted(
    host: Namespace, backend: UserspaceBackend
) -> None:
    """`ip link del` ends the program: then it is not found, and can be made again."""
    await backend.create("wg0")
    assert run("ip", "link", "del", "wg0") == 0
    await eventually(lambda: not backend.serves("wg0"))
    with pytest.raises(DeviceNotFound):
        await backend.delete("wg0")
    await backend.create("wg0")
    await backend.delete("wg0")
    await eventually(lambda: not host.processes())


async def test_a_killed_program(host: Namespace, backend: UserspaceBackend) -> None:
    """What kill -9 of the program leaves, its socket, is not found and does not hinder."""
    await backend.create("wg0")
    (pid,) = host.processes()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: "wg0" not in links())
    assert traces() == ({"lo"}, True)
    with pytest.raises(DeviceNotFound):
        await backend.device("wg0")
    await backend.create("wg0")
    await backend.delete("wg0")


async def test_the_name_of_another_link(host: Namespace, backend: UserspaceBackend) -> None:
    """A link of another kind is not WireGuard's: DeviceExists to make, DeviceNotFound else."""
    assert run("ip", "link", "add", "wg0", "type", "bridge") == 0
    with pytest.raises(DeviceExists):
        await backend.create("wg0")
    with pytest.raises(DeviceNotFound):
        await backend.device("wg0")
    with pytest.raises(DeviceNotFound):
        await backend.configure("wg0", DeviceChange(fwmark=1))
    with pytest.raises(DeviceNotFound):
        await backend.delete("wg0")
    assert traces() == ({"lo", "wg0"}, False)


async def test_two_at_once(host: Namespace, backend: UserspaceBackend) -> None:
    """Of two creations of one name at the same time one wins and the other says DeviceExists."""
    first, second = await asyncio.gather(
        backend.create("wg0"), backend.create("wg0"), return_exceptions=True
    )
    assert first is None
    assert isinstance(second, DeviceExists)
    assert len(host.processes()) == 1
    await backend.delete("wg0")
