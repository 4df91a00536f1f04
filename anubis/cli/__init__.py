"""The command line: thin, quick to start, and built on `anubis.client`.

`app` finds the command and explains errors; each command is a module of its own, imported only
when it is called, with a click command named `command` in it.
"""

from __future__ import annotations

import os
import sys

from anubis import __version__

__all__ = ["daemon_main", "main"]


def main() -> None:
    """Run `anubis`, or answer the shell in which somebody has pressed TAB."""
    if "_ANUBIS_COMPLETE" in os.environ:
        from anubis.cli.completion import complete  # noqa: PLC0415 (nothing else needs it)

        sys.exit(complete())
    _run(sys.argv[1:])


def daemon_main() -> None:
    """Run `anubisd`, which is `anubis daemon`."""
    _run(sys.argv[1:], "daemon")


def _run(arguments: list[str], *command: str) -> None:
    if arguments == ["--version"]:
        # Two thirds of the time to start is click's import, which this does not need.
        sys.stdout.write(f"anubis {__version__}\n")
        return
    try:
        from anubis.cli.app import run  # noqa: PLC0415 (as above)

        sys.exit(run([*command, *arguments]))
    except KeyboardInterrupt:
        sys.stderr.write("anubis: error: interrupted\n")
        sys.exit(130)
