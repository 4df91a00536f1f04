"""`anubis check`: is what the administrator wrote right? Asks no daemon and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from anubis.cli.options import json_option
from anubis.cli.output import error_object, say, say_json
from anubis.events import problem_to_json

if TYPE_CHECKING:
    from anubis.errors import ConfigError
    from anubis.files.authorized_peers import HostFiles

__all__ = ["command"]

_SHOWN_NAMES = 20


@click.command("check")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default="/etc/anubis/anubis.conf",
    show_default=True,
    help="The configuration; the authorized peers are beside it.",
)
@json_option
def command(config_path: Path, as_json: bool) -> None:
    """Check the configuration, the authorized peers and the key files.

    Every problem is reported, with its file and line, and the exit status is 78. The daemon is not
    asked, and what runs stays as it is.
    """
    # Keys and files are needed by this command only: the others start faster without them.
    from anubis.errors import ConfigError  # noqa: PLC0415
    from anubis.files.authorized_peers import load_host  # noqa: PLC0415

    try:
        host = load_host(config_path)
    except ConfigError as error:
        if as_json:
            say_json(_problems(error))
        raise
    if as_json:
        say_json(_facts(host))
    else:
        say(_summary(host))


def _summary(host: HostFiles) -> str:
    names = list(host.peers.names())
    listed = ", ".join(names[:_SHOWN_NAMES])
    if len(names) > _SHOWN_NAMES:
        listed += f" and {len(names) - _SHOWN_NAMES} more"
    own = host.own_keys()
    count = f"{len(names)} peer" if len(names) == 1 else f"{len(names)} peers"
    return "\n".join(
        (
            f"{count} in {host.config.authorized_peers_path}" + (f": {listed}" if names else ""),
            f"this host: control address       {own.control_addresses.routable}",
            f"           production public key {own.production}",
            f"           control public key    {own.control}",
        )
    )


def _facts(host: HostFiles) -> dict[str, object]:
    own = host.own_keys()
    return {
        "config": str(host.config.path),
        "authorized_peers": str(host.config.authorized_peers_path),
        "peers": list(host.peers.names()),
        "control_address": str(own.control_addresses.routable),
        "production_public_key": str(own.production),
        "control_public_key": str(own.control),
        "problems": [],
    }


def _problems(error: ConfigError) -> dict[str, object]:
    problems = [problem_to_json(problem) for problem in error.problems]
    return error_object(error) | {"problems": problems}
