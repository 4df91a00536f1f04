"""The command line starts fast, because it imports nothing that it does not need."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fake_daemon import DEADLINE, fake_daemon

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    *{"aiohttp", "asyncio", "cryptography", "http.client", "nacl", "pyroute2", "wgnlpy"},
    *{
        "anubis.cli.watch",
        "anubis.daemon",
        "anubis.history",
        "anubis.lab",
        "anubis.network",
        "anubis.wireguard",
    },
}
RUN = "import anubis.cli, sys; anubis.cli.main()"
TELL = """
import sys, anubis.cli
try:
    anubis.cli.main()
finally:
    sys.stderr.write("\\n".join(["", *sys.modules]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["up", "--help"],
        ["daemon", "--help"],
        ["status"],
        ["status", "--json"],
        ["log", "jacinth"],
        ["metrics"],
        ["up", "jacinth"],
        ["down", "jacinth"],
        ["switch", "jacinth"],
        ["plan", "up", "jacinth"],
        ["why", "jacinth"],
        ["up", "selen"],
        ["up", "--json"],
    ],
)
def test_nothing_heavy_is_imported(tmp_path: Path, arguments: list[str]) -> None:
    """Neither netlink nor cryptography nor an event loop is loaded, whatever is asked."""
    path = tmp_path / "anubis.sock"
    with fake_daemon(path):
        done = subprocess.run(
            [sys.executable, "-c", TELL, *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env={**os.environ, "ANUBIS_SOCKET": str(path)},
            cwd=ROOT,
            check=False,
        )
    modules = set(done.stderr.splitlines())
    assert "anubis.cli" in modules
    assert {each for each in modules if each in FORBIDDEN} == set()
    asking = {"status", "log", "metrics", "up", "down", "switch", "plan", "why"}
    assert ("anubis.client" in modules) == (arguments[0] in asking)


def test_the_start_is_short() -> None:
    """`anubis --version` takes less than three times what Python itself takes to start."""

    def median(code: str, *arguments: str) -> float:
        times = []
        for _ in range(9):
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", code, *arguments],
                check=True,
                capture_output=True,
                timeout=DEADLINE,
                cwd=ROOT,
            )
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    assert median(RUN, "--version") < 3 * median("pass")
