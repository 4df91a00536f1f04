"""The state file that a daemon finds when it starts (`anubis/daemon/state.py`).

Any bytes are a state, or none; a start never fails for it. What was read is written as JSON that
reads the same.
"""

from __future__ import annotations

import atexit
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from anubis.daemon.state import SavedState, StateFile
from anubis.gatekeeper import Connection, Role
from anubis.wishes import Wish
from tests.vectors.world import LAPTOP

RUNS = 8_000
MAX_LENGTH = 2000
TOKENS = (
    b"NaN", b"Infinity", b"1e999", b"null", b"true", b'"initiator"', b'"responder"', b"[]", b"{}",
    b'"connections": ', b'"peers": ', b'"wishes": ', b'"expires": ', b'"renew_at": ', b'"lease": ',
)  # fmt: skip

_DIRECTORY = tempfile.TemporaryDirectory(prefix="anubis-fuzz-")
atexit.register(_DIRECTORY.cleanup)
_PATH = Path(_DIRECTORY.name) / "state.json"
logging.getLogger("anubis").setLevel(logging.ERROR)  # the file is told to be unreadable


def run(data: bytes) -> None:
    """Start with the input as the file."""
    _PATH.write_bytes(data)
    state = StateFile(_PATH).load()
    assert isinstance(state, SavedState)
    again = SavedState.from_json(json.loads(json.dumps(state.to_json())))
    assert repr(again) == repr(state)  # NaN is not equal to itself


def seeds() -> Iterator[bytes]:
    """Give a state with everything, one with nothing, and what is none."""
    state = SavedState(
        connections=(
            Connection("jacinth", Role.INITIATOR, 1.8e9, 60, 90.5, 31.0),
            Connection("xena", Role.RESPONDER, 1.8e9, 60, 90.5, float("inf")),
        ),
        peers={"jacinth": LAPTOP.public_key},
        sysctls={"net.ipv4.conf.all.src_valid_mark": "0"},
        borrowed_mark=True,
        making=("wg0",),
        mtu_before=1420,
        unfinished={"surya": 120.0},
        heard=("xena",),
        bare=("selen",),
        wishes=(Wish("jacinth", None), Wish("surya", 60)),
    )
    yield json.dumps(state.to_json()).encode()
    yield json.dumps(SavedState().to_json()).encode()
    yield json.dumps(state.to_json()).encode().replace(b"90.5", b"1" + b"0" * 400)
    yield from (b"", b"{}", b"[]", b"null", b"\xff", b"[" * 1500)
