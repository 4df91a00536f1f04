"""The authorized-peers file as a whole: every entry, found by name, key or control address.

Owns the table and its loading from `authorized_peers` and `authorized_peers.d/*.conf`; refuses to
know what an entry's keys mean (`peer_stanza`) and what must hold between entries (`peer_checks`).
The administrator owns the files: nothing here writes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from math import inf
from pathlib import Path

from anubis.addresses import CONTROL_PREFIX, LINK_LOCAL_PREFIX, control_addresses
from anubis.errors import ConfigError, Location, Problem
from anubis.files.config import Config, examine_config
from anubis.files.endpoints import NamedEndpoint
from anubis.files.ini import parse
from anubis.files.keyfile import GuardedFile, private_hint, read_guarded, read_private_key
from anubis.files.peer_checks import Derivation, OwnKeys, check_entries, overlaps
from anubis.files.peer_stanza import GRAMMAR, AuthorizedPeer, parse_stanza
from anubis.files.reservation import SECTION as INVITATION_SECTION
from anubis.files.reservation import Reservation, parse_reservation
from anubis.files.whereabouts import is_part, parts_directory
from anubis.wireguard.keys import PrivateKey, PublicKey
from anubis.wireguard.types import IPNetwork

__all__ = [
    "AuthorizedPeer",
    "AuthorizedPeers",
    "HostFiles",
    "NamedEndpoint",
    "OwnKeys",
    "load_authorized_peers",
    "load_configuration",
    "load_host",
    "overlaps",
    "parse_authorized_peers",
    "read_files",
]

_IDENTIFIER = 2**64 - 1  # the lower half of an IPv6 address


class AuthorizedPeers:
    """The entries in the order of the file, with constant-time look-ups.

    `reserved` is what is kept for those who were invited, and who are not authorized yet.
    """

    def __init__(
        self,
        entries: Iterable[AuthorizedPeer] = (),
        *,
        derive: Derivation = control_addresses,
        reserved: Iterable[Reservation] = (),
    ) -> None:
        self._entries = tuple(entries)
        self._derive = derive
        self.reserved = tuple(reserved)
        self._by_name = {entry.name: entry for entry in self._entries}
        self._by_public_key = {entry.public_key: entry for entry in self._entries}
        self._by_identifier = {
            int(derive(entry.control_public_key).routable) & _IDENTIFIER: entry
            for entry in self._entries
        }

    def __iter__(self) -> Iterator[AuthorizedPeer]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def names(self) -> tuple[str, ...]:
        """Return the names in the order of the file."""
        return tuple(self._by_name)

    def in_force(self, at: float) -> AuthorizedPeers:
        """Return those who are authorized, at a time in seconds since 1970.

        That is no entry that says `Enabled = no` or has expired, and no invitation.
        """
        entries = [each for each in self._entries if each.enabled and at < _end(each)]
        if len(entries) == len(self) and not self.reserved:
            return self  # a million entries need not be twice in memory
        return AuthorizedPeers(entries, derive=self._derive)

    def next_expiry(self, at: float) -> float:
        """Return when the next entry expires after a time, in seconds since 1970; or infinity."""
        return min((end for each in self._entries if (end := _end(each)) > at), default=inf)

    def networks(self) -> Iterator[IPNetwork]:
        """Yield everything that is somebody's: of every entry and every invitation."""
        for entry in self._entries:
            yield from entry.allowed_ips
        for kept in self.reserved:
            yield from kept.allowed_ips

    def reservation(self, name: str) -> Reservation | None:
        """Return what is kept for whoever was invited under this name, whatever its case."""
        folded = name.lower()
        return next((each for each in self.reserved if each.name == folded), None)

    def by_name(self, name: str) -> AuthorizedPeer | None:
        """Return the entry of this name, whatever its case."""
        return self._by_name.get(name.lower())

    def by_public_key(self, key: PublicKey) -> AuthorizedPeer | None:
        """Return the entry with this production key."""
        return self._by_public_key.get(key)

    def by_control_address(self, address: IPv6Address) -> AuthorizedPeer | None:
        """Return the entry that has this address on the control plane, routable or link-local."""
        # A zone is no part of the identity: fe80::1%anubis0 is fe80::1 to the peer.
        plain = IPv6Address(int(address))
        if plain not in CONTROL_PREFIX and plain not in LINK_LOCAL_PREFIX:
            return None
        return self._by_identifier.get(int(plain) & _IDENTIFIER)


