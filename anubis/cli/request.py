"""`anubis request`: ask a gateway through a tunnel of WireGuard's own, without a daemon."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anubis.cli.options import json_option, lease_option, timeout_option
from anubis.cli.output import json_errors, note, say, say_json
from anubis.cli.progress import summary
from anubis.errors import UnknownConnection, nearest
from anubis.events import Result, check_name

if TYPE_CHECKING:
    from anubis.files.tunnel import Gateway, Tunnel
    from anubis.protocol.wire import Reply

__all__ = ["command"]


@click.command(name="request")
@click.argument("verb", type=click.Choice(["up", "down", "status"]))
@click.argument("name")
@click.option(
    "--config",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="The tunnel's configuration, as the WireGuard app has it.",
)
@lease_option
@timeout_option
@json_option
def command(
    verb: str, name: str, path: Path, *, lease: int | None, timeout: float, as_json: bool
) -> None:
    """Ask the gateway NAME to bring its production side up or down, or how it is.

    For a phone (Termux) or a script whose tunnel is up: it asks no daemon and needs no root. The
    exit status is as that of `anubis up`.
    """
    # Only this command needs the protocol: the others start faster without it.
    from anubis.files.tunnel import load_tunnel  # noqa: PLC0415
    from anubis.protocol.wire import Verb  # noqa: PLC0415
    from anubis.request import request  # noqa: PLC0415

    with json_errors(name, as_json=as_json):
        tunnel = load_tunnel(path)
        gateway = _gateway(tunnel, check_name(name), path)
        began = time.monotonic()
        reply = request(
            tunnel,
            gateway,
            Verb[verb.upper()],
            timeout=timeout,
            lease=lease,
            on_pending=lambda: note(f"{gateway.name}: waiting for approval"),
        )
        result = _result(gateway, verb, reply, 1000 * (time.monotonic() - began))
    if as_json:
        say_json(result.to_json())
    else:
        say(summary(result))


def _gateway(tunnel: Tunnel, name: str, path: Path) -> Gateway:
    for gateway in tunnel.gateways:
        if gateway.name == name:
            return gateway
    names = [gateway.name for gateway in tunnel.gateways]
    hint = nearest(name, names) or f"it has: {', '.join(names)}"
    raise UnknownConnection(f"no gateway of {path} is called {name!r}", hint)


def _result(gateway: Gateway, verb: str, reply: Reply, elapsed_ms: float) -> Result:
    from anubis.protocol.wire import Result as Code  # noqa: PLC0415
    from anubis.protocol.wire import State  # noqa: PLC0415

    is_up = reply.state is State.UP
    changed = verb == "status" or reply.result == Code.DONE
    return Result(
        gateway.name,
        "up" if is_up else "down",
        "done" if changed else "unchanged",
        reply.lease if is_up else None,
        elapsed_ms={"total": round(elapsed_ms, 1)},
    )
