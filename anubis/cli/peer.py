"""`anubis peer`: who is authorized, in the same files that an editor opens."""

# ruff: noqa: PLC0415  the files and what they need are imported where they are used

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from anubis.cli.authorized import editor, load, one_line, when
from anubis.cli.options import json_option, peer_argument
from anubis.cli.output import json_errors, printable, say, say_json
from anubis.cli.peer_add import add

if TYPE_CHECKING:
    from anubis.files.peer_editor import Entry

__all__ = ["command"]


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
    """List, add and change authorized peers, phones too.

    The files are those that an editor opens: comments, order and blanks in them stay. A change that
    `anubis check` would find wrong is not written.
    """
    context.obj = config_path


command.add_command(add)


@command.command("list")
@json_option
@click.pass_obj
def list_(config_path: Path, as_json: bool) -> None:
    """List who is authorized, disabled or invited."""
    from anubis.cli.peer_facts import entry_facts, summary
    from anubis.files.authorized_peers import load_configuration

    with json_errors(None, as_json=as_json):
        config, peers = load_configuration(config_path)
    if as_json:
        facts = [entry_facts(each, config.production) for each in peers]
        invited = [entry_facts(each, config.production) for each in peers.reserved]
        say_json({"peers": facts, "invitations": invited})
        return
    entries: list[Entry] = [*peers, *peers.reserved]
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        say(f"{printable(entry.name):<{width}}  {summary(entry)}  ({entry.location})")


@command.command("show")
@peer_argument
@json_option
@click.pass_obj
def show(config_path: Path, name: str, as_json: bool) -> None:
    """Show everything about the entry NAME.

    Also what counts where the entry says nothing; of a preshared key only that there is one.
    """
    from anubis.cli.peer_facts import entry_facts, table
    from anubis.files.authorized_peers import load_configuration
    from anubis.files.peer_editor import find

    with json_errors(name, as_json=as_json):
        config, peers = load_configuration(config_path)
        entry = find(peers, name)
    if as_json:
        say_json(entry_facts(entry, config.production))
    else:
        say("\n".join(table(entry, config.production)))


@command.command("rename")
@peer_argument
@click.argument("new")
@click.pass_obj
def rename(config_path: Path, name: str, new: str) -> None:
    """Call the peer NAME otherwise: NEW. That ends a connection of the old name."""
    host = load(config_path)
    peer = editor(host).rename(name, one_line("Name", new))
    say(f"{peer.name} is called {new.lower()} now; {when(host)}")


@command.command("remove")
@peer_argument
@click.pass_obj
def remove(config_path: Path, name: str) -> None:
    """Authorize the peer NAME no more. It is cut off, with a live connection and all.

    Of somebody who was invited: withdraw the invitation.
    """
    host = load(config_path)
    entry = editor(host).remove(name)
    say(f"{entry.name} is removed from {entry.location.path}; {when(host)}")


@command.command("disable")
@peer_argument
@click.pass_obj
def disable(config_path: Path, name: str) -> None:
    """Have the entry NAME stay and count no more. It is cut off, as if it were removed."""
    host = load(config_path)
    peer = editor(host).enable(name, enabled=False)
    say(f"{peer.name} is disabled; {when(host)}")


@command.command("enable")
@peer_argument
@click.pass_obj
def enable(config_path: Path, name: str) -> None:
    """Have the entry NAME count again."""
    host = load(config_path)
    peer = editor(host).enable(name, enabled=True)
    say(f"{peer.name} is enabled; {when(host)}")
