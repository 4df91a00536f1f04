"""The configuration of a phone's tunnel, as WireGuard's own apps import it: one text, two peers.

Owns how it is written, for people and for a QR code; `tunnel` reads it. Refuses to know where it is
shown, and keeps nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anubis.addresses import control_addresses
from anubis.files.introduction import Introduction
from anubis.wireguard.keys import PrivateKey, PublicKey
from anubis.wireguard.types import IPNetwork

__all__ = ["EVERYTHING", "Phone", "compact", "tunnel_text"]

_PLACEHOLDER = "PUT-THE-PRIVATE-KEY-HERE"
EVERYTHING = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """A host with nothing but WireGuard: it has one key for both planes."""

    name: str
    key: PrivateKey | PublicKey  # public: only the phone has the other one
    addresses: tuple[IPNetwork, ...]

    @property
    def public_key(self) -> PublicKey:
        """Return what the gateway knows it by."""
        return self.key.public_key() if isinstance(self.key, PrivateKey) else self.key


def tunnel_text(phone: Phone, gateway: Introduction, networks: Sequence[str]) -> str:
    """Return a configuration that routes these networks, and the gateway's control plane."""
    control = control_addresses(phone.public_key).routable
    there = gateway.keys.control_addresses.routable
    private_key = phone.key.base64() if isinstance(phone.key, PrivateKey) else _PLACEHOLDER
    interface = {
        "PrivateKey": private_key,
        # Between two addresses that are equally far from a destination, Linux and so Android send
        # from the one that was added last: that has to be one that production lets through.
        "Address": ", ".join([f"{control}/128", *map(str, phone.addresses)]),
        "DNS": ", ".join(gateway.dns),
        "MTU": gateway.mtu,
    }
    lines = [f"# {phone.name}, at {gateway.name}", "[Interface]"]
    lines += (f"{key} = {value}" for key, value in interface.items() if value)
    for public_key, allowed, endpoint in (
        (gateway.keys.control, f"{there}/128", gateway.control_endpoint),
        (gateway.keys.production, ", ".join(networks), gateway.endpoint),
    ):
        lines += ["", "[Peer]", f"# Name = {gateway.name}", f"PublicKey = {public_key}"]
        lines += [f"AllowedIPs = {allowed}", f"Endpoint = {endpoint}"]
    return "\n".join([*lines, ""])


def compact(text: str) -> str:
    """Return the same configuration in fewer characters: without comments and blanks."""
    lines = (line.partition("#")[0].replace(" ", "") for line in text.splitlines())
    return "\n".join(line for line in lines if line)
