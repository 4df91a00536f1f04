"""`anubis metrics`: what the daemon counts and measures, as Prometheus reads it."""

from __future__ import annotations

import click

from anubis.cli.output import say
from anubis.client import Client

__all__ = ["command"]


@click.command("metrics")
def command() -> None:
    """Print what the daemon counts and measures, in Prometheus's text format."""
    say(Client().metrics(), end="")
