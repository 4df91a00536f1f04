"""The sdist has everything, the wheel all that runs, and one makes the other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from anubis import __version__

ROOT = Path(__file__).parents[2]
MADE = re.compile(r"\..*|__pycache__|build|dist|.*\.egg-info")
GENERATED = re.compile(r"PKG-INFO|setup\.cfg|anubis_gatekeeper\.egg-info/.*")


def files(directory: Path) -> Iterator[str]:
    """Yield the files of the repository, but for those that are about the repository itself."""
    for path in directory.iterdir():
        if MADE.fullmatch(path.name):
            continue
        if path.is_dir():
            yield from (f"{path.name}/{below}" for below in files(path))
        else:
            yield path.name


def build(*arguments: str | Path) -> None:
    """Run the builder that `make packages` runs."""
    command = [sys.executable, "-m", "build", "--no-isolation", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def content(wheel: Path) -> dict[str, bytes]:
    """Return the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the repository in which nothing was built."""
    tree = tmp_path_factory.mktemp("tree") / "anubis"
    shutil.copytree(ROOT, tree, ignore=lambda _, names: list(filter(MADE.fullmatch, names)))
    return tree


@pytest.fixture(scope="module")
def archives(tree: Path) -> Path:
    """Give a directory with an sdist and the wheel that was built from it."""
    directory = tree.parent / "dist"
    build("--outdir", directory, tree)
    return directory


def test_the_sdist_has_everything(archives: Path) -> None:
    """Every file of the repository, modes included, and nothing else but what setuptools adds."""
    (sdist,) = archives.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = [each for each in archive.getmembers() if each.isfile()]
    found = {each.name.partition("/")[2]: each.mode & 0o111 for each in members}
    expected = {name: (ROOT / name).stat().st_mode & 0o111 for name in files(ROOT)}
    assert {n: m for n, m in found.items() if not GENERATED.fullmatch(n)} == expected


def test_the_wheel_has_all_that_runs(archives: Path) -> None:
    """Every file of anubis/, as it is here, and the licence; no test and no tool."""
    (wheel,) = archives.glob("*.whl")
    found = content(wheel)
    package = {name: body for name, body in found.items() if name.startswith("anubis/")}
    assert package == {
        f"anubis/{n}": (ROOT / "anubis" / n).read_bytes() for n in files(ROOT / "anubis")
    }
    others = {name.partition("/")[2] for name in found.keys() - package.keys()}
    assert others == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
                      "top_level.txt"}  # fmt: skip


def test_the_sdist_makes_the_same_wheel(tree: Path, archives: Path) -> None:
    """As the checkout does: in a package's build nothing is missing."""
    directory = tree.parent / "straight"
    build("--wheel", "--outdir", directory, tree)
    (straight,) = directory.glob("*.whl")
    (wheel,) = archives.glob("*.whl")
    assert straight.name == wheel.name
    assert content(straight) == content(wheel)


def test_there_is_one_version() -> None:
    """The program, its Python packages and the Debian package tell the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    first = (ROOT / "debian/changelog").read_text().splitlines()[0]
    debian = re.fullmatch(r"anubis-gatekeeper \((.*)-\d+\) unstable; urgency=medium", first)
    assert debian is not None
    assert __version__ == project["version"] == debian[1]
