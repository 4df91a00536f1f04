"""`anubis peer`: who is authorized, in the same files that an editor opens.

What is changed counts from the next `anubis reload`, so that several changes can be one.
"""

# ruff: noqa: PLC0415  the files and what they need are imported where they are used

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from anubis.cli.options import json_option, peer_argument
from anubis.cli.output import json_errors, printable, say, say_json

if TYPE_CHECKING:
    from anubis.files.authorized_peers import AuthorizedPeer
    from anubis.files.peer_editor import PeerEditor

__all__ = ["command"]

_NOTE = "it counts from the next: anubis reload"


@click.group("peer")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default="/etc/anubis/anubis.conf",
    show_default=True,
    help="The configuration; the authorized peers are beside it.",
)
@click.pass_context
def command(context: click.Context, config_path: Path) -> None:
    """List, add, rename or remove authorized peers.

    The files are those that an editor opens: comments, order and blanks in them stay. A change that
    `anubis check` would find wrong is not written.
    """
    context.obj = config_path


@command.command("list")
@json_option
@click.pass_obj
def list_(config_path: Path, as_json: bool) -> None:
    """List the authorized peers, in the order of the files."""
    from anubis.files.authorized_peers import load_configuration

    with json_errors(None, as_json=as_json):
        _, peers = load_configuration(config_path)
    if as_json:
        say_json({"peers": [_facts(peer) for peer in peers]})
        return
    width = max((len(peer.name) for peer in peers), default=0)
    for peer in peers:
        networks = ", ".join(sorted(map(str, peer.allowed_ips)))
        say(f"{printable(peer.name):<{width}}  {networks}  ({peer.location})")


@command.command("add")
@click.argument("name")
@click.option("--public-key", required=True, help="Of its production interface.")
@click.option("--control-public-key", help="Of its control plane.  [default: the same]")
@click.option(
    "--allowed-ips",
    required=True,
    multiple=True,
    metavar="NETWORK",
    help="Its addresses and the networks behind it; may be given several times.",
)
@click.option("--endpoint", metavar="HOST:PORT", help="Where it is reached, if it is.")
@click.pass_obj
def add(
    config_path: Path,
    *,
    name: str,
    public_key: str,
    control_public_key: str | None,
    allowed_ips: tuple[str, ...],
    endpoint: str | None,
) -> None:
    """Authorize the peer NAME; its section is appended to authorized_peers."""
    values = {
        "Name": name,
        "PublicKey": public_key,
        "ControlPublicKey": control_public_key,
        "AllowedIPs": ", ".join(allowed_ips),
        "Endpoint": endpoint,
    }
    given = {key: _one_line(key, value) for key, value in values.items() if value is not None}
    stanza = "\n".join(["[Peer]", *(f"{key} = {value}" for key, value in given.items()), ""])
    peer = _editor(config_path).add(stanza)
    say(f"{peer.name} is added to {peer.location.path}; {_NOTE}")


@command.command("rename")
@peer_argument
@click.argument("new")
@click.pass_obj
def rename(config_path: Path, name: str, new: str) -> None:
    """Call the peer NAME otherwise: NEW. A reload ends a connection of the old name."""
    peer = _editor(config_path).rename(name, _one_line("Name", new))
    say(f"{peer.name} is called {new.lower()} now; {_NOTE}")


@command.command("remove")
@peer_argument
@click.pass_obj
def remove(config_path: Path, name: str) -> None:
    """Authorize the peer NAME no more. A reload cuts it off, with a live connection and all."""
    peer = _editor(config_path).remove(name)
    say(f"{peer.name} is removed from {peer.location.path}; {_NOTE}")


def _editor(config_path: Path) -> PeerEditor:
    from anubis.files.authorized_peers import load_host
    from anubis.files.peer_editor import PeerEditor

    host = load_host(config_path)
    return PeerEditor(host.config.authorized_peers_path, host.own_keys())


def _one_line(key: str, value: str) -> str:
    """Return a value that can stand in a line of the file, whatever it says."""
    if "#" in value or not value.isprintable():
        raise click.BadParameter(f"{printable(value)!r} cannot be the {key} of a peer")
    return value


def _facts(peer: AuthorizedPeer) -> dict[str, object]:
    return {
        "name": peer.name,
        "public_key": str(peer.public_key),
        "control_public_key": str(peer.control_public_key),
        "control_address": str(peer.control.routable),
        "allowed_ips": sorted(map(str, peer.allowed_ips)),
        "endpoint": None if peer.endpoint is None else str(peer.endpoint),
        "may": sorted(peer.may),
        "file": str(peer.location.path),
        "line": peer.location.line,
    }
