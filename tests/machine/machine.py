"""One boot of the virtual machine: QEMU is started, listened to, and ended.

Owns QEMU's command line, the choice between KVM and emulation, and the deadlines; refuses to know
what the guest does until its command runs (`tests.machine.initramfs`).
"""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.machine.initramfs import Job, Kernel, initramfs

__all__ = ["DIRECTORY", "Machine", "MachineFailed"]

DIRECTORY = Path(__file__).parents[2] / ".machine"
_QEMU = "qemu-system-x86_64"
# The device may open and yet run nothing, in a virtual machine for example: only a boot tells.
_KVM = ("kvm", "host", 5.0, "")
# Emulated, each guard against speculation costs a flush and guards nothing, and code is translated
# anew for every address that it stands at. The last is for the environment of whatever runs there.
_SLOWLY = "mitigations=off norandmaps ANUBIS_LAB_SLOWNESS=12"
_EMULATION = ("tcg", "qemu64,+rdrand", 180.0, _SLOWLY)
_APPEND = "console=ttyS0 panic=-1 quiet systemd.show_status=no "
_PORTS = ("out", "err", "status")
_CONSOLE_LINES = 60  # a panic and its trace
_CHUNK = 65536

Listener = Callable[[str, bytes], None]


class MachineFailed(Exception):
    """There was no machine, or it broke down before the command had ended. Says why."""


@dataclass(frozen=True)
class Machine:
    """A virtual machine. Each `run` boots it, so that no command sees what another has done."""

    memory: str = "2G"
    processors: int = 2
    systemd: bool = False  # as the guest's first process
    directory: Path = DIRECTORY  # what tools/machine-kernel has made

    def run(
        self,
        command: Sequence[str],
        *,
        seconds: float = 300.0,
        gifts: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        listener: Listener = lambda _port, _data: None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the guest, as root and in our working directory; its output is captured.

        It has our PATH, `environment`, and no standard input. What it writes to the directories
        `gifts` stays. `listener` hears "out" and "err" as they come. Raises MachineFailed, and
        subprocess.TimeoutExpired if the command takes more than `seconds`, without the boot.
        """
        variables = {"HOME": "/root", "LANG": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)}
        job = Job(command, Path.cwd(), {**variables, **(environment or {})}, gifts, self.systemd)
        kernel = self._kernel()
        # In memory: also whoever is killed leaves no file.
        with os.fdopen(os.memfd_create("initramfs"), "wb", buffering=0) as archive:
            try:
                archive.write(initramfs(kernel, job))
            except OSError as error:
                raise MachineFailed(f"{error} (remove it, then make machine)") from error
            reasons = []
            for accelerator in self._accelerators():
                boot = _Boot(self._qemu(kernel, gifts, accelerator), archive.fileno(), listener)
                try:
                    if boot.listen(seconds, accelerator[2]):
                        return subprocess.CompletedProcess(
                            list(command), boot.status, boot.text("out"), boot.text("err")
                        )
                except TimeoutError:
                    raise subprocess.TimeoutExpired(list(command), seconds) from None
                finally:
                    boot.end()
                reasons.append(f"with {accelerator[0]}: {boot.reason()}")
        raise MachineFailed("the machine did not start\n" + "\n".join(reasons))

    def _kernel(self) -> Kernel:
        if shutil.which(_QEMU) is None:
            raise MachineFailed(f"{_QEMU} is not installed (make machine)")
        try:
            release = (self.directory / "release").read_text().strip()
        except FileNotFoundError:
            raise MachineFailed(f"there is no kernel in {self.directory} (make machine)") from None
        return Kernel(self.directory, release)

    def _accelerators(self) -> list[tuple[str, str, float, str]]:
        return [_KVM, _EMULATION] if os.access("/dev/kvm", os.R_OK | os.W_OK) else [_EMULATION]

    def _qemu(
        self,
        kernel: Kernel,
        gifts: Sequence[Path],
        accelerator: tuple[str, str, float, str],
    ) -> list[str]:
        shares = [("host", Path("/"), ",readonly=on")]
        shares += [(f"gift{number}", gift, "") for number, gift in enumerate(gifts)]
        # With us it ends, whatever our end is.
        words = ["setpriv", "--pdeathsig=KILL", "--", _QEMU]
        words += ["-accel", accelerator[0], "-cpu", accelerator[1]]
        words += ["-M", "q35", "-m", self.memory, "-smp", str(self.processors)]
        words += ["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"]
        words += ["-kernel", str(kernel.image)]
        words += ["-append", _APPEND + accelerator[3]]
        words += ["-device", "virtio-serial-pci"]
        for name, directory, more in shares:
            path = str(directory).replace(",", ",,")
            words += [
                "-fsdev",
                f"local,id={name},path={path},security_model=none,multidevs=remap{more}",
            ]
            words += ["-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
        return words


@dataclass
class _Boot:
    """A QEMU process and what has come out of its ports so far."""

    command: list[str]
    archive: int  # an open file
    listener: Listener
    _heard: dict[str, bytearray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        words = [*self.command, "-initrd", f"/proc/self/fd/{self.archive}"]
        ends: list[int] = []
        with ExitStack() as ours:
            for name in (*_PORTS, "console"):
                reading, writing = os.pipe()
                ends.append(writing)
                ours.callback(os.close, writing)
                self._selector.register(reading, selectors.EVENT_READ, name)
                self._heard[name] = bytearray()
                words += ["-chardev", f"file,id={name},path=/proc/self/fd/{writing}"]
                words += (
                    ["-serial", "chardev:console"]
                    if name == "console"
                    else ["-device", f"virtserialport,chardev={name},name={name}"]
                )
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=ends[-1],  # with the words of the kernel: why there is no machine
                stderr=ends[-1],
                pass_fds=[*ends, self.archive],
            )

    @property
    def status(self) -> int:
        """The exit status of the command."""
        return int(self._heard["status"].split()[1])

    def listen(self, seconds: float, boot_seconds: float) -> bool:
        """Listen until the machine is off. False if it never was up.

        Raises TimeoutError if the command is late, and MachineFailed if the machine broke down.
        """
        deadline = time.monotonic() + boot_seconds
        up = False
        while self._selector.get_map():
            self._hear(deadline - time.monotonic())
            words = self._heard["status"].split()
            if words and not up:
                up, deadline = True, time.monotonic() + seconds
            if time.monotonic() > deadline:
                if up:
                    raise TimeoutError
                return False
        if up and len(words) < 2:
            raise MachineFailed(f"the machine broke down: {self.reason()}")
        return up

    def _hear(self, seconds: float) -> None:
        for key, _events in self._selector.select(max(0.0, seconds)):
            data = os.read(key.fd, _CHUNK)
            if not data:
                self._selector.unregister(key.fd)
                os.close(key.fd)
            self._heard[key.data] += data
            if key.data in ("out", "err"):
                self.listener(key.data, data)

    def end(self) -> None:
        """End QEMU, if it has not ended by itself, and let go of the pipes."""
        self._process.kill()
        self._process.wait()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()

    def text(self, port: str) -> str:
        """Return what has been heard on a port."""
        return self._heard[port].decode(errors="replace")

    def reason(self) -> str:
        """Return the last lines of the console."""
        lines = self.text("console").splitlines()[-_CONSOLE_LINES:]
        return "\n".join(lines) or "it said nothing"
