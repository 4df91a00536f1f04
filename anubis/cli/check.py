"""`anubis check`: tell whether what the administrator wrote is right, and what it would change.

Changes nothing. Only `--diff` asks the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anubis.cli.options import json_option
from anubis.cli.output import error_object, json_errors, printable, say, say_json, warn
from anubis.errors import BadRequest
from anubis.events import problem_to_json

if TYPE_CHECKING:
    from anubis.errors import ConfigError
    from anubis.files.authorized_peers import HostFiles
    from anubis.forecast import Difference

__all__ = ["command"]

_CONFIG = "/etc/anubis/anubis.conf"
_SHOWN_NAMES = 20
_SHOWN_LINES = 200


@click.command("check")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=_CONFIG,
    show_default=True,
    help="The configuration; the authorized peers are beside it.",
)
@click.option("--diff", is_flag=True, help="Ask the daemon what a reload would change now.")
@json_option
def command(config_path: Path, *, diff: bool, as_json: bool) -> None:
    """Check the configuration, the authorized peers and the key files.

    Every problem is reported, with its file and line, and the exit status is 78. What runs stays
    as it is, and the daemon is not asked but by --diff: then it reads its files, with the rights
    that it has, and tells who would be added, removed, changed and cut off. Whether that is
    anybody does not show in the exit status.
    """
    if diff:
        _show_difference(config_path, as_json=as_json)
        return
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
    own = host.own_keys()
    count = f"{len(names)} peer" if len(names) == 1 else f"{len(names)} peers"
    return "\n".join(
        (
            f"{count} in {host.config.authorized_peers_path}"
            + (f": {_listed(names)}" if names else ""),
            *_besides(host),
            f"this host: control address       {own.control_addresses.routable}",
            f"           production public key {own.production}",
            f"           control public key    {own.control}",
        )
    )


def _set_aside(host: HostFiles) -> dict[str, list[str]]:
    """Return those who stand in the files and are not authorized, by the reason."""
    return {
        "disabled": [entry.name for entry in host.entries if not entry.enabled],
        "expired": [
            entry.name
            for entry in host.entries
            if entry.enabled and host.peers.by_name(entry.name) is None
        ],
        "invited": [kept.name for kept in host.entries.reserved],
    }


def _besides(host: HostFiles) -> list[str]:
    parts = [f"{why}: {_listed(names)}" for why, names in _set_aside(host).items() if names]
    return [f"besides, {'; '.join(parts)}"] if parts else []


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _facts(host: HostFiles) -> dict[str, object]:
    own = host.own_keys()
    return {
        "config": str(host.config.path),
        "authorized_peers": str(host.config.authorized_peers_path),
        "peers": list(host.peers.names()),
        **_set_aside(host),
        "control_address": str(own.control_addresses.routable),
        "production_public_key": str(own.production),
        "control_public_key": str(own.control),
        "problems": [],
    }


def _problems(error: ConfigError) -> dict[str, object]:
    problems = [problem_to_json(problem) for problem in error.problems]
    return error_object(error) | {"problems": problems}


def _show_difference(config_path: Path, *, as_json: bool) -> None:
    from anubis.client import Client  # noqa: PLC0415 (as above)

    with json_errors(None, as_json=as_json):
        if config_path != Path(_CONFIG):
            raise BadRequest(
                f"--diff is about the files of the running daemon, not about {config_path}",
                "leave --config out",
            )
        difference = Client().foresee_reload()
    if as_json:
        say_json(difference.to_json())
    else:
        say("\n".join(_told(difference)))
    for warning in difference.warnings:
        warn(warning)


def _told(difference: Difference) -> list[str]:
    """Return the lines that a person reads."""
    ended = set(difference.ended)

    def cut(name: str) -> str:
        return ", and its connection is cut off" if name in ended else ""

    lines = [f"+ {printable(name)}: would be authorized" for name in difference.added]
    lines += [
        f"- {printable(name)}: would not be authorized any more{cut(name)}"
        for name in difference.removed
    ]
    lines += [
        f"~ {printable(each.name)}: would change {printable(', '.join(each.keys))}{cut(each.name)}"
        for each in difference.changed
    ]
    if len(lines) > _SHOWN_LINES:
        rest = len(lines) - _SHOWN_LINES
        lines[_SHOWN_LINES:] = [f"and {rest} more, which --json lists"]
    count = f"{difference.peers} peer{'' if difference.peers == 1 else 's'}"
    if not lines:
        return [f"a reload would change nothing: {count} authorized"]
    return [f"after a reload {count} would be authorized:", *lines]
