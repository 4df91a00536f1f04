"""`tools/system-packages` installs what is missing, names it elsewhere, and else keeps still."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "system-packages"
PROGRAMS = ("bash", "chromium", "curl", "dbus-daemon", "env", "id", "ip", "lowdown", "nft",
            "nsenter", "ping", "ps", "python3", "setpriv", "sort", "systemd-analyze", "tcpdump",
            "unshare", "wg", "wireguard-go", "zbarimg")  # fmt: skip


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Give a directory that is the whole PATH, with every program in it."""
    for name in PROGRAMS:
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for name in ("bash", "env", "sort"):
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    for path in tmp_path.iterdir():
        if not path.is_symlink():
            path.chmod(0o755)
    (tmp_path / "id").write_text("#!/bin/sh\necho 0\n")
    return tmp_path


def run(programs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script with nothing but these programs."""
    return subprocess.run(
        ["/bin/bash", SCRIPT, *arguments],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )


def add_apt(programs: Path) -> Path:
    """Add an apt-get that only writes down how it was called."""
    calls = programs / "calls"
    (programs / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (programs / "apt-get").chmod(0o755)
    return calls


def test_nothing_happens_when_nothing_is_missing(programs: Path) -> None:
    """No output and no apt-get: `make test` costs nothing here."""
    calls = add_apt(programs)
    result = run(programs)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not calls.exists()


def test_only_what_is_missing_is_installed(programs: Path) -> None:
    """Each missing program brings its package, once."""
    calls = add_apt(programs)
    for name in ("wg", "nsenter", "setpriv"):
        (programs / name).unlink()
    result = run(programs)
    assert (result.returncode, result.stdout) == (0, "installing util-linux wireguard-tools\n")
    assert calls.read_text().splitlines() == [
        "update -qq",
        "install -y -qq --no-install-recommends util-linux wireguard-tools",
    ]


def test_the_virtual_machine_is_installed_only_when_it_is_asked_for(programs: Path) -> None:
    """Nobody gets QEMU with the demo."""
    calls = add_apt(programs)
    run(programs)
    assert not calls.exists()
    assert run(programs, "machine").stdout.endswith("polkitd qemu-system-x86 udev\n")


def test_what_only_tests_call_is_installed_only_when_it_is_asked_for(programs: Path) -> None:
    """Nobody gets debhelper or another shell with `make install`."""
    add_apt(programs)
    assert run(programs, "tests").stdout == "installing debhelper dpkg-dev fish mandoc zsh\n"


def test_without_apt_the_packages_are_named(programs: Path) -> None:
    """Another distribution's user learns what to install."""
    (programs / "wireguard-go").unlink()
    result = run(programs)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: missing programs: wireguard-go",
        "hint: install the packages that Debian calls: wireguard-go",
    ]


def test_without_root_and_sudo_the_command_is_named(programs: Path) -> None:
    """Who may not install is told what root should type."""
    calls = add_apt(programs)
    (programs / "curl").unlink()
    (programs / "id").write_text("#!/bin/sh\necho 1000\n")
    result = run(programs)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "hint: as root: apt-get install curl"
    assert not calls.exists()


def test_an_old_python_is_refused(programs: Path) -> None:
    """Python before 3.11 is named with the way to choose another."""
    (programs / "python3").write_text(
        '#!/bin/sh\ncase "$*" in *version_info*) exit 1;; --version) echo Python 3.9.2;; esac\n'
    )
    result = run(programs)
    assert result.returncode == 1
    assert result.stderr.startswith("error: Python 3.9.2 is too old: Anubis needs Python 3.11\n")
