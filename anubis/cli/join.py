"""`anubis join`: set this host up by an invitation, and print the answer to it.

Everything but the answer is a comment in it, so that the whole output is one:
`anubis join FILE | ssh house anubis peer add --from -`.
"""

# ruff: noqa: PLC0415  the files and what they need are imported where they are used

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_interface
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anubis.cli.handover import received, sent
from anubis.cli.output import say
from anubis.errors import BadRequest, ConfigError, Location, Problem

if TYPE_CHECKING:
    from anubis.files.config import Config
    from anubis.files.invitation import Invitation
    from anubis.files.peer_checks import OwnKeys
    from anubis.files.writing import WrittenFile

__all__ = ["command"]


@click.command("join")
@click.argument("file", type=sent)
@click.option(
    "--config-dir",
    type=click.Path(path_type=Path),
    default="/etc/anubis",
    show_default=True,
    help="Where to write; made if it does not exist.",
)
def command(file: Path, config_dir: Path) -> None:
    """Set this host up by the invitation in FILE; - is standard input.

    The keys are made here, and no private key leaves this host. What is printed is the answer: the
    administrator of the gateway takes it with `anubis peer add --from`. No file that exists is
    changed, but for the gateway's section, which is added to authorized_peers. A second time
    changes nothing and prints the same answer.
    """
    from anubis.files.invitation import answer_text, parse_invitation
    from anubis.files.peer_checks import OwnKeys
    from anubis.files.proofs import proof
    from anubis.files.setup_host import make_keys, write_configuration
    from anubis.files.times import format_time

    invited = parse_invitation(*received(file))
    gateway = invited.gateway
    if datetime.now(UTC) > invited.expires:
        raise BadRequest(
            f"this invitation expired at {format_time(invited.expires)}",
            f"ask the administrator of {gateway.name} for another; or is the clock here wrong?",
        )
    path = config_dir.absolute() / "anubis.conf"
    _check_addresses(path, invited)
    config, files = write_configuration(path, [ip_interface(each) for each in invited.addresses])
    own, key_files = make_keys(config)
    _add_gateway(config, own, invited)
    theirs = OwnKeys(gateway.public_key, gateway.control_public_key)
    answer = answer_text(invited.name, own, proof(invited.code, invited.name, own, theirs))
    say(_told([*files, *key_files], invited, own) + answer, end="")


def _check_addresses(path: Path, invited: Invitation) -> None:
    """See that a host that is set up already has the addresses that are kept for it."""
    import os

    from anubis.files.config import load_config

    if not os.path.lexists(path):
        return
    own = {address.ip for address in load_config(path).production.addresses}
    missing = [each for each in invited.addresses if each.network_address not in own]
    if missing:
        listed = ", ".join(map(str, missing))
        message = f"this host does not have {listed}, which {invited.gateway.name} keeps for it"
        hint = f"add to [Production] in it: Address = {listed}"
        raise ConfigError([Problem(Location(path), message, hint)])


def _add_gateway(config: Config, own: OwnKeys, invited: Invitation) -> None:
    """Add the gateway to the authorized peers, unless just this one is there."""
    from anubis.files.authorized_peers import load_authorized_peers
    from anubis.files.invitation import gateway_stanza
    from anubis.files.peer_editor import PeerEditor

    gateway = invited.gateway
    known = load_authorized_peers(config.authorized_peers_path, own=own).by_name(gateway.name)
    keys = (gateway.public_key, gateway.control_public_key)
    if known is not None and (known.public_key, known.control_public_key) == keys:
        return
    PeerEditor(config.authorized_peers_path, own).add(gateway_stanza(gateway))


def _told(files: Iterable[WrittenFile], invited: Invitation, own: OwnKeys) -> str:
    gateway = invited.gateway
    networks = ", ".join(sorted(map(str, gateway.allowed_ips)))
    lines = [f"wrote {file.path}" if file.made else f"kept {file.path}" for file in files]
    lines += [
        f"{gateway.name} is reached at {gateway.endpoint}; behind it: {networks}",
        f"the control address of this host is {own.control_addresses.routable}",
        "",
        f"This is the answer: the administrator of {gateway.name} gives all of it to",
        "    anubis peer add --from -",
        f"Then, here: systemctl enable --now anubis; anubis up {gateway.name}",
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
