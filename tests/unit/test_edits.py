"""Edits are heard of by the kernel's real inotify, however they are made, and only those."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import inotify_simple
import pytest
from inotify_simple import Event, flags

from anubis.daemon import calm
from anubis.daemon import edits as module
from anubis.daemon.edits import Edits
from anubis.files.whereabouts import Interest, whereabouts

DEADLINE = 10.0  # seconds
SETTLE = 0.02  # seconds; an edit here is made at one go, before anybody can look
UNHEARD = 0.2  # seconds in which an edit would have been heard of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for longer than a test needs."""
    monkeypatch.setattr(calm, "SETTLE", SETTLE)


class Listener:
    """Counts how often the files are to be read."""

    def __init__(self, path: Path) -> None:
        self.edits = Edits(path)
        self.times = 0
        self._heard = asyncio.Event()

    def hear(self) -> None:
        self.times += 1
        self._heard.set()

    async def heard(self) -> None:
        """Wait until there is something to read, and no more of it follows."""
        async with asyncio.timeout(DEADLINE):
            await self._heard.wait()
        with suppress(TimeoutError):
            while True:
                self._heard.clear()
                async with asyncio.timeout(UNHEARD):
                    await self._heard.wait()

    async def silent(self) -> None:
        """See that nothing is to be read."""
        self._heard.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(UNHEARD):
                await self._heard.wait()


@asynccontextmanager
async def listening(path: Path) -> AsyncIterator[Listener]:
    """Listen for edits of a file."""
    listener = Listener(path)
    task = asyncio.create_task(listener.edits.run(listener.hear))
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.edits.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file of authorized peers, with parts, in a directory of its own."""
    etc = tmp_path / "etc"
    (etc / "authorized_peers.d").mkdir(parents=True)
    (etc / "authorized_peers.d" / "one.conf").write_text("one\n")
    (etc / "authorized_peers").write_text("first\n")
    return etc / "authorized_peers"


def in_place(path: Path) -> None:
    """Do as `cat >` does."""
    path.write_text("second\n")


def by_renaming(path: Path) -> None:
    """Do as `anubis peer add`, sed -i and most tools do."""
    new = path.with_name(".new")
    new.write_text("second\n")
    new.replace(path)


def as_vim_does(path: Path) -> None:
    """Rename the old file away, write a new one, remove the old one."""
    old = path.with_name(f"{path.name}~")
    path.rename(old)
    path.write_text("second\n")
    old.unlink()


def a_new_part(path: Path) -> None:
    """Authorize by one more file."""
    (path.parent / "authorized_peers.d" / "two.conf").write_text("two\n")


def a_part_less(path: Path) -> None:
    """Take a file away."""
    (path.parent / "authorized_peers.d" / "one.conf").unlink()


def no_parts(path: Path) -> None:
    """Take all further files away."""
    shutil.rmtree(path.parent / "authorized_peers.d")


def other_parts(path: Path) -> None:
    """Replace the directory of the parts as a whole."""
    parts = path.parent / "authorized_peers.d"
    parts.rename(path.parent / "old")
    (path.parent / "new").mkdir()
    (path.parent / "new" / "two.conf").write_text("two\n")
    (path.parent / "new").rename(parts)


def all_anew(path: Path) -> None:
    """Replace the whole directory, as some configuration management does."""
    new = path.parent.with_name("new")
    shutil.copytree(path.parent, new)
    path.parent.rename(path.parent.with_name("old"))
    new.rename(path.parent)


def other_rights(path: Path) -> None:
    """Let others read it no more."""
    path.chmod(0o600)


def nothing_left(path: Path) -> None:
    """Remove the directory."""
    shutil.rmtree(path.parent)


def link(path: Path, target: Path) -> None:
    """Put a link into a place, in one step."""
    new = path.with_name(".link")
    new.symlink_to(target)
    new.rename(path)


EDITS = [
    in_place,
    by_renaming,
    as_vim_does,
    a_new_part,
    a_part_less,
    no_parts,
    other_parts,
    all_anew,
    other_rights,
    nothing_left,
]


@pytest.mark.parametrize("edit", EDITS)
async def test_an_edit_is_heard_of_once_and_so_is_the_next(path: Path, edit: object) -> None:
    """However it is made; afterwards the watches lie where the files are now."""
    assert callable(edit)
    async with listening(path) as listener:
        edit(path)
        await listener.heard()
        assert listener.times == 1
        path.parent.mkdir(exist_ok=True)
        by_renaming(path)
        await listener.heard()
        assert listener.times == 2
        await listener.silent()


async def test_what_is_changed_before_it_serves_is_heard_of(path: Path) -> None:
    """The daemon reads the files, and takes its time to start."""
    listener = Listener(path)
    by_renaming(path)
    task = asyncio.create_task(listener.edits.run(listener.hear))
    await listener.heard()
    assert listener.times == 1
    task.cancel()
    listener.edits.close()


async def test_a_link_is_followed_and_may_be_set_anew(path: Path) -> None:
    """What is edited at its end is heard of, and that it leads elsewhere."""
    kept = path.parent.with_name("kept")
    for number in ("1", "2"):
        (kept / number).mkdir(parents=True)
        (kept / number / "peers").write_text(number)
    link(kept / "current", Path("1"))
    link(path, kept / "current" / "peers")
    async with listening(path) as listener:
        in_place(kept / "1" / "peers")
        await listener.heard()
        link(kept / "current", Path("2"))
        await listener.heard()
        in_place(kept / "2" / "peers")
        await listener.heard()
        assert listener.times == 3
        in_place(kept / "1" / "peers")
        await listener.silent()


async def test_what_is_read_and_what_others_do_there_is_nothing(path: Path) -> None:
    """No reload for a swap file, a backup, a key, or for whoever reads."""
    async with listening(path) as listener:
        for name in ("authorized_peers", "authorized_peers.d/one.conf"):
            assert (path.parent / name).read_text()
        for name in (".authorized_peers.swp", "authorized_peers~", "4913", "anubis.conf"):
            (path.parent / name).write_text("x")
        (path.parent / "authorized_peers.d" / ".one.conf.swp").write_text("x")
        (path.parent / "authorized_peers.d" / "README").write_text("x")
        await listener.silent()
        assert listener.times == 0


async def test_a_file_that_is_half_written_is_waited_for(path: Path) -> None:
    """Not before it is closed, though it does not change for a while."""
    async with listening(path) as listener:
        with path.open("w") as file:
            file.write("half")
            file.flush()
            await listener.silent()
        closed = time.monotonic()
        await listener.heard()
        assert listener.times == 1
        assert time.monotonic() - closed < calm.LATEST


async def test_lost_notices_are_a_change(path: Path) -> None:
    """If more happened than the kernel remembers, it may have been anything."""
    listener = Listener(path)
    listener.edits._take(Event(-1, flags.Q_OVERFLOW, 0, ""), time.monotonic())
    task = asyncio.create_task(listener.edits.run(listener.hear))
    await listener.heard()
    task.cancel()
    listener.edits.close()


async def test_a_busy_neighbour_does_not_keep_it_busy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much happens beside the files, it looks a bounded number of times a second."""
    looks = 0
    hear = Edits._hear

    def counted(self: Edits) -> None:
        nonlocal looks
        looks += 1
        hear(self)

    monkeypatch.setattr(Edits, "_hear", counted)
    async with listening(path) as listener:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            (path.parent / "noise").write_text("x")
            await asyncio.sleep(0)
        assert 1 <= looks <= 1.0 / module.BREATH + 2
        assert listener.times == 0


