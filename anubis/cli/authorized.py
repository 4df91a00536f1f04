"""The authorized-peers files, as the commands that change them have them in hand."""

# ruff: noqa: PLC0415  the files and what they need are imported where they are used

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anubis.cli.output import printable

if TYPE_CHECKING:
    from anubis.files.authorized_peers import HostFiles
    from anubis.files.peer_editor import PeerEditor

__all__ = ["editor", "load", "one_line", "stanza", "when"]


def load(config_path: Path) -> HostFiles:
    """Read all files of the host. Raises ConfigError."""
    from anubis.files.authorized_peers import load_host

    return load_host(config_path)


def editor(host: HostFiles) -> PeerEditor:
    """Return what edits the files of a host."""
    from anubis.files.peer_editor import PeerEditor

    return PeerEditor(host.config.authorized_peers_path, host.own_keys())


def when(host: HostFiles) -> str:
    """Say from when on a change counts."""
    if host.config.watch:
        return "the daemon takes it up by itself"
    return "it counts from the next: anubis reload"


def stanza(values: Mapping[str, str | None]) -> str:
    """Return a `[Peer]` section with what is given of these keys."""
    given = {key: one_line(key, value) for key, value in values.items() if value is not None}
    return "\n".join(["[Peer]", *(f"{key} = {value}" for key, value in given.items()), ""])


def one_line(key: str, value: str) -> str:
    """Return a value that can stand in a line of the file, whatever it says."""
    if "#" in value or not value.isprintable():
        raise click.BadParameter(f"{printable(value)!r} cannot be the {key} of a peer")
    return value
