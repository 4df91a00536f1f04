"""What the machine's kernel finds when it starts: busybox, five modules, and a first process.

That process puts the host's file system, read-only over 9p, under a tmpfs that takes all writes,
makes this the root, runs one command there and switches the machine off. Owns what happens
inside until the command runs and after it has ended; refuses to know how the machine is started.

A boot takes as long as the kernel needs (6 s under emulation): no udev, and no service manager
unless the job asks for one. Then systemd is the first process, as on any host, and runs the
command as one of its services.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Job", "Kernel", "archive", "initramfs"]

_UP = "up"  # the first word on the port "status"; the second is the exit status of the command
_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
_DIRECTORY, _PROGRAM, _FILE = 0o40755, 0o100755, 0o100644  # st_mode of stat(2)
_9P = "trans=virtio,version=9p2000.L,access=any,msize=512000"
_INIT = """\
#!/busybox sh
busybox() {{ /busybox "$@"; }}
busybox mkdir -p /proc /sys /dev /host /layer /new
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
for module in {modules}; do busybox insmod /modules/$module; done
# The host's files do not change while we look, as far as it matters: let them be remembered.
busybox mount -t 9p -o ro,cache=loose,{options} host /host
busybox mount -t tmpfs -o mode=755 layer /layer
busybox mkdir /layer/upper /layer/work
busybox mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /new
cd /new
busybox mkdir -p proc sys dev run tmp
busybox mount --move /proc proc
busybox mount --move /sys sys
busybox mount --move /dev dev
busybox mount -t tmpfs -o mode=755 run run
busybox mkdir -p dev/pts dev/shm
busybox mount -t devpts pts dev/pts
busybox mount -t tmpfs -o mode=1777 shm dev/shm
busybox mount -t cgroup2 cgroup sys/fs/cgroup
busybox ln -sfn /proc/self/fd dev/fd
busybox ln -s /proc/self/fd/0 dev/stdin
busybox ln -s /proc/self/fd/1 dev/stdout
busybox ln -s /proc/self/fd/2 dev/stderr
busybox mkdir -p lib/modules/{release}
busybox mount -o bind {modules_directory} lib/modules/{release}
busybox hostname machine
busybox ip link set lo up
{gifts}
# By this file systemd would think itself in a container, as the host may be.
busybox rm -f .dockerenv
busybox cp /job /busybox run/
busybox mkdir -p run/systemd/system/multi-user.target.wants
busybox cp /job.service run/systemd/system/
busybox ln -s ../job.service run/systemd/system/multi-user.target.wants/
exec /busybox switch_root /new {first_process}
"""
_UNIT = b"""\
[Unit]
Description=What the machine is there for
[Service]
ExecStart=/bin/sh /run/job
"""
_JOB = """\
for port in /sys/class/virtio-ports/*; do
    read -r name < $port/name
    case $name in
        out) out=/dev/${{port##*/}} ;;
        err) err=/dev/${{port##*/}} ;;
        status) exec 3> /dev/${{port##*/}} ;;
    esac
done
echo {up} >&3
status=0
(
    exec 3>&- < /dev/null > $out 2> $err
    cd {directory} || exit
    {exports}
    exec {command}
) || status=$?
echo $status >&3
exec /run/busybox poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package, as `tools/machine-kernel` leaves it."""

    root: Path
    release: str  # as `uname -r` prints it

    @property
    def image(self) -> Path:
        """The kernel itself."""
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """What becomes the guest's /lib/modules/RELEASE."""
        return self.root / "lib" / "modules" / self.release


@dataclass(frozen=True, slots=True)
class Job:
    """What runs in the guest, as root: a command, and what it finds around it."""

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    gifts: Sequence[Path] = ()  # directories of the host that it may write to
    systemd: bool = False  # as the first process


def initramfs(kernel: Kernel, job: Job) -> bytes:
    """Return the archive for `qemu -initrd`. Raises OSError if the kernel is not complete."""
    modules = _in_order_of_loading(kernel)
    gifts = [
        f"busybox mkdir -p {where}\nbusybox mount -t 9p -o {_9P} gift{number} {where}"
        for number, where in enumerate(shlex.quote(f".{gift}") for gift in job.gifts)
    ]
    init = _INIT.format(
        modules=" ".join(path.name for path in modules),
        options=_9P,
        release=kernel.release,
        modules_directory=shlex.quote(f".{kernel.modules}"),
        gifts="\n".join(gifts),
        first_process="/lib/systemd/systemd" if job.systemd else "/bin/sh /run/job",
    )
    script = _JOB.format(
        up=_UP,
        directory=shlex.quote(str(job.directory)),
        exports="\n    ".join(
            f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()
        ),
        command=shlex.join(job.command),
    )
    return archive([
        ("modules", _DIRECTORY, b""),
        ("dev", _DIRECTORY, b""),
        ("busybox", _PROGRAM, (kernel.root / "bin" / "busybox").read_bytes()),
        ("init", _PROGRAM, init.encode()),
        ("job", _FILE, script.encode()),
        ("job.service", _FILE, _UNIT),
        *((f"modules/{path.name}", _FILE, path.read_bytes()) for path in modules),
    ])  # fmt: skip


def _in_order_of_loading(kernel: Kernel) -> list[Path]:
    """Return the files of the modules and of what they need, dependencies first."""
    needs = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).stem: path for path in needs}
    found: dict[str, None] = {}

    def add(path: str) -> None:
        for other in needs[path]:
            add(other)
        found[path] = None

    for name in _MODULES:
        if name not in by_name:
            raise FileNotFoundError(f"the kernel in {kernel.root} has no module {name}")
        add(by_name[name])
    return [kernel.modules / path for path in found]


def archive(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return a cpio archive ("newc", Documentation/driver-api/early-userspace) of these files.

    Each is a name, the mode as in stat(2), and the content.
    """
    result = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + path
        for part in (header, content):
            result += part + bytes(-len(part) % 4)
    return bytes(result)
