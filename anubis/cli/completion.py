"""What a shell is told when somebody presses TAB: commands, options, and names as they are now.

The scripts for bash, zsh and fish are click's. Owns which names are offered, and that a person is
never kept waiting and never told of an error: what cannot be known at once is not offered.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from anubis.events import ConnectionStatus

__all__ = ["complete", "connections", "peers"]

_VARIABLE = "_ANUBIS_COMPLETE"  # as click's scripts call it
_SECONDS = 1.0  # for all of it; who waits longer at a prompt presses Ctrl-C
_SOURCE = "_source"

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def complete() -> int:
    """Do what $_ANUBIS_COMPLETE says, `bash_complete` or `bash_source`; return the exit status."""
    from click.shell_completion import ZshComplete, shell_complete  # noqa: PLC0415

    from anubis.cli.app import anubis_group  # noqa: PLC0415 (it imports what needs this module)

    # zsh loads the script from a file once, and then calls it as a function, which click forgets.
    ZshComplete.source_template = ZshComplete.source_template.replace(
        "== loadautofunc ", "== (loadautofunc|shfunc) "
    )
    instruction = os.environ[_VARIABLE]
    if not instruction.endswith(_SOURCE):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.signal(signal.SIGALRM, lambda _signal, _frame: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    return shell_complete(anubis_group, {}, "anubis", _VARIABLE, instruction)


def connections(state: str | None = None) -> Completer:
    """Return what offers the connections that are `state` now; all, if none of these fits."""

    def complete_name(
        _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415

        fitting = [each for each in _status() if each.name.startswith(incomplete.lower())]
        wanted = [each for each in fitting if state in {None, each.state}]
        return [CompletionItem(each.name, help=each.state) for each in wanted or fitting]

    return complete_name


def peers(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the names in the authorized-peers files, whether all of these is right or not."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415

    group = context.parent or context
    names = _names(Path(group.params["config_path"]))
    return [CompletionItem(name) for name in names if name.startswith(incomplete.lower())]


def _status() -> list[ConnectionStatus]:
    from anubis.client import Client  # noqa: PLC0415 (a shell that asks for options needs no daemon)
    from anubis.errors import AnubisError  # noqa: PLC0415

    try:
        return Client(timeout=_SECONDS).status()
    except AnubisError:
        return []


def _names(config_path: Path) -> Iterator[str]:
    from anubis.files import fields  # noqa: PLC0415 (only who has the files needs this)
    from anubis.files.authorized_peers import read_files  # noqa: PLC0415
    from anubis.files.config import examine_config  # noqa: PLC0415
    from anubis.files.ini import parse  # noqa: PLC0415
    from anubis.files.peer_stanza import GRAMMAR  # noqa: PLC0415

    config, problems = examine_config(config_path)
    for file in read_files(config.authorized_peers_path, problems):
        for section in parse(file.data, file.path, GRAMMAR, problems):
            name = section.one("Name", fields.name, None)
            if name is not None:
                yield name
