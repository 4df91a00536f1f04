"""`anubis init`: a configuration to start with, and what the other administrator needs of it."""

from __future__ import annotations

import platform
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anubis.cli.output import say

if TYPE_CHECKING:
    from anubis.files.config import Config
    from anubis.files.peer_checks import OwnKeys

__all__ = ["command"]


@click.command("init")
@click.option(
    "--config-dir",
    type=click.Path(path_type=Path),
    default="/etc/anubis",
    show_default=True,
    help="Where to write; made if it does not exist.",
)
@click.option("--name", help="What others shall call this host.  [default: its host name]")
@click.option(
    "--address",
    "address_texts",
    multiple=True,
    metavar="CIDR",
    help="An address of the production interface, like 10.9.0.2/24; may be given several times.  "
    "[default: one is made up]",
)
def command(config_dir: Path, name: str | None, address_texts: tuple[str, ...]) -> None:
    """Write a working configuration and both key pairs.

    No file that exists is changed. The last lines are for the administrator of the other host.
    """
    # Keys and files are needed by this command only: the others start faster without them.
    from anubis.files.setup_host import default_address, make_keys, write_configuration  # noqa: PLC0415

    own_name = _name(name)
    addresses = [_address(text) for text in address_texts]
    config_dir = config_dir.absolute()
    config, files = write_configuration(
        config_dir / "anubis.conf", addresses or [default_address()]
    )
    own, key_files = make_keys(config)
    for file in (*files, *key_files):
        say(f"wrote {file.path}" if file.made else f"kept  {file.path}, which existed")
    if addresses and tuple(addresses) != config.production.addresses:
        say(f"note: --address was not used: {config.path} keeps its own Address")
    say(_instructions(own_name, config, own))


def _name(given: str | None) -> str:
    from anubis.files.fields import name  # noqa: PLC0415
    from anubis.files.ini import BadValue  # noqa: PLC0415

    text = platform.node().partition(".")[0] if given is None else given
    try:
        return name(text)
    except BadValue as error:
        problem = f"{text!r} is {error.message}; {error.hint}"
        raise click.BadParameter(problem, param_hint="--name") from None


def _address(text: str) -> IPv4Interface | IPv6Interface:
    from anubis.files.fields import interface_address  # noqa: PLC0415
    from anubis.files.ini import BadValue  # noqa: PLC0415

    try:
        return interface_address(text)
    except BadValue as error:
        problem = f"{text!r} is {error.message}; {error.hint}"
        raise click.BadParameter(problem, param_hint="--address") from None


def _instructions(name: str, config: Config, own: OwnKeys) -> str:
    from anubis.files.config import CONTROL_PORT  # noqa: PLC0415
    from anubis.files.setup_host import stanza_for_others  # noqa: PLC0415

    stanza = stanza_for_others(name, own, config.production.addresses)
    reachable = f"# Endpoint = HOST:{config.production.listen_port}\n"
    if config.control.listen_port != CONTROL_PORT:
        reachable += f"# ControlEndpoint = HOST:{config.control.listen_port}\n"
    return f"""
For the other host's /etc/anubis/authorized_peers:

{stanza}{reachable}
There, HOST is the name or address under which this host is reached, if it is;
AllowedIPs may name the networks behind this host too.

Next, on this host:
  1. put the other host's [Peer] section, from `anubis init` there, into
     {config.authorized_peers_path}
  2. anubis check
  3. systemctl enable --now anubis
  4. anubis up NAME"""
