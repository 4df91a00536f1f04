"""The daemon as a process: what it reads first, readiness, and the signals that end it.

Refuses to know the parts of a daemon and their order, which are `assembly`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path

from anubis.daemon.assembly import RUN_DIRECTORY, STATE_DIRECTORY, Daemon, first
from anubis.daemon.chronicle import Chronicle
from anubis.daemon.edits import Edits
from anubis.daemon.log import event, set_up, tapped
from anubis.daemon.notify import notify
from anubis.daemon.process import credentials_directory, only_one
from anubis.daemon.state import StateFile
from anubis.daemon.undumpable import become_undumpable
from anubis.files.authorized_peers import HostFiles, load_host
from anubis.files.config import AUTHORIZED_PEERS
from anubis.wireguard.auto import open_backend

__all__ = ["run"]


def run(config_path: Path, *, debug: bool) -> None:
    """Run the daemon until a signal. Raises AnubisError if it cannot start.

    SIGTERM and SIGINT stop it: far ends are told, and everything is taken back. SIGUSR2 has it let
    go: all that is up stays up, for the next daemon to take over. SIGHUP has it read the
    authorized-peers file anew.
    """
    set_up(debug=debug)
    become_undumpable()  # before the first key is read

    def read() -> HostFiles:
        return load_host(config_path, credentials_directory())

    # It listens before they are read for the first time: what is changed after that is heard of.
    with closing(Edits(config_path.parent / AUTHORIZED_PEERS)) as edits:
        host = read()
        with only_one(RUN_DIRECTORY):
            asyncio.run(_run(host, read, edits))


async def _run(host: HostFiles, read: Callable[[], HostFiles], edits: Edits) -> None:
    stopping, letting_go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGUSR2, letting_go.set)
    state_file = StateFile(RUN_DIRECTORY / "state.json")
    saved = state_file.load()
    async with AsyncExitStack() as stack:
        backend = open_backend(host.config.control.backend)
        stack.push_async_callback(backend.close)
        # It hears of everything that is still to come, up to the last word of the daemon.
        chronicle = Chronicle(STATE_DIRECTORY / "history", time.time)
        chronicle.load()
        stack.push_async_callback(chronicle.close)
        stack.enter_context(tapped(chronicle.on_event))
        daemon = Daemon(host, read, backend, state_file, saved, chronicle=chronicle)
        loop.add_signal_handler(signal.SIGHUP, daemon.reload.want)
        await stack.enter_async_context(daemon.network)
        stack.push_async_callback(daemon.end)
        await daemon.start(saved)
        count = len(host.peers)
        notify("READY=1", f"STATUS={count} peer{'' if count == 1 else 's'} authorized")
        event(
            logging.INFO,
            "ready",
            peers=len(host.peers),
            control_address=daemon.control.addresses.routable,
        )
        works = [daemon.until(stopping), daemon.until(letting_go), daemon.serve()]
        if host.config.watch:
            works.append(edits.run(daemon.reload.notice))
        else:
            edits.close()
        await first(*works)
        notify("STOPPING=1")
        if not stopping.is_set():
            daemon.lets_go = True
