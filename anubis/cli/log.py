"""`anubis log NAME`: what happened to a connection."""

from __future__ import annotations

import click

from anubis.cli.happenings import line
from anubis.cli.options import json_option, name_argument
from anubis.cli.output import json_errors, say, say_json
from anubis.client import Client

__all__ = ["command"]


@click.command("log")
@name_argument
@click.option(
    "-n", "number", type=click.IntRange(min=1), metavar="NUMBER", help="Only so many, the newest."
)
@json_option
def command(name: str, number: int | None, as_json: bool) -> None:
    """Tell what happened to the connection NAME and, meanwhile, to this host; the newest last.

    What is remembered is bounded, and survives the daemon and the host.
    """
    with json_errors(name, as_json=as_json):
        log = Client().log(name)[-(number or 0) :]
    if as_json:
        say_json({"connection": name.lower(), "log": [each.to_json() for each in log]})
    elif log:
        say("\n".join(map(line, log)))
    else:
        say(f"nothing is known to have happened to {name.lower()}")
