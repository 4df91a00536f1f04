"""The state file is found again whole, or not at all; it never holds a secret."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from anubis.daemon.hooks import Owed
from anubis.daemon.state import SavedState, StateFile
from anubis.errors import LocalFailure
from anubis.gatekeeper import Connection, Role
from anubis.wireguard.keys import PublicKey
from anubis.wishes import Wish

KEY = PublicKey(bytes(range(32)))
STATE = SavedState(
    connections=(
        Connection("jacinth", Role.INITIATOR, 1.5, 3600, 4600.0, 2700.0),
        Connection("xena", Role.RESPONDER, 2.5, 60, 99.0, float("inf")),
    ),
    peers={"jacinth": KEY},
    controls={"jacinth": PublicKey(bytes(32))},
    sysctls={"net.ipv4.conf.all.src_valid_mark": "0"},
    borrowed_mark=True,
    making=("wg0",),
    mtu_before=1420,
    unfinished={"surya": 4600.5},
    heard=("xena",),
    bare=("selen",),
    owed={"xena": Owed(Role.RESPONDER, 60)},
    wishes=(Wish("jacinth", 3600), Wish("surya"), Wish("leaf", 60, until=4600.0)),
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Every field survives, an infinite time included."""
    file = StateFile(tmp_path / "state.json")
    file.save(STATE)
    assert StateFile(tmp_path / "state.json").load() == STATE


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Names and times of connections are nobody else's business."""
    file = StateFile(tmp_path / "state.json")
    file.save(STATE)
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600


def test_saving_the_same_again_writes_nothing(tmp_path: Path) -> None:
    """A renewal a minute must not be a write a minute where nothing changed."""
    path = tmp_path / "state.json"
    file = StateFile(path)
    file.save(STATE)
    path.unlink()
    file.save(STATE)
    assert not path.exists()


def test_no_file_is_an_empty_state(tmp_path: Path) -> None:
    """The first start finds nothing and is content."""
    assert StateFile(tmp_path / "state.json").load() == SavedState()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"connections": 1}',
        json.dumps({**STATE.to_json(), "peers": {"x": "not a key"}}),
        json.dumps({**STATE.to_json(), "connections": [{"name": "x"}]}),
        json.dumps({**STATE.to_json(), "connections": ["x"]}),
        json.dumps({**STATE.to_json(), "unfinished": {"jacinth": 10**400}}),
        json.dumps({**STATE.to_json(), "mtu_before": float("inf")}),
        "[" * 10_000,
    ],
)
def test_an_unreadable_file_counts_as_none(tmp_path: Path, text: str) -> None:
    """A damaged file never keeps the daemon from starting."""
    path = tmp_path / "state.json"
    path.write_text(text)
    assert StateFile(path).load() == SavedState()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """The new content appears under its name only when it is whole."""
    path = tmp_path / "state.json"
    StateFile(path).save(STATE)
    (tmp_path / "state.new").mkdir()
    with pytest.raises(LocalFailure, match=r"^Is a directory: .*state\.json"):
        StateFile(path).save(SavedState())
    assert StateFile(path).load() == STATE


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """Who owned the directory before cannot have the daemon write elsewhere."""
    (tmp_path / "state.new").symlink_to(tmp_path / "elsewhere")
    StateFile(tmp_path / "state.json").save(STATE)
    assert not (tmp_path / "elsewhere").exists()
    assert StateFile(tmp_path / "state.json").load() == STATE
