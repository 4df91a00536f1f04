"""`anubis keygen`: both key pairs of this host, made once."""

from __future__ import annotations

import os
from pathlib import Path

import click

from anubis.cli.output import say

__all__ = ["command"]


@click.command("keygen")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default="/etc/anubis/anubis.conf",
    show_default=True,
    help="The configuration that names the key files; it need not exist.",
)
def command(config_path: Path) -> None:
    """Make the production and the control key pair of this host.

    A key file that exists is kept. Only public keys are shown.
    """
    # Keys and files are needed by this command only: the others start faster without them.
    from anubis.files.config import load_config, parse_config  # noqa: PLC0415
    from anubis.files.setup_host import make_keys  # noqa: PLC0415

    if os.path.lexists(config_path):
        config = load_config(config_path)
    else:
        config = parse_config(b"", config_path)
    own, files = make_keys(config)
    for file in files:
        say(f"made {file.path}" if file.made else f"kept {file.path}, which existed")
    say(f"production public key {own.production}")
    say(f"control public key    {own.control}")
    say(f"control address       {own.control_addresses.routable}")
