"""`anubis status --watch`: the connections as they are now, again every second.

On a terminal the table is drawn over itself, with a handful of ECMA-48 and xterm sequences; a
library for that would weigh more than all of `anubis.cli`. Elsewhere there is a line for each
change. A daemon that ends is waited for.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from anubis.cli.happenings import moment
from anubis.cli.output import is_terminal, printable, say, stream, warn
from anubis.client import Client
from anubis.durations import format_duration
from anubis.errors import DaemonNotRunning, LocalFailure
from anubis.events import ConnectionStatus

__all__ = ["watch"]

_INTERVAL = 1.0  # seconds
_PAUSE = 0.5  # seconds before a daemon that is not there is asked again
_WAITING = "waiting for the daemon"

# The alternate screen, no cursor, and lines that are cut at the edge instead of being wrapped.
_BEGIN = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_END = "\x1b[?7h\x1b[?25h\x1b[?1049l"

_Table = Callable[[list[ConnectionStatus]], str]


def watch(name: str | None, table: _Table, *, as_json: bool) -> None:
    """Show all connections or one until Ctrl-C. Raises AnubisError if that cannot begin."""
    client = Client()
    first = client.status(name)
    try:
        if not as_json and is_terminal(sys.stdout):
            _on_terminal(first, _states(client, name, say_it=False), table)
        else:
            _line_by_line(first, _states(client, name, say_it=True), as_json=as_json)
    except KeyboardInterrupt:
        return  # it has no other end


def _states(
    client: Client, name: str | None, *, say_it: bool
) -> Iterator[list[ConnectionStatus] | None]:
    """Yield the connections every second, None while there is no daemon that tells of them."""
    waits = False
    while True:
        time.sleep(_PAUSE if waits else _INTERVAL)
        try:
            state = client.status(name)
        except (DaemonNotRunning, LocalFailure) as error:
            if not waits and say_it:
                warn(f"{error.message}; {_WAITING}")
            waits = True
            yield None
        else:
            if waits and say_it:
                warn("the daemon is back")
            waits = False
            yield state


def _on_terminal(
    first: list[ConnectionStatus], states: Iterator[list[ConnectionStatus] | None], table: _Table
) -> None:
    last = table(first)
    try:
        with _own_screen():
            _draw(last, "")
            for state in states:
                last = last if state is None else table(state)
                _draw(last, _WAITING if state is None else "")
    finally:
        say(last)  # so that it stays to be seen


@contextmanager
def _own_screen() -> Iterator[None]:
    """Have the screen to ourselves, and give it back however this ends."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    say(_BEGIN, end="")
    try:
        yield
    finally:
        say(_END, end="")
        signal.signal(signal.SIGTERM, before)


def _draw(text: str, remark: str) -> None:
    height = shutil.get_terminal_size().lines
    lines = [f"{moment(time.time())}  Ctrl-C ends this{f'; {remark}' if remark else ''}", ""]
    lines += text.split("\n")
    if len(lines) > height:
        lines[height - 1 :] = [f"and {len(lines) - height + 1} more"]
    stream("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J", end="")


def _line_by_line(
    first: list[ConnectionStatus],
    states: Iterator[list[ConnectionStatus] | None],
    *,
    as_json: bool,
) -> None:
    known: Mapping[str, ConnectionStatus] = {}
    for state in _and_then(first, states):
        if state is None:
            continue
        now = {each.name: each for each in state}
        for name, connection in now.items():
            if name not in known or _constant(known[name]) != _constant(connection):
                data = connection.to_json()
                stream(json.dumps(data) if as_json else _sentence(connection))
        for name in known.keys() - now.keys():
            data = {"name": name, "state": "removed"}
            stream(json.dumps(data) if as_json else f"{moment(time.time())}  {name} is removed")
        known = now


def _and_then(
    first: list[ConnectionStatus], states: Iterator[list[ConnectionStatus] | None]
) -> Iterator[list[ConnectionStatus] | None]:
    yield first
    yield from states


def _constant(connection: ConnectionStatus) -> ConnectionStatus:
    """Return a connection without what changes all the time."""
    return replace(
        connection,
        lease_seconds_left=None,
        last_handshake_seconds=None,
        rx_bytes=0,
        tx_bytes=0,
        retry_seconds=None if connection.retry_seconds is None else 0.0,
    )


def _sentence(connection: ConnectionStatus) -> str:
    remarks = [connection.role, connection.endpoint]
    if connection.pinned:
        remarks.append("pinned")
    elif connection.lease_seconds_left is not None:
        remarks.append(f"lease {format_duration(max(0, connection.lease_seconds_left))}")
    if connection.ended:
        remarks.append(f"ended: {connection.ended}")
    if connection.retry_seconds is not None:
        remarks.append("it is asked for again")
    rest = ", ".join(filter(None, remarks))
    text = f"{connection.name} is {connection.state}{f' ({rest})' if rest else ''}"
    return f"{moment(time.time())}  {printable(text)}"
