"""Where there is no atheris nothing is searched, and nobody can take that for a search."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.fuzz import __main__ as search

ROOT = Path(__file__).parents[2]
HERE = {
    "platform_machine": "x86_64",
    "sys_platform": "linux",
    "implementation_name": "cpython",
    "python_version": "3.11",
}


@pytest.fixture(autouse=True)
def _no_atheris(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_spec", lambda _: None)


@pytest.mark.parametrize("argument", [[], ["--if-possible"]])
def test_it_is_an_error_where_atheris_should_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argument: list[str]
) -> None:
    """A broken environment never passes for one that cannot have it."""
    monkeypatch.setattr(search, "requires", lambda _: ["atheris>=3; python_version > '3'"])
    monkeypatch.setattr("sys.argv", ["fuzz", *argument])
    assert search.main() == 69
    assert capsys.readouterr().err.startswith("error: atheris is not installed")


@pytest.mark.parametrize(("argument", "status"), [([], 69), (["--if-possible"], 0)])
def test_it_is_said_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argument: list[str],
    status: int,
) -> None:
    """`make fuzz` fails there; `make test` goes on, with a line that says so."""
    monkeypatch.setattr(search, "requires", lambda _: ["atheris>=3; python_version < '3'"])
    monkeypatch.setattr("sys.argv", ["fuzz", *argument])
    assert search.main() == status
    assert "not fuzzed: atheris is not made for Python" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock"])
def test_it_is_asked_for_only_where_it_has_a_wheel(name: str) -> None:
    """A lock without the marker would break `make check` on every other machine."""
    (line,) = re.findall(r'^ *"?(atheris[^\\\n]*[^\\\n",])', (ROOT / name).read_text(), re.M)
    marker = Requirement(line.strip()).marker
    assert marker is not None
    assert marker.evaluate(HERE)
    for other in ({"platform_machine": "aarch64"}, {"python_version": "3.14"}):
        assert not marker.evaluate({**HERE, **other})
