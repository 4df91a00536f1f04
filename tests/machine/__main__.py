"""`python -m tests.machine [OPTIONS] -- COMMAND…`: run a command in the virtual machine.

Its output and its exit status are the command's; 124 when the command is late, 125 when there is
no machine, with the reason.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.machine import Machine, MachineFailed

_LATE, _NO_MACHINE = 124, 125


def main() -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.machine", description=__doc__)
    parser.add_argument("--memory", default="2G", help="such as 2G")
    parser.add_argument("--systemd", action="store_true", help="have it start the command")
    parser.add_argument("--seconds", type=float, default=300.0, help="for the command")
    parser.add_argument("--give", type=Path, action="append", default=[], metavar="DIRECTORY",
                        help="what the command writes there stays")  # fmt: skip
    parser.add_argument("-e", "--environment", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("command", nargs="+")
    words = parser.parse_args()
    try:
        return (
            Machine(memory=words.memory, systemd=words.systemd)
            .run(
                words.command,
                seconds=words.seconds,
                gifts=[path.absolute() for path in words.give],
                environment=dict(pair.split("=", 1) for pair in words.environment),
                listener=_pass_on,
            )
            .returncode
        )
    except subprocess.TimeoutExpired:
        print(f"error: the command took longer than {words.seconds:g} s", file=sys.stderr)  # noqa: T201
        return _LATE
    except MachineFailed as failure:
        print(f"error: {failure}", file=sys.stderr)  # noqa: T201
        return _NO_MACHINE


def _pass_on(port: str, data: bytes) -> None:
    stream = {"out": sys.stdout, "err": sys.stderr}[port].buffer
    stream.write(data)
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
