"""`anubis status`: show the connections, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click

from anubis.cli.completion import connections
from anubis.cli.options import json_option
from anubis.cli.output import GREEN, json_errors, paint, printable, say, say_json
from anubis.client import Client
from anubis.durations import format_duration
from anubis.events import ConnectionStatus

__all__ = ["command"]

_HEADINGS = (
    "name",
    "state",
    "role",
    "since",
    "lease left",
    "endpoint",
    "handshake",
    "received",
    "sent",
)


@click.command(name="status")
@click.argument("name", required=False, shell_complete=connections())
@click.option("--watch", "watched", is_flag=True, help="Show it again every second, until Ctrl-C.")
@json_option
def command(name: str | None, watched: bool, as_json: bool) -> None:
    """Show all connections, or only NAME.

    With --watch, where there is no terminal, or with --json, a connection is told whenever
    something of it has changed but its times and bytes.
    """
    with json_errors(name, as_json=as_json):
        if watched:
            from anubis.cli.watch import watch  # noqa: PLC0415 (most do not watch)

            watch(name, _text, as_json=as_json)
            return
        connections = Client().status(name)
        if as_json:
            say_json({"connections": [each.to_json() for each in connections]})
            return
    say(_text(connections))


def _text(connections: Sequence[ConnectionStatus]) -> str:
    if not connections:
        return "no connections: the authorized-peers file has no entries"
    return "\n".join(_table(connections))


def _table(connections: Sequence[ConnectionStatus]) -> list[str]:
    rows = [_HEADINGS, *(_row(each) for each in connections)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if row[1] == "up":
            cells[1] = paint(cells[1], GREEN)
        lines.append("  ".join(cells).rstrip())
    return lines


def _row(connection: ConnectionStatus) -> tuple[str, ...]:
    if connection.state == "down":
        blank = [""] * (len(_HEADINGS) - 5)
        return (printable(connection.name), "down", "", "", _lease(connection), *blank)
    handshake = connection.last_handshake_seconds
    cells = (
        connection.name,
        connection.state,
        connection.role or "",
        _local_time(connection.since or ""),
        _lease(connection),
        connection.endpoint or "",
        "none yet" if handshake is None else f"{format_duration(max(0, int(handshake)))} ago",
        _size(connection.rx_bytes),
        _size(connection.tx_bytes),
    )
    return tuple(printable(cell) for cell in cells)


def _lease(connection: ConnectionStatus) -> str:
    """Return what is left or why there is nothing, and when a lost one is asked for."""
    left, retry = connection.lease_seconds_left, connection.retry_seconds
    if connection.pinned:
        words = ["pinned"]
    elif left is not None:
        words = [format_duration(max(0, left))]
    else:
        words = [f"ended: {printable(connection.ended)}"] if connection.ended else []
    if retry is not None:
        words.append(f"retry in {format_duration(int(retry))}")
    return ", ".join(words)


def _local_time(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return text


def _size(count: int) -> str:
    """Write a number of bytes with three or four digits, in the units that `wg show` uses."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
