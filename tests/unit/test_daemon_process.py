"""The daemon's process: the directory that it owns, its lock, and what systemd hands over."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from anubis.daemon.process import credentials_directory, only_one
from anubis.errors import LocalFailure


def test_only_one(tmp_path: Path) -> None:
    """A second daemon is told; after the first, it may."""
    directory = tmp_path / "run"
    with only_one(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
        with pytest.raises(LocalFailure, match="another anubis daemon"), only_one(directory):
            pytest.fail("there are two")
    with only_one(directory):
        pass


def test_root_takes_the_directory_that_the_service_had(tmp_path: Path) -> None:
    """But not from a daemon that runs."""
    directory = tmp_path / "run"
    directory.mkdir()
    os.chown(directory, 4298, 4298)
    with only_one(directory):
        assert directory.stat().st_uid == 0
        os.chown(directory, 4298, 4298)
        with pytest.raises(LocalFailure), only_one(directory):
            pytest.fail("there are two")
        assert directory.stat().st_uid == 4298


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    """Who owned the directory before cannot have root make a file elsewhere."""
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalFailure, match="symbolic links"), only_one(tmp_path):
        pytest.fail("it was followed")
    assert not (tmp_path / "elsewhere").exists()


def test_credentials_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What systemd says, or nothing."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert credentials_directory() is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/anubis.service")
    assert credentials_directory() == Path("/run/credentials/anubis.service")
