"""`anubis up`: bring a connection up."""

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


@click.command(name="up")
@name_of_down_argument
@lease_option
@pin_option
@timeout_option
@json_option
def command(name: str, *, lease: int | None, pinned: bool, timeout: float, as_json: bool) -> None:
    """Bring the connection NAME up, and wait for a handshake on it."""
    change(
        name,
        lambda on_step: Client().up(name, lease, timeout, on_step, pinned=pinned),
        as_json=as_json,
    )
