"""The files for systemd are what systemd understands, and grant no more than they explain."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from anubis.files.service import SERVICE

UNITS = Path(__file__).parents[2] / "systemd"
UNIT = (UNITS / "anubis.service").read_text()
MAX_EXPOSURE = 1.5  # of 10, as `systemd-analyze security` counts


def tool(name: str) -> str:
    """Return the path of one of systemd's tools, or fail and say what is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed (package systemd)")
    return path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of systemd's tools."""
    name, *arguments = map(str, command)
    return subprocess.run(
        [tool(name), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def settings(name: str) -> list[str]:
    """Return the values that the unit gives to a setting."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.M)


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing to say about the unit."""
    programs = tmp_path / "usr/bin"
    programs.mkdir(parents=True)
    for line in ("ExecStart=/usr/bin/anubisd\n", "ExecReload=/usr/bin/anubis reload\n"):
        assert line in UNIT
        (programs / line.split("/")[-1].split()[0]).touch(mode=0o755)
    unit = tmp_path / "anubis.service"
    unit.write_text(UNIT.replace("=/usr/bin", f"={programs}"))
    done = run("systemd-analyze", "verify", "--man=no", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_the_unit_exposes_is_little_and_explained() -> None:
    """`systemd-analyze security` rates it; each thing that it counts stands in a comment."""
    command = ("systemd-analyze", "security", "--offline=true", "--no-pager")
    unit = UNITS / "anubis.service"
    rated = run(*command, f"--threshold={MAX_EXPOSURE * 10:.0f}", unit)
    assert rated.returncode == 0, rated.stdout
    comments = " ".join(line for line in UNIT.splitlines() if line.startswith("#"))
    left = {
        re.split("[=:]", item["name"])[0]
        for item in json.loads(run(*command, "--json=short", unit).stdout)
        if item["exposure"]
    }
    assert len(left) == 9
    assert sorted(name for name in left if name not in comments) == []


def test_user_and_groups_are_made(tmp_path: Path) -> None:
    """`systemd-sysusers` makes those whom the unit and the code name."""
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}", UNITS / "anubis.sysusers")
    assert done.returncode == 0, done.stderr
    (user,) = (tmp_path / "etc/passwd").read_text().splitlines()
    assert user.split(":")[0] == SERVICE
    assert user.endswith("/nologin")
    groups = (tmp_path / "etc/group").read_text().splitlines()
    assert {line.split(":")[0] for line in groups} == {"anubis", SERVICE}
    assert settings("User") == [SERVICE]


def test_the_directory_of_sockets_is_made() -> None:
    """What `systemd-tmpfiles` is told: the service may add to it, and take away only its own."""
    text = (UNITS / "anubis.tmpfiles").read_text()
    assert text.splitlines()[-1] == f"d /run/wireguard 1775 root {SERVICE} -"
    assert "-/run/wireguard" in settings("ReadWritePaths")


def test_the_keys_are_handed_over() -> None:
    """Each by the name by which the daemon asks for it, and a blank where there is none."""
    names = {f"etc-anubis-{key}.key": f"/etc/anubis/{key}.key" for key in ("production", "control")}
    assert settings("LoadCredential") == [f"{name}:{path}" for name, path in names.items()]
    assert settings("SetCredential") == [f"{name}:\\n" for name in names]
