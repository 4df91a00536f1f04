"""Every input that was ever worth keeping, tried again, without atheris.

What was found once is found again here if it comes back, on every machine and in a second. And
each target is held to its word: with a defect in the code under it, its kept inputs show it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuzz.catalogue import CORPUS, TARGETS, inputs, load

ROOT = Path(__file__).parents[2]
REPLAY = """
import sys
from tests.fuzz.catalogue import inputs, load
target = load(sys.argv[1])
for place, data in inputs(sys.argv[1]):
    target.run(data)
"""


@dataclass(frozen=True)
class Defect:
    """A line of a module under a target, and what it becomes."""

    target: str
    module: str
    right: str
    wrong: str


DEFECTS = (
    Defect(
        "anubis_conf", "files/fields.py", "or not 1 <= int(text) <= 65535", "or int(text) > 65535"
    ),
    Defect("authorized_peers", "files/fields.py", "if seconds == 0:", "if seconds < 0:"),
    Defect(
        "calls", "daemon/calls.py", "or not shortest <= value <= longest\n", "or value > longest\n"
    ),
    Defect("datagrams", "protocol/options.py", "if character.isprintable()", "if character"),
    Defect("durations", "durations.py", "if seconds > MAX_DURATION:", "if seconds > 2**40:"),
    Defect("events", "events.py", "except OverflowError:", "except KeyError:"),
    Defect("history", "daemon/chronicle.py", "(ValueError, RecursionError)", "ValueError"),
    Defect("http_answers", "http_reader.py", "line += rest", "line = bytearray(rest)"),
    Defect(
        "http_requests",
        "daemon/calls.py",
        "value, int) or not shortest <= value",
        "value, int) or not value",
    ),
    Defect(
        "invitations", "files/invitation.py", "address.prefixlen < address.max_prefixlen", "False"
    ),
    Defect("keyfile", "files/keyfile.py", 'data.rstrip(b" \\t\\r\\n")', "data.strip()"),
    Defect(
        "netlink",
        "wireguard/netlink/answers.py",
        "if len(value) != TIMESPEC.size:",
        "if not value:",
    ),
    Defect("page_calls", "web/calls.py", "in (None, origin):", 'in (None, origin, "null"):'),
    Defect(
        "replies", "protocol/initiator.py", "reply.request_id != self._request.request_id", "False"
    ),
    Defect("requests", "protocol/freshness.py", "= max(self.watermark_ns, unix_ns)", "= reached"),
    Defect("state", "daemon/state.py", "ArithmeticError,", ""),
    Defect("uapi", "wireguard/uapi.py", "except AddressValueError:", "except KeyError:"),
    Defect(
        "watermarks", "daemon/watermarks.py", "max(unix_ns, found.get(key, unix_ns))", "unix_ns"
    ),
)


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_keeps_the_promise(name: str) -> None:
    """Of the target's docstring."""
    target = load(name)
    for place, data in inputs(name):
        try:
            target.run(data)
        except Exception as error:  # noqa: BLE001  whatever it is, the input has to be named
            pytest.fail(f"{name}, {place}: {error!r}")


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_is_cut(name: str) -> None:
    """A seed that is longer than `MAX_LENGTH` would lose its meaning."""
    assert max(len(data) for _, data in inputs(name)) <= load(name).MAX_LENGTH


def test_every_target_has_a_defect() -> None:
    """So that none of them is one that passes whatever the code does."""
    assert sorted(defect.target for defect in DEFECTS) == sorted(TARGETS)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.target)
def test_a_defect_is_shown_by_a_kept_input(defect: Defect, tmp_path: Path) -> None:
    """In a copy of the package with the line changed, a target's inputs break its promise."""
    for name in ("anubis", "tests", "etc"):
        ignored = shutil.ignore_patterns("__pycache__", "lab", "machine")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    module = tmp_path / "anubis" / defect.module
    text = module.read_text()
    assert text.count(defect.right) == 1
    module.write_text(text.replace(defect.right, defect.wrong))
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, defect.target],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert str(module) in done.stderr or str(tmp_path / "tests") in done.stderr, done.stderr


def test_the_corpus_is_small_and_of_targets_only() -> None:
    """A checkout stays light, and no directory is left of a target that is gone."""
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(TARGETS)
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(sizes) < 512 * 1024