@dataclass(frozen=True, slots=True)
class HostFiles:
    """Everything that the administrator of a host wrote, read and found right together.

    `peers` are those who are authorized at the time `at`, in seconds since 1970; `entries` has what
    the files hold besides.
    """

    config: Config
    entries: AuthorizedPeers
    production_key: PrivateKey
    control_key: PrivateKey
    at: float
    peers: AuthorizedPeers = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "peers", self.entries.in_force(self.at))

    def own_keys(self) -> OwnKeys:
        """Return this host's public keys."""
        return OwnKeys(self.production_key.public_key(), self.control_key.public_key())


def load_host(
    path: Path, credentials: Path | None = None, clock: Callable[[], float] = time.time
) -> HostFiles:
    """Read `anubis.conf`, the authorized peers and both key files.

    `credentials` is the directory of what systemd hands to its service; `clock` tells the seconds
    since 1970. Raises ConfigError with
    the problems of all of them.
    """
    config, problems = examine_config(path)
    keys: list[PrivateKey] = []
    for key_file in (config.production.private_key_file, config.control.private_key_file):
        try:
            keys.append(read_private_key(key_file, credentials))
        except ConfigError as error:
            problems.extend(error.problems)
    own = OwnKeys(keys[0].public_key(), keys[1].public_key()) if len(keys) == 2 else None
    if own is not None and own.production == own.control:
        problems.append(
            Problem(
                Location(config.control.private_key_file),
                f"the same key as {config.production.private_key_file}",
                "one interface cannot hold both of this host's keys at the far end: delete one of "
                "the two, then anubis keygen",
            )
        )
    peers = _peers_or_none(config, own, problems)
    if problems:
        raise ConfigError(problems)
    return HostFiles(config, peers, keys[0], keys[1], clock())


def _end(entry: AuthorizedPeer) -> float:
    return inf if entry.expires is None else entry.expires.timestamp()


def load_configuration(path: Path, *, own: OwnKeys | None = None) -> tuple[Config, AuthorizedPeers]:
    """Read `anubis.conf` and the authorized peers beside it, but no key file.

    Raises ConfigError with the problems of both.
    """
    config, problems = examine_config(path)
    peers = _peers_or_none(config, own, problems)
    if problems:
        raise ConfigError(problems)
    return config, peers


def load_authorized_peers(
    path: Path, *, own: OwnKeys | None = None, derive: Derivation = control_addresses
) -> AuthorizedPeers:
    """Read `path`, then `path.d/*.conf` in the order of their names.

    `own` are this host's keys, which no entry may have. Raises ConfigError with every problem.
    """
    problems: list[Problem] = []
    files = read_files(path, problems)
    return parse_authorized_peers(files, own=own, derive=derive, problems=problems)


def read_files(path: Path, problems: list[Problem]) -> list[GuardedFile]:
    """Return `path` and `path.d/*.conf` as they are, adding to `problems` what cannot be read."""
    files = []
    for name in (path, *_parts(parts_directory(path), problems)):
        try:
            files.append(
                read_guarded(name, missing="an empty one authorizes nobody; `anubis init` makes it")
            )
        except ConfigError as error:
            problems.extend(error.problems)
    return files


def parse_authorized_peers(
    files: Iterable[GuardedFile],
    *,
    own: OwnKeys | None = None,
    derive: Derivation = control_addresses,
    problems: Iterable[Problem] = (),
) -> AuthorizedPeers:
    """Understand the files together. Raises ConfigError with every problem, `problems` included."""
    found = list(problems)
    entries: list[AuthorizedPeer] = []
    reserved: list[Reservation] = []
    for file in files:
        for section in parse(file.data, file.path, GRAMMAR, found):
            if section.grammar is INVITATION_SECTION:
                reserved += filter(None, [parse_reservation(section)])
                continue
            if "PresharedKey" in section.values and not file.private:
                section.complain(
                    "PresharedKey",
                    "PresharedKey = (not shown): others can read this file",
                    private_hint(file.path),
                )
            entry = parse_stanza(section)
            if entry is not None:
                entries.append(entry)
    found.extend(check_entries(entries, own, derive, reserved))
    if found:
        raise ConfigError(found)
    return AuthorizedPeers(entries, derive=derive, reserved=reserved)


def _parts(directory: Path, problems: list[Problem]) -> list[Path]:
    """Return the parts in a directory that need not exist."""
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(Problem(Location(directory), f"cannot be read: {error.strerror}"))
        return []
    return [directory / name for name in names if is_part(name)]


def _peers_or_none(config: Config, own: OwnKeys | None, problems: list[Problem]) -> AuthorizedPeers:
    try:
        return load_authorized_peers(config.authorized_peers_path, own=own)
    except ConfigError as error:
        problems.extend(error.problems)
        return AuthorizedPeers()
