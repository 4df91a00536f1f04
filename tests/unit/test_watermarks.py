"""Watermarks outlive the daemon and the boot, whatever the disk does."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from anubis.daemon.watermarks import Watermarks
from anubis.errors import LocalFailure
from anubis.protocol.tai64n import MAX_UNIX_NS
from anubis.wireguard.keys import PublicKey

KEYS = [PublicKey(bytes([number]) * 32) for number in range(1, 9)]


class Host:
    """A directory that outlives the boot and one that does not, and what is in memory."""

    def __init__(self, path: Path) -> None:
        self.lasting = path / "lasting" / "watermarks"
        self.volatile = path / "volatile" / "watermarks"
        self.memory: dict[PublicKey, int] = {}
        self.forgotten_ns = 0
        self._risen: dict[PublicKey, int] = {}

    def start(self) -> Watermarks:
        """Start a daemon, which finds what is left."""
        marks = Watermarks(self.lasting, self.volatile, self)
        self.memory, self.forgotten_ns = marks.load()
        return marks

    def boot(self) -> None:
        """Lose what does not outlive a boot."""
        self.volatile.unlink(missing_ok=True)

    def watermarks(self) -> dict[PublicKey, int]:
        """Return all."""
        return self.memory

    def risen(self) -> dict[PublicKey, int]:
        """Return what has risen, once."""
        risen, self._risen = self._risen, {}
        return risen

    async def raises(self, marks: Watermarks, key: PublicKey, unix_ns: int) -> None:
        """Have a request come in."""
        self.memory[key] = self._risen[key] = unix_ns
        await marks.record()
        await marks.sync()

    def obstruct(self, path: Path) -> Callable[[], object]:
        """Let nothing be written in a directory; return how that ends. Root minds no modes."""
        kept = (
            path.parent.rename(path.parent.with_suffix(".kept")) if path.parent.exists() else None
        )
        path.parent.write_text("in the way")

        def end() -> None:
            path.parent.unlink()
            if kept is not None:
                kept.rename(path.parent)

        return end


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Make a host that was never started."""
    return Host(tmp_path)


async def test_what_was_recorded_is_found_after_a_boot(host: Host) -> None:
    """The newest of each initiator, also if the daemon was killed; however far its clock is off."""
    marks = host.start()
    for number, unix_ns in enumerate((1, 2, -5, MAX_UNIX_NS)):
        await host.raises(marks, KEYS[number % 3], unix_ns)
    host.boot()
    host.start()
    assert host.memory == {KEYS[0]: MAX_UNIX_NS, KEYS[1]: 2, KEYS[2]: -5}
    assert stat.S_IMODE(host.lasting.stat().st_mode) == 0o600
    assert stat.S_IMODE(host.lasting.parent.stat().st_mode) == 0o700


async def test_a_request_is_one_record(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many initiators there are; the file is written anew when most of it is superseded."""
    host.memory = dict.fromkeys((PublicKey(n.to_bytes(32)) for n in range(1, 3000)), 7)
    marks = Watermarks(host.lasting, host.volatile, host)
    await marks.record()
    whole, inode = host.lasting.stat().st_size, host.lasting.stat().st_ino
    await host.raises(marks, KEYS[1], 8)
    assert host.lasting.stat().st_size == whole + whole // 3000
    assert host.lasting.stat().st_ino == inode
    monkeypatch.setattr("os.fsync", lambda _: None)  # six thousand of them would take a while
    for unix_ns in range(9, 6000):
        await host.raises(marks, KEYS[1], unix_ns)
    assert host.lasting.stat().st_size < 3 * whole
    assert host.lasting.stat().st_ino != inode
    host.start()
    assert len(host.memory) == 3000
    assert host.memory[KEYS[1]] == 5999


@pytest.mark.parametrize("damage", ["cut", "zeros", "flipped"])
async def test_a_power_cut_costs_the_last_record_at_most(host: Host, damage: str) -> None:
    """Whatever stands at the end of the file, the others are read."""
    marks = host.start()
    await host.raises(marks, KEYS[1], 1)
    await host.raises(marks, KEYS[2], 2)
    content = bytearray(host.lasting.read_bytes())
    if damage == "cut":
        del content[-3:]
    elif damage == "zeros":
        content += bytes(100)
    else:
        content[-20] ^= 1
    host.lasting.write_bytes(content)
    host.start()
    assert host.memory == ({KEYS[1]: 1, KEYS[2]: 2} if damage == "zeros" else {KEYS[1]: 1})


async def test_without_a_disk_they_outlive_the_daemon(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported once; and when the disk is back, everything is on it."""
    said: list[str] = []
    monkeypatch.setattr(
        "anubis.daemon.watermarks.event", lambda _level, name, **_fields: said.append(name)
    )
    marks = host.start()
    await host.raises(marks, KEYS[1], 1)
    end = host.obstruct(host.lasting)
    for unix_ns in (2, 3):
        await host.raises(marks, KEYS[2], unix_ns)
    killed = host.start()
    assert host.memory == {KEYS[2]: 3, KEYS[1]: 1}
    end()
    await host.raises(killed, KEYS[3], 4)
    assert not host.volatile.exists()
    host.boot()
    host.start()
    assert host.memory == {KEYS[1]: 1, KEYS[2]: 3, KEYS[3]: 4}
    assert said == ["watermarks_not_saved", "watermarks_unreadable", "watermarks_saved"]


async def test_who_is_forgotten_leaves_how_far_all_of_them_came(host: Host) -> None:
    """It is appended when it rises, and kept when the file is written anew."""
    marks = host.start()
    await host.raises(marks, KEYS[1], 1)
    host.forgotten_ns = 7
    await host.raises(marks, KEYS[2], 9)
    for _ in range(2):
        again = host.start()
        assert (host.memory, host.forgotten_ns) == ({KEYS[1]: 1, KEYS[2]: 9}, 7)
        await again.record()


async def test_with_neither_a_request_is_refused_and_the_next_one_saves_all(host: Host) -> None:
    """Nothing is forgotten of what could not be written."""
    marks = host.start()
    ends = [host.obstruct(path) for path in (host.lasting, host.volatile)]
    with pytest.raises(LocalFailure, match="cannot note that a request was received"):
        await host.raises(marks, KEYS[1], 1)
    for end in ends:
        end()
    await host.raises(marks, KEYS[2], 2)
    host.start()
    assert host.memory == {KEYS[1]: 1, KEYS[2]: 2}


async def test_many_share_one_wait_for_the_disk(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred requests at one time cost a few synchronisations, and none returns before its."""
    marks = host.start()
    await marks.record()
    synced: list[int] = []
    monkeypatch.setattr(
        "anubis.daemon.lasting.sync", lambda path: synced.append(path.stat().st_size)
    )
    needed: list[tuple[int, int]] = []

    async def request(number: int) -> None:
        host.memory[KEYS[0]] = host._risen[KEYS[0]] = number + 1
        await marks.record()
        size = host.lasting.stat().st_size
        await marks.sync()
        needed.append((size, max(synced)))

    await asyncio.gather(*(request(number) for number in range(100)))
    assert len(needed) == 100
    assert all(have >= wanted for wanted, have in needed)
    assert 1 <= len(synced) < 10


async def test_a_clean_end_leaves_nothing_superseded(host: Host) -> None:
    """Only the newest of each, and no thread."""
    marks = host.start()
    for unix_ns in range(50):
        await host.raises(marks, KEYS[1], unix_ns)
    await marks.close()
    assert host.lasting.stat().st_size < 100  # this one, and that nobody was forgotten
    host.start()
    assert host.memory == {KEYS[1]: 49}
