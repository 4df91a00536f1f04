"""`anubis invite`: keep a name and addresses for somebody, and print what he joins with."""

# ruff: noqa: PLC0415  the files and what they need are imported where they are used

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anubis.cli.authorized import editor, load
from anubis.cli.handover import form_options, forms_of, handed_over
from anubis.cli.options import duration
from anubis.cli.output import note
from anubis.cli.own_host import given_host, host_options, parsed, parsed_list

if TYPE_CHECKING:
    from anubis.files.authorized_peers import HostFiles
    from anubis.files.reservation import Reservation

__all__ = ["command"]


@click.command("invite")
@click.argument("name")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default="/etc/anubis/anubis.conf",
    show_default=True,
    help="The configuration; the authorized peers are beside it.",
)
@click.option(
    "--allowed-ips",
    multiple=True,
    metavar="ADDRESS",
    help="Its addresses.  [default: the next free ones]",
)
@click.option(
    "--expires",
    metavar="DURATION",
    callback=duration,
    default="7d",
    show_default=True,
    help="How long it may be answered.",
)
@host_options
@form_options
def command(config_path: Path, **options: Any) -> None:
    """Invite NAME, a laptop that makes its own keys, to join.

    The invitation is printed, or written to --output, --png or --svg. There, `anubis join` takes
    it and prints an answer, which `anubis peer add --from` takes here, once. Nobody is authorized
    before that. To withdraw it: anubis peer remove NAME.
    """
    from anubis.files.introduction import introduce
    from anubis.files.invitation import invitation_text
    from anubis.files.phone import compact
    from anubis.files.proofs import code
    from anubis.files.times import format_time

    forms, given = forms_of(options), given_host(options)
    host = load(config_path)
    gateway = introduce(host, given)
    kept = _reservation(host, options)
    text = invitation_text(kept, code(host.control_key, kept.number, kept.name), gateway)
    keys = {
        "Name": kept.name,
        "AllowedIPs": ", ".join(map(str, kept.allowed_ips)),
        "Number": kept.number,
        "Expires": format_time(kept.expires),
    }
    with handed_over(text, compact(text), forms):
        is_renewed = editor(host).reserve(kept.name, keys)
    if is_renewed:
        note(f"the earlier invitation of {kept.name} is void")
    note(f"{kept.name} is invited until {format_time(kept.expires)}")
    note("take the answer with: anubis peer add --from FILE")


def _reservation(host: HostFiles, options: Mapping[str, Any]) -> Reservation:
    """Return what is to be kept: what was kept for the same name before, if nothing else is said.

    Its number is new always, so that no answer to an earlier invitation counts.
    """
    from anubis.errors import Location
    from anubis.files import fields
    from anubis.files.free_addresses import free_addresses
    from anubis.files.reservation import Reservation

    name = parsed("NAME", options["name"], fields.name)
    networks = tuple(parsed_list("--allowed-ips", options["allowed_ips"], fields.network))
    if any(each.prefixlen < each.max_prefixlen for each in networks):
        problem = "a network: name single addresses; what is behind it can be added to its entry"
        raise click.BadParameter(problem, param_hint="--allowed-ips")
    earlier = host.entries.reservation(name)
    if not networks and earlier is not None:
        networks = earlier.allowed_ips
    if not networks:
        networks = free_addresses(host.config, host.entries.networks())
    return Reservation(
        name=name,
        allowed_ips=networks,
        number=secrets.token_hex(8),
        expires=(datetime.now(UTC) + timedelta(seconds=options["expires"])).replace(second=0),
        location=Location(host.config.authorized_peers_path),
    )
