"""`anubis switch`: move over from one connection to another."""

from __future__ import annotations

import click

from anubis.cli.change import change
from anubis.cli.options import (
    json_option,
    lease_option,
    name_of_down_argument,
    pin_option,
    timeout_option,
)
from anubis.client import Client

__all__ = ["command"]


@click.command(name="switch")
@name_of_down_argument
@lease_option
@pin_option
@timeout_option
@json_option
def command(name: str, *, lease: int | None, pinned: bool, timeout: float, as_json: bool) -> None:
    """Bring the connection NAME up, then those that share its routes down."""
    change(
        name,
        lambda on_step: Client().switch(name, lease, timeout, on_step, pinned=pinned),
        as_json=as_json,
    )
