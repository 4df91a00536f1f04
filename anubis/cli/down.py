"""`anubis down`: take a connection down."""

from __future__ import annotations

import click

from anubis.cli.change import change
from anubis.cli.options import json_option, name_of_up_argument, timeout_option
from anubis.client import Client

__all__ = ["command"]


@click.command(name="down")
@name_of_up_argument
@timeout_option
@json_option
def command(name: str, timeout: float, as_json: bool) -> None:
    """Take the connection NAME down at both ends, or here if the far end does not answer."""
    change(name, lambda on_step: Client().down(name, timeout, on_step), as_json=as_json)
