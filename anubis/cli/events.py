"""`anubis events`: what happens, as it happens."""

from __future__ import annotations

import json
import time

import click

from anubis.cli.happenings import line
from anubis.cli.options import json_option
from anubis.cli.output import json_errors, stream, warn
from anubis.client import Client
from anubis.errors import DaemonNotRunning, LocalFailure

__all__ = ["command"]

_PAUSE = 0.5  # seconds before the daemon is asked again


@click.command("events")
@json_option
def command(as_json: bool) -> None:
    """Tell what happens to connections and to this host, until Ctrl-C.

    A daemon that ends is waited for; what happened meanwhile is in `anubis log`. With --json each
    event is one JSON object on a line of its own.
    """
    listener = _Listener(as_json=as_json)
    try:
        with json_errors(None, as_json=as_json):
            listener.listen()
        while True:
            time.sleep(_PAUSE)
            listener.listen()
    except KeyboardInterrupt:
        return  # it has no other end


class _Listener:
    """Listens again and again; says once when there is nobody, and when there is."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._client = Client()
        self._has_listened = False
        self._waits = False

    def listen(self) -> None:
        """Tell what happens until the daemon ends. Raises AnubisError if it never listened."""
        try:
            for happening in self._client.events(self._heard):
                stream(json.dumps(happening.to_json()) if self._as_json else line(happening))
        except (DaemonNotRunning, LocalFailure) as error:
            if not self._has_listened:
                raise
            if not self._waits:
                warn(f"{error.message}; waiting for the daemon")
            self._waits = True

    def _heard(self) -> None:
        if self._waits:
            warn("the daemon is back")
        self._has_listened, self._waits = True, False