async def test_a_host_without_watches_says_so_and_tries_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once; when there is one at last, the files are read, for what was missed."""
    caplog.set_level("WARNING", "anubis")
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    init = inotify_simple.INotify
    missing = 3

    def rarely(*, nonblocking: bool) -> object:
        nonlocal missing
        missing -= 1
        if missing >= 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return init(nonblocking=nonblocking)

    monkeypatch.setattr(module, "INotify", rarely)
    async with listening(path) as listener:
        await listener.heard()
        assert listener.times == 1
        by_renaming(path)
        await listener.heard()
        assert listener.times == 2
    assert caplog.text.count("not_watched") == 1
    assert "fs.inotify.max_user_instances" in caplog.text


async def test_nothing_is_done_while_nothing_happens(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host at rest sleeps."""
    looked = asyncio.Event()

    def below(file: Path) -> dict[Path, Interest]:
        """Leave out the directories above, where others make files during the test."""
        found = whereabouts(file)
        return {place: found[place] for place in found if place.is_relative_to(path.parent)}

    monkeypatch.setattr(module, "whereabouts", below)
    monkeypatch.setattr(Edits, "_hear", lambda _edits: looked.set())
    async with listening(path) as listener:
        await listener.silent()
        assert not looked.is_set()
        by_renaming(path)
        async with asyncio.timeout(DEADLINE):
            await looked.wait()
