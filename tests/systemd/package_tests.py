"""The Debian package in the machine, as an administrator meets it: from installation to purge.

One story, in this order; each part needs those before it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.systemd.guest import (
    Ping,
    anubis,
    in_house,
    interfaces,
    journal,
    run,
    show,
    wait_until,
)

ROOT = Path(__file__).parents[2]
NAME = "anubis-gatekeeper"
ETC = Path("/etc/anubis")
KEYS = ("production.key", "control.key")
OURS = {"anubis0", "wg0"}


def package() -> str:
    """Return the path of the package that `make packages` has built."""
    (path,) = (ROOT / "dist").glob("*.deb")
    return str(path)


def files() -> list[Path]:
    """Return what dpkg has installed, but for directories and links to them."""
    paths = map(Path, run("dpkg", "-L", NAME).splitlines())
    return [path for path in paths if not path.is_dir()]


@pytest.fixture(scope="session")
def installed(machine: None) -> None:
    """Install the package, as `apt install ./FILE` does when it has what the package needs."""
    # Else the first package with a man page has every page of the host indexed, for minutes.
    Path("/var/lib/man-db/auto-update").unlink(missing_ok=True)
    said = run("dpkg", "--install", package())
    assert "error" not in said


@pytest.fixture(scope="session")
def service(installed: None) -> None:
    """Do what is left to the administrator."""
    run("useradd", "--groups", "anubis", "ann")
    run("tests/systemd/introduce")
    run("systemctl", "start", "--no-block", "house")
    run("systemctl", "enable", "--now", "anubis")


def test_it_is_installed_and_starts_nothing(installed: None) -> None:
    """All its files are right, the service waits for its configuration, and commands run."""
    assert run("dpkg", "--verify", NAME) == ""
    assert run("dpkg", "--audit") == ""
    assert (show("ActiveState"), show("UnitFileState")) == ("inactive", "disabled")
    assert show("FragmentPath") == "/lib/systemd/system/anubis.service"
    assert not ETC.exists()
    assert run("anubis", "--version").startswith("anubis ")
    assert run("getent", "group", "anubis").startswith("anubis:")
    assert run("stat", "--format=%A %U:%G", "/run/wireguard") == "drwxrwxr-t root:anubisd\n"
    expected = {
        *("/usr/bin/anubis", "/usr/bin/anubisd"),
        *(f"/usr/share/man/man{page[-1]}/{page}.gz"
          for page in ("anubis.1", "anubisd.8", "anubis.conf.5", "authorized_peers.5")),
        "/usr/share/bash-completion/completions/anubis",
        "/usr/share/zsh/vendor-completions/_anubis",
        "/usr/share/fish/vendor_completions.d/anubis.fish",
        *(f"/usr/share/doc/{NAME}/examples/{path.name}" for path in (ROOT / "etc").iterdir()),
    }  # fmt: skip
    assert expected <= set(map(str, files()))


def test_it_serves(connection: None) -> None:
    """A user of group anubis has brought the connection up, which carries packets."""
    with Ping() as ping:
        pass
    assert ping.counts[1] > 0


def test_an_upgrade_cuts_no_connection(connection: None) -> None:
    """Another daemon runs then, and no packet was lost. To dpkg the same version is an upgrade."""
    before = show("MainPID")
    handshake = run("wg", "show", "wg0", "latest-handshakes")
    with Ping() as ping:
        run("dpkg", "--install", package())
        wait_until(lambda: show("ActiveState") == "active", "it runs again")
    assert ping.lost == set()
    assert ping.counts[1] > 10
    assert show("MainPID") != before
    assert run("wg", "show", "wg0", "latest-handshakes") == handshake
    assert "up" in anubis("status", "house").splitlines()[1].split()
    assert not journal("--unit=house", "ANUBIS_PEER=laptop", "ANUBIS_EVENT=down")


def test_a_removal_keeps_what_is_the_administrator_s(connection: None) -> None:
    """The service ends as by a stop, its files go, and configuration and keys stay as they were."""
    kept = {path: (path.read_bytes(), path.stat().st_mode) for path in ETC.iterdir()}
    assert set(KEYS) < {path.name for path in kept}
    gone = files()
    run("dpkg", "--remove", NAME)
    assert not interfaces() & OURS
    wait_until(lambda: in_house("wg", "show", "wg0", "peers") == "", "the house lets go", 10.0)
    assert [path for path in gone if os.path.lexists(path)] == []
    assert not Path("/usr/lib/anubis").exists()
    assert {path: (path.read_bytes(), path.stat().st_mode) for path in ETC.iterdir()} == kept
    assert Path("/var/lib/anubis/watermarks").exists()


def test_a_purge_takes_keys_and_state_away(service: None) -> None:
    """And what it does not know, it leaves."""
    run("systemctl", "kill", "--signal=KILL", "house")
    note = ETC / "note"
    note.touch()
    run("dpkg", "--purge", NAME)
    assert list(ETC.iterdir()) == [note]
    assert not [path for path in ("/var/lib/anubis", "/run/anubis") if Path(path).exists()]
    assert run("dpkg", "--list", NAME, check=False) == ""
    links = run("find", "/etc/systemd/system", "-name", "anubis.service")
    assert links == ""
