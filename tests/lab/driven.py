"""Daemons that run inside a script of a test, which changes a part of their world.

Owns how such a daemon is started so that the lab knows it for the host's own. Refuses to know what
the scripts change.
"""

from __future__ import annotations

import subprocess
import sys

from anubis.lab.lab import Lab
from anubis.lab.service import as_service

__all__ = ["start_driven"]

_RUN_THE_DAEMON = """
import sys
sys.argv[:] = ["anubis", "daemon", *OPTIONS]
from anubis.cli import main
main()
"""


def start_driven(lab: Lab, host: str, script: str, *arguments: str, debug: bool = True) -> None:
    """Run the daemon of a host anew, after `script` has run in its process.

    The script finds `arguments` from sys.argv[1] on.
    """
    lab.daemon(host).stop()
    # The lab knows a daemon by its last two words.
    run = _RUN_THE_DAEMON.replace("OPTIONS", '["--debug"]' if debug else "[]")
    program = (sys.executable, "-c", script + run, *arguments, "anubis", "daemon")
    with lab.state.log(host).open("ab") as log:
        subprocess.run(
            lab.command(host, "setsid", "--fork", *as_service(program)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
        )
    lab.daemon(host).await_ready()
