"""`anubis daemon`: run the daemon in the foreground, as systemd does."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command(name="daemon")
@click.option(
    "--config",
    type=click.Path(path_type=Path, readable=False),  # who may not read it is told what to do
    default=Path("/etc/anubis/anubis.conf"),
    show_default=True,
    help="The configuration file.",
)
@click.option("--debug", is_flag=True, help="Log everything.")
def command(config: Path, debug: bool) -> None:
    """Run the daemon in the foreground. It logs to standard error."""
    from anubis.daemon.main import run  # noqa: PLC0415 (--help needs no daemon)

    run(config, debug=debug)
