"""`anubis peer add --phone`: a phone's entry here, and the configuration that its app imports."""

# ruff: noqa: PLC0415  the files and what they need are imported where they are used

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anubis.cli.authorized import editor, load, stanza, when
from anubis.cli.handover import forms_of, handed_over
from anubis.cli.output import note
from anubis.cli.own_host import given_host, parsed, parsed_list

if TYPE_CHECKING:
    from anubis.files.authorized_peers import HostFiles
    from anubis.files.phone import Phone
    from anubis.wireguard.types import IPNetwork

__all__ = ["add_phone"]


def add_phone(config_path: Path, options: Mapping[str, Any]) -> None:
    """Authorize a phone, and hand its configuration over."""
    from anubis.files.introduction import introduce
    from anubis.files.phone import EVERYTHING, compact, tunnel_text

    forms = forms_of(options)
    if options["public_key"] and forms.have_code:
        raise click.UsageError("a QR code needs the private key: leave out --public-key")
    given = given_host(options)
    host = load(config_path)
    gateway = introduce(host, given)
    phone, allowed = _phone(host, options)
    routed = EVERYTHING if options["full_tunnel"] else [*map(str, gateway.networks)]
    text = tunnel_text(phone, gateway, routed)
    section = stanza(
        {
            "Name": phone.name,
            "PublicKey": str(phone.public_key),
            "AllowedIPs": ", ".join(map(str, allowed)),
            "OneShot": "yes",
        }
    )
    with handed_over(text, compact(text), forms):
        peer = editor(host).add(section)
    note(f"{peer.name} is added to {peer.location.path}; {when(host)}")
    note(f"its page, while its tunnel is on: {_page(host, phone)}")


def _phone(host: HostFiles, options: Mapping[str, Any]) -> tuple[Phone, tuple[IPNetwork, ...]]:
    """Return the phone, and what it may send from."""
    from anubis.files import fields
    from anubis.files.free_addresses import free_addresses
    from anubis.files.phone import Phone
    from anubis.wireguard.keys import PrivateKey, PublicKey

    name = parsed("NAME", options["name"], fields.name)
    key: PrivateKey | PublicKey
    if options["public_key"] is None:
        key = PrivateKey.generate(secrets.token_bytes)
    else:
        key = parsed("--public-key", options["public_key"], fields.public_key)
    allowed = tuple(parsed_list("--allowed-ips", options["allowed_ips"], fields.network))
    if not allowed:
        allowed = free_addresses(host.config, host.entries.networks())
    addresses = tuple(each for each in allowed if each.prefixlen == each.max_prefixlen)
    if not addresses:
        raise click.BadParameter(
            "the phone has no address: name one, like 10.9.0.4", param_hint="--allowed-ips"
        )
    return Phone(name=name, key=key, addresses=addresses), allowed


def _page(host: HostFiles, phone: Phone) -> str:
    from anubis.network.plan import SERVICE_PORT
    from anubis.web.tokens import token

    address = host.own_keys().control_addresses.routable
    return f"http://[{address}]:{SERVICE_PORT}/{token(host.control_key, phone.public_key)}"
