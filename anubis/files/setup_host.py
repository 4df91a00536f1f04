"""Setting up a host: its two key pairs and its first configuration.

Owns what is in these files and who may read them. Refuses to know the command line, and to change
any file that exists.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from pathlib import Path

from anubis.files.config import Config, load_config, parse_config
from anubis.files.keyfile import read_private_key
from anubis.files.peer_checks import OwnKeys
from anubis.files.service import service_group
from anubis.files.writing import WrittenFile, create_file
from anubis.wireguard.keys import PrivateKey

__all__ = [
    "authorized_peers_text",
    "configuration_text",
    "default_address",
    "make_keys",
    "stanza_for_others",
    "write_configuration",
]

_PRIVATE = 0o600
_PUBLIC = 0o644
_SERVICE = 0o640

Random = Callable[[int], bytes]


def make_keys(
    config: Config, random: Random = secrets.token_bytes
) -> tuple[OwnKeys, list[WrittenFile]]:
    """Make the key files that are missing, and return whose keys they are.

    A key file that exists is kept. Raises ConfigError if it cannot be used or if a directory is
    not safe, NotPermitted and LocalFailure if a file cannot be written.
    """
    files = []
    for path in (config.production.private_key_file, config.control.private_key_file):
        key = PrivateKey.generate(random)
        files.append(create_file(path, f"{key.base64()}\n", _PRIVATE))
    production, control = (read_private_key(file.path).public_key() for file in files)
    return OwnKeys(production, control), files


def write_configuration(
    path: Path, addresses: Sequence[IPv4Interface | IPv6Interface]
) -> tuple[Config, list[WrittenFile]]:
    """Write `anubis.conf` at `path` and `authorized_peers` beside it, where they are missing.

    Raises ConfigError if an existing `anubis.conf` is bad, NotPermitted and LocalFailure.
    """
    text = configuration_text(addresses)
    parse_config(text.encode(), path)  # what we write is held to what we read
    # It may come to hold preshared keys; it is too large for a credential, and is read again.
    group = service_group() if os.geteuid() == 0 else None
    mode = _PRIVATE if group is None else _SERVICE
    files = [
        create_file(path, text, _PUBLIC),
        create_file(path.parent / "authorized_peers", authorized_peers_text(), mode, group),
    ]
    return load_config(path), files


def default_address(random: Random = secrets.token_bytes) -> IPv6Interface:
    """Make up an address of the host's own: a random /128 of a random ULA /48 (RFC 4193)."""
    packed = b"\xfd" + random(5) + bytes(2) + random(8)
    return IPv6Interface((packed, 128))


def configuration_text(addresses: Sequence[IPv4Interface | IPv6Interface]) -> str:
    """Return an `anubis.conf` that says the addresses and leaves the rest at its defaults."""
    listed = ", ".join(map(str, addresses))
    return f"""\
# What this host is. Every key and its default: docs/configuration.md.
# Check it with `anubis check`.

[Control]
# Interface = anubis0
# ListenPort = 4297

[Production]
# Interface = wg0
# ListenPort = 4296
Address = {listed}
"""


def authorized_peers_text() -> str:
    """Return an `authorized_peers` that authorizes nobody and shows how somebody would be."""
    return """\
# Who may ask this host for a connection, one [Peer] section each.
# Every key: docs/configuration.md. `anubis init` on the other host prints its section.
#
# [Peer]
# Name = jacinth
# PublicKey = (of its production interface)
# ControlPublicKey = (of its control plane)
# AllowedIPs = 10.1.0.0/16, fd00:1::/48
# Endpoint = jacinth.example.org:4296
"""


def stanza_for_others(
    name: str, own: OwnKeys, addresses: Sequence[IPv4Interface | IPv6Interface]
) -> str:
    """Return the section that the far administrator pastes into his authorized peers.

    Its AllowedIPs are this host alone; only its administrator knows what else is behind it.
    """
    networks = ", ".join(str(ip_network(address.ip)) for address in addresses)
    allowed = f"AllowedIPs = {networks}" if networks else "# AllowedIPs = ADDRESS OF THIS HOST"
    return f"""\
[Peer]
Name = {name}
PublicKey = {own.production}
ControlPublicKey = {own.control}
{allowed}
"""
