"""`anubis reload`: have the daemon read the authorized-peers file anew."""

from __future__ import annotations

import click

from anubis.cli.options import json_option
from anubis.cli.output import json_errors, printable, say, say_json, warn
from anubis.client import Client
from anubis.events import Reloaded

__all__ = ["command"]

_SHOWN_NAMES = 20


@click.command("reload")
@json_option
def command(as_json: bool) -> None:
    """Have the daemon read the authorized-peers file anew.

    Who was removed is cut off at once, with a live connection and all, and told. One mistake in
    the file, and nothing changes: every problem is reported, and the exit status is 78.
    """
    with json_errors(None, as_json=as_json):
        reloaded = Client().reload()
    if as_json:
        say_json(reloaded.to_json())
    else:
        say(_summary(reloaded))
    for warning in reloaded.warnings:
        warn(warning)


def _summary(reloaded: Reloaded) -> str:
    named = {
        "added": reloaded.added,
        "removed": reloaded.removed,
        "changed": reloaded.changed,
        "cut off": reloaded.ended,
    }
    parts = [f"{_listed(names)} {what}" for what, names in named.items() if names]
    count = f"{reloaded.peers} peer{'' if reloaded.peers == 1 else 's'}"
    return f"{count} authorized: {'; '.join(parts) or 'nothing has changed'}"


def _listed(names: tuple[str, ...]) -> str:
    text = ", ".join(map(printable, names[:_SHOWN_NAMES]))
    return text + (f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else "")
