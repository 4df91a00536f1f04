"""Setting up a host: its two key pairs and its first configuration.

Owns how a file comes into being: complete, with its final mode, or not at all, and never in the
place of another. Refuses to know the command line and to change any file that exists.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from pathlib import Path

from anubis.errors import LocalFailure, NotPermitted
from anubis.files.config import Config, load_config, parse_config
from anubis.files.keyfile import check_directories, read_private_key
from anubis.files.peer_checks import OwnKeys
from anubis.files.service import service_group
from anubis.wireguard.keys import PrivateKey

__all__ = [
    "WrittenFile",
    "authorized_peers_text",
    "configuration_text",
    "create_file",
    "default_address",
    "make_keys",
    "stanza_for_others",
    "write_configuration",
]

_DIRECTORY_MODE = 0o755  # the files guard themselves; anubis.conf is for everybody to read
_PRIVATE = 0o600
_PUBLIC = 0o644
_SERVICE = 0o640

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is there now: made just now, or kept as it was."""

    path: Path
    made: bool


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


def create_file(path: Path, text: str, mode: int, group: int | None = None) -> WrittenFile:
    """Write a new file, of this group if one is given, or keep the one that is there.

    The name appears with the complete content on the disk and the final mode, whatever the umask:
    the file is made under another name, synchronized, and then linked, which fails if the name is
    taken. Missing directories are made with mode 0755. Raises ConfigError if a directory is not
    safe, NotPermitted and LocalFailure if the file cannot be written.
    """
    with _failures(path):
        _make_directories(path.parent)
        check_directories(path)
        if path.is_symlink() or path.exists():
            return WrittenFile(path, made=False)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
        try:
            _write(temporary, text.encode(), mode, group)
            os.link(temporary, path)
        except FileExistsError:
            return WrittenFile(path, made=False)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        _synchronize(path.parent)
    return WrittenFile(path, made=True)


def _write(path: Path, data: bytes, mode: int, group: int | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    # Never more than the owner's rights while it is written, and no umask in the end.
    with open(os.open(path, flags, _PRIVATE), "wb") as file:  # noqa: PTH123  a descriptor
        file.write(data)
        file.flush()
        if group is not None:
            os.fchown(file.fileno(), -1, group)
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _make_directories(directory: Path) -> None:
    for missing in reversed([d for d in (directory, *directory.parents) if not d.exists()]):
        with suppress(FileExistsError):
            missing.mkdir(mode=0o700)
            missing.chmod(_DIRECTORY_MODE)
            _synchronize(missing.parent)


def _synchronize(directory: Path) -> None:
    """Put the names in a directory on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise NotPermitted(f"you may not write {path}", "become root, with sudo") from None
    except OSError as error:
        raise LocalFailure(f"cannot write {path}: {error.strerror}") from None
