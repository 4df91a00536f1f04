"""The virtual machine does what it is told and says what came of it, or says why it can't."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anubis.lab.observe import wait_until
from tests.machine import Machine, MachineFailed


def processes_with(word: str) -> list[str]:
    """Return the command lines of running processes that hold a word."""
    lines = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True)
    return [line for line in lines.stdout.splitlines() if word in line]


def test_a_command_runs_on_a_kernel_with_wireguard(tmp_path: Path) -> None:
    """Output and status are the command's; what it writes stays only where it was given."""
    (tmp_path / "given, yes").mkdir()
    script = f"""
        pwd; echo "$WORD" >&2
        ip link add wg0 type wireguard; ip -details link show wg0 | grep -ow wireguard
        touch {tmp_path}/lost && ls {tmp_path}; echo kept > '{tmp_path}/given, yes/file'
        exit 7
    """
    done = Machine().run(
        ["sh", "-c", script], environment={"WORD": "it's"}, gifts=[tmp_path / "given, yes"]
    )
    lines = [str(Path.cwd()), "wireguard", "given, yes", "lost"]
    assert (done.returncode, done.stderr) == (7, "it's\n")
    assert done.stdout.splitlines() == lines
    assert [path.name for path in tmp_path.iterdir()] == ["given, yes"]
    assert (tmp_path / "given, yes" / "file").read_text() == "kept\n"


def test_a_late_command_is_ended_with_its_machine(tmp_path: Path) -> None:
    """Status 124, what it had said until then, and no QEMU left."""
    name = f"{tmp_path},given"
    Path(name).mkdir()
    words = ["--seconds", "3", "--give", name, "--", "sh", "-c", "echo early; sleep 1000"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.machine", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (124, "early\n"), done.stderr
    assert done.stderr == "error: the command took longer than 3 s\n"
    assert not processes_with(f"{tmp_path},,given")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_machine_ends_with_whoever_runs_it(tmp_path: Path, number: signal.Signals) -> None:
    """At once, whatever the signal."""
    words = ["--give", str(tmp_path), "--", "sh", "-c", "echo up; sleep 1000"]
    sought = f"path={tmp_path},"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.machine", *words], stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == b"up\n"
            assert processes_with(sought)
        finally:
            running.send_signal(number)
    wait_until(lambda: not processes_with(sought), 5, "QEMU has ended")


def test_a_kernel_that_dies_is_no_result() -> None:
    """A panic is told from a status, at once and with the kernel's words."""
    with pytest.raises(MachineFailed, match="panic - not syncing: sysrq triggered crash"):
        Machine().run(["sh", "-c", "echo c > /proc/sysrq-trigger; sleep 1000"], seconds=60.0)


def test_without_a_machine_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a pass, never a skip."""
    with pytest.raises(MachineFailed, match=f"there is no kernel in {tmp_path}"):
        Machine(directory=tmp_path).run(["true"])
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(MachineFailed, match="qemu-system-x86_64 is not installed"):
        Machine().run(["true"])
    done = subprocess.run(
        [sys.executable, "-m", "tests.machine", "true"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("error: qemu-system-x86_64 is not installed")


def test_a_guest_that_never_comes_up_is_no_machine(tmp_path: Path) -> None:
    """What is no kernel does not run, and QEMU's own words say so."""
    for directory in ("boot", "bin", "lib/modules/0/kernel"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "release").write_text("0\n")
    (tmp_path / "boot" / "vmlinuz-0").write_text("not a kernel")
    (tmp_path / "bin" / "busybox").write_text("")
    names = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
    for name in names:
        (tmp_path / "lib/modules/0/kernel" / f"{name}.ko").write_text("")
    (tmp_path / "lib/modules/0/modules.dep").write_text(
        "".join(f"kernel/{name}.ko:\n" for name in names)
    )
    with pytest.raises(MachineFailed, match=r"did not start\n.*(.*\n)*with tcg: .*kernel"):
        Machine(directory=tmp_path).run(["true"])
