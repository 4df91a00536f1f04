"""A file is replaced whole, or not at all, and nobody's words are lost."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from anubis.errors import LocalFailure
from anubis.files.writing import create_private, edit_file

DEADLINE = 20.0  # seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file with a mode and a group that are not the usual ones."""
    found = tmp_path / "authorized_peers"
    found.write_text("one\n")
    os.chown(found, 0, 4)
    found.chmod(0o640)
    return found


def test_mode_and_owner_stay(path: Path) -> None:
    """The service still reads what it could read, and nobody else does."""
    edit_file(path, lambda text: text + "two\n")
    status = path.stat()
    assert path.read_text() == "one\ntwo\n"
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, 0, 4)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_symbolic_link_stays_one(path: Path) -> None:
    """Who keeps the file elsewhere finds it changed there."""
    link = path.with_name("link")
    link.symlink_to(path.name)
    edit_file(link, lambda text: text + "two\n")
    assert link.is_symlink()
    assert path.read_text() == "one\ntwo\n"


def test_an_edit_that_refuses_changes_nothing(path: Path) -> None:
    """Its reason is told, and no other file is left beside."""
    before = path.stat()

    def refuse(_text: str) -> str:
        raise LocalFailure("not like this")

    with pytest.raises(LocalFailure, match="not like this"):
        edit_file(path, refuse)
    edit_file(path, lambda text: text)
    assert path.stat() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_a_person_saved_meanwhile_is_not_overwritten(path: Path) -> None:
    """An editor knows nothing of locks; its text is there afterwards, and ours is refused."""

    def edit(text: str) -> str:
        path.write_text("a person's\n")
        return text + "two\n"

    with pytest.raises(LocalFailure, match="changed by somebody else in the same moment"):
        edit_file(path, edit)
    assert path.read_text() == "a person's\n"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def _append(path: Path, word: str) -> None:
    for _ in range(20):
        edit_file(path, lambda text: f"{text}{word}\n")


def test_two_commands_wait_for_one_another(path: Path) -> None:
    """Whatever the order, each finds what the other has written."""
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_append, args=(path, word)) for word in ("a", "b")]
    for each in both:
        each.start()
    for each in both:
        each.join(DEADLINE)
        assert each.exitcode == 0
    assert sorted(path.read_text().split()) == ["a"] * 20 + ["b"] * 20 + ["one"]


def test_bytes_that_are_no_text_stay(path: Path) -> None:
    """What the parser refuses is not for an editor to mend."""
    path.write_bytes(b"\xff\n")
    edit_file(path, lambda text: text + "two\n")
    assert path.read_bytes() == b"\xff\ntwo\n"


def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one never comes into sight."""

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalFailure, match=f"cannot write {path}: No space left on device"):
        edit_file(path, lambda text: text + "two\n")
    assert path.read_text() == "one\n"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_private_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    """Whatever the umask and the directory are, and nothing is left beside it."""
    tmp_path.chmod(0o777)
    before = os.umask(0)
    try:
        create_private(tmp_path / "phone.png", b"\x89PNG")
    finally:
        os.umask(before)
    (made,) = tmp_path.iterdir()
    assert (made.read_bytes(), stat.S_IMODE(made.stat().st_mode)) == (b"\x89PNG", 0o600)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_private_file_replaces_nothing(tmp_path: Path, kind: str) -> None:
    """Not what a link leads to either."""
    there = tmp_path / "phone.png"
    if kind == "file":
        there.write_text("mine")
    else:
        there.symlink_to("elsewhere")
    with pytest.raises(LocalFailure, match=r"phone\.png exists, and is kept as it is"):
        create_private(there, b"x")
    assert [each.name for each in tmp_path.iterdir()] == ["phone.png"]
    assert there.is_symlink() or there.read_text() == "mine"
