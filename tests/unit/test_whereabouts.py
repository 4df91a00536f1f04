"""Every directory in which a change changes what is read is known, and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from anubis.files.whereabouts import MAX_DIRECTORIES, Interest, whereabouts


def test_the_whole_way_from_the_root_is_known(tmp_path: Path) -> None:
    """Any of these may be replaced as a whole; the last has the files themselves."""
    etc = tmp_path / "etc"
    etc.mkdir()
    found = whereabouts(etc / "authorized_peers")
    way = [*reversed(etc.parents), etc]
    assert list(found) == way
    for place, child in itertools.pairwise(way):
        assert found[place] == Interest({child.name})
    assert found[etc] == Interest({"authorized_peers", "authorized_peers.d"}, contents=True)


def test_the_parts_are_those_that_are_read(tmp_path: Path) -> None:
    """Files of any name that counts, and no editor's own."""
    (tmp_path / "authorized_peers.d").mkdir()
    found = whereabouts(tmp_path / "authorized_peers")[tmp_path / "authorized_peers.d"]
    assert found.contents
    assert [
        n for n in ("a.conf", ".a.conf", ".a.conf.swp", "a.conf~", "4913") if found.concerns(n)
    ] == ["a.conf"]


def test_a_link_leads_on(tmp_path: Path) -> None:
    """A link to a file, by way of another link to a directory: each can be set anew."""
    real = tmp_path / "releases" / "3"
    real.mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/3")
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "authorized_peers").symlink_to(f"{tmp_path}/etc/../current/peers")
    found = whereabouts(etc / "authorized_peers")
    assert found[tmp_path].names >= {"etc", "current", "releases"}
    assert found[tmp_path / "releases"] == Interest({"3"})
    assert found[real] == Interest({"peers"}, contents=True)


def test_linked_parts_lead_on_too(tmp_path: Path) -> None:
    """A part may be kept elsewhere, and so may all of them."""
    kept, parts, shelf = (tmp_path / name for name in ("kept", "parts", "shelf"))
    for directory in (kept, parts, shelf):
        directory.mkdir()
    (tmp_path / "authorized_peers.d").symlink_to("shelf")
    (shelf / "house.conf").symlink_to(kept / "house")
    (shelf / "house.txt").symlink_to(parts / "no-part")
    found = whereabouts(tmp_path / "authorized_peers")
    assert found[shelf].parts
    assert found[kept] == Interest({"house"}, contents=True)
    assert parts not in found


def test_what_is_not_there_is_awaited_where_it_would_come(tmp_path: Path) -> None:
    """Without a directory, its parent is the last one."""
    found = whereabouts(tmp_path / "etc" / "authorized_peers")
    assert found[tmp_path] == Interest({"etc"})


@pytest.mark.parametrize("target", ["authorized_peers", "/nowhere/at/all", "../" * 60])
def test_a_link_that_leads_nowhere_has_an_end(tmp_path: Path, target: str) -> None:
    """Circles and dead ends are no reason to stay there."""
    (tmp_path / "authorized_peers").symlink_to(target)
    assert tmp_path in whereabouts(tmp_path / "authorized_peers")


def test_the_number_of_directories_is_bounded(tmp_path: Path) -> None:
    """A thousand links into as many directories do not take all the watches of a host."""
    parts = tmp_path / "authorized_peers.d"
    parts.mkdir()
    for number in range(2 * MAX_DIRECTORIES):
        (tmp_path / str(number)).mkdir()
        (parts / f"{number}.conf").symlink_to(tmp_path / str(number) / "file")
    assert len(whereabouts(tmp_path / "authorized_peers")) <= MAX_DIRECTORIES
