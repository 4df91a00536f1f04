"""`anubis peer add`: a host that has its keys, a phone that is given its configuration, a guest.

A guest is somebody who was invited (`anubis invite`), and whose answer is taken here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from anubis.cli.authorized import editor, load, stanza, when
from anubis.cli.handover import form_options, sent
from anubis.cli.output import say
from anubis.cli.own_host import host_options
from anubis.cli.peer_guest import admit
from anubis.cli.peer_phone import add_phone

__all__ = ["add"]

_PHONE_OPTIONS = (
    *("full_tunnel", "gateway_name", "gateway_endpoint", "networks", "dns"),
    *("qr", "text_path", "png_path", "svg_path"),
)
_HOST_OPTIONS = ("control_public_key", "endpoint")


@click.command("add")
@click.argument("name", required=False)
@click.option("--public-key", metavar="KEY", help="Of its production interface.")
@click.option(
    "--control-public-key", metavar="KEY", help="Of its control plane.  [default: the same]"
)
@click.option(
    "--allowed-ips",
    multiple=True,
    metavar="NETWORK",
    help="Its addresses and the networks behind it; may be given several times.",
)
@click.option("--endpoint", metavar="HOST:PORT", help="Where it is reached, if it is.")
@click.option(
    "--from",
    "answer",
    metavar="FILE",
    type=sent,
    help="The answer to an invitation; - is standard input.",
)
@click.option("--phone", is_flag=True, help="Print a configuration for WireGuard's own app.")
@click.option("--full-tunnel", is_flag=True, help="The phone: send everything through this host.")
@click.option("--dns", multiple=True, metavar="ADDRESS", help="The phone: its name server.")
@host_options
@form_options
@click.pass_obj
def add(config_path: Path, /, **options: Any) -> None:
    """Authorize NAME: a host, a phone, or a guest.

    Its section is appended to authorized_peers.

    With --phone, NAME is a phone with WireGuard's own app: it gets the next free addresses, a key
    pair, and a configuration for import. The private key is shown this once and kept nowhere;
    with --public-key, the phone has it already. The configuration is printed, or written to
    --output, --png or --svg.

    With --from, NAME is a guest: it was invited and has joined. The name need not be said.
    """
    kind = _kind(options)
    if kind == "answer":
        admit(config_path, options["name"], options["answer"])
    elif kind == "phone":
        add_phone(config_path, options)
    else:
        _add_host(config_path, options)


def _kind(options: Mapping[str, Any]) -> str:
    """Tell what is added. Raises UsageError for options that do not go together."""
    if options["answer"] is not None:
        others = ("phone", "public_key", "allowed_ips", *_HOST_OPTIONS, *_PHONE_OPTIONS)
        _refuse(options, others, "--from says everything: leave out")
        return "answer"
    if options["name"] is None:
        raise click.UsageError("missing argument 'NAME'")
    if options["phone"]:
        _refuse(options, _HOST_OPTIONS, "a phone has no")
        return "phone"
    _refuse(options, _PHONE_OPTIONS, "only with --phone:")
    for option in ("public_key", "allowed_ips"):
        if not options[option]:
            raise click.UsageError(f"missing option '{_written(option)}'")
    return "host"


def _refuse(options: Mapping[str, Any], names: Sequence[str], why: str) -> None:
    given = next((name for name in names if options[name]), None)
    if given is not None:
        raise click.UsageError(f"{why} {_written(given)}")


def _written(option: str) -> str:
    name = "output" if option == "text_path" else option.removesuffix("_path")
    return f"--{name.replace('_', '-')}"


def _add_host(config_path: Path, options: Mapping[str, Any]) -> None:
    section = stanza(
        {
            "Name": options["name"],
            "PublicKey": options["public_key"],
            "ControlPublicKey": options["control_public_key"],
            "AllowedIPs": ", ".join(options["allowed_ips"]),
            "Endpoint": options["endpoint"],
        }
    )
    host = load(config_path)
    peer = editor(host).add(section)
    say(f"{peer.name} is added to {peer.location.path}; {when(host)}")
