"""A host for tests: a network and a mount namespace with its own /run and /sys.

The test process itself can step in (setns of its one thread), so that the code under test runs
there unchanged, threads and programs that it starts included. A janitor holds the namespaces. When
its standard input closes, which also happens when the test process is killed, it ends every
process that is left inside, by its id, and with the last of them the namespaces are gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Namespace", "connect", "namespace"]

_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWNET = 0x200, 0x20000, 0x40000000  # linux/sched.h
_JANITOR = """
set -e
mount -t tmpfs none /run
mount -t sysfs none /sys
ip link set lo up
echo ready
cat
for process in /proc/[0-9]*; do
    if [ "$process/ns/net" -ef /proc/$$/ns/net ] && [ "${process#/proc/}" != $$ ]; then
        kill -KILL "${process#/proc/}" || true
    fi
done 2>/dev/null
"""
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network and a mount namespace, until `close`."""

    def __init__(self) -> None:
        self._janitor = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", _JANITOR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._janitor.stdout is not None
        assert self._janitor.stdout.readline() == b"ready\n"
        self.pid = self._janitor.pid

    def close(self) -> None:
        """End all that runs inside, and the namespaces."""
        self._janitor.communicate(timeout=30)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside with this thread, and with the threads and programs that it starts."""
        with contextlib.ExitStack() as stack:
            outside = [_open(stack, f"/proc/thread-self/ns/{kind}") for kind in ("net", "mnt")]
            inside = [_open(stack, f"/proc/{self.pid}/ns/{kind}") for kind in ("net", "mnt")]
            directory = Path.cwd()
            stack.callback(os.chdir, directory)
            stack.callback(_enter, *outside)
            _enter(*inside)
            os.chdir(directory)
            yield

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command inside; return what it prints. Fails the test if the command fails."""
        with self.entered():
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, check=False, timeout=60
            )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def processes(self) -> set[int]:
        """Return the ids of the processes inside, other than the janitor's and this one."""
        inside = Path(f"/proc/{self.pid}/ns/net").readlink()
        found = set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is nothing of ours
                if (path / "ns/net").readlink() == inside:
                    found.add(int(path.name))
        return found - {os.getpid()} - self._janitors()

    def _janitors(self) -> set[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return {self.pid, *map(int, children.split())}


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace and remove it at the end, whatever happens."""
    made = Namespace()
    try:
        yield made
    finally:
        made.close()


def connect(one: Namespace, interface: str, other: Namespace, other_interface: str) -> None:
    """Lay a cable between two namespaces and switch both ends on."""
    one.run(
        *f"ip link add {interface} type veth peer name {other_interface} netns {other.pid}".split()
    )
    one.run("ip", "link", "set", interface, "up")
    other.run("ip", "link", "set", other_interface, "up")


def _open(stack: contextlib.ExitStack, path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _enter(network: int, mount: int) -> None:
    # Threads share the working directory, and the kernel moves nobody whose directory is shared.
    _checked(_libc.unshare(_CLONE_FS), "unshare")
    _checked(_libc.setns(network, _CLONE_NEWNET), "setns")
    _checked(_libc.setns(mount, _CLONE_NEWNS), "setns")


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
