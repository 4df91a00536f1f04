"""`anubis.conf`: what this host is, as an administrator writes it (`docs/configuration.md`).

Owns the keys of that file, their defaults and what they demand of one another; refuses to know the
peers and to touch interfaces. Reads the file once and returns values that never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Literal, TypeVar

from anubis.errors import ConfigError, Problem
from anubis.files import fields
from anubis.files.ini import BadValue, Grammar, Key, Section, SectionGrammar, parse
from anubis.files.keyfile import read_guarded
from anubis.files.own_host import SECTION as HOST_SECTION
from anubis.files.own_host import Host, parse_host
from anubis.wireguard.types import Endpoint, IPNetwork

__all__ = [
    "AUTHORIZED_PEERS",
    "CONTROL_PORT",
    "DEFAULT_CONFIG",
    "GRAMMAR",
    "PRODUCTION_PORT",
    "SUITE_NAMES",
    "Backend",
    "Config",
    "Control",
    "Production",
    "examine_config",
    "load_config",
    "parse_config",
]

DEFAULT_CONFIG = Path("/etc/anubis/anubis.conf")
CONTROL_PORT = 4297
PRODUCTION_PORT = 4296

AUTHORIZED_PEERS = "authorized_peers"  # beside `anubis.conf`

Backend = Literal["auto", "kernel", "userspace"]
Item = TypeVar("Item")

SUITE_NAMES = {"xchacha20-poly1305": 1, "aes-256-gcm": 2}  # numbers of docs/protocol.md
_BACKENDS: dict[str, Backend] = {"auto": "auto", "kernel": "kernel", "userspace": "userspace"}
_MIN_MTU = 1280  # RFC 8200 section 5: IPv6 needs it, and production always carries IPv6

GRAMMAR = Grammar(
    sections=(
        SectionGrammar(
            "Control",
            (
                Key("Interface"),
                Key("ListenPort"),
                Key("PrivateKeyFile"),
                Key("Backend"),
                Key("Suites", is_list=True),
            ),
        ),
        SectionGrammar(
            "Production",
            (
                Key("Interface"),
                Key("ListenPort"),
                Key("PrivateKeyFile"),
                Key("Address", is_list=True),
                Key("Table"),
                Key("FwMark"),
                Key("MTU"),
                Key("Throw", is_list=True),
                Key("Lease"),
                Key("MaxLease"),
                Key("IdleTimeout"),
            ),
        ),
        SectionGrammar("Authorization", (Key("Watch"),)),
        SectionGrammar("Metrics", (Key("Listen"),)),
        HOST_SECTION,
    ),
    elsewhere={
        "peer": "peers are in authorized_peers, beside this file",
        "interface": "here the interface with the traffic is [Production]; its key is in a file",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The permanent interface over which connections are asked for."""

    private_key_file: Path
    interface: str = "anubis0"
    listen_port: int = CONTROL_PORT  # UDP port of the bearer packets
    backend: Backend = "auto"
    suites: tuple[int, ...] = (1, 2)  # accepted suites, the preferred one first


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """The interface that carries the traffic."""

    private_key_file: Path
    interface: str = "wg0"
    listen_port: int = PRODUCTION_PORT
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    table: int = 214
    fwmark: int = 0xD6
    mtu: int | None = None  # bytes; None computes it from the way to the peer
    throw: tuple[IPNetwork, ...] = ()
    lease_seconds: int = 8 * 3600  # asked for when nobody says otherwise
    max_lease_seconds: int = 24 * 3600  # never granted more
    idle_timeout: int = 0  # seconds that what was granted may be idle; 0 is for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that `anubis.conf` says."""

    path: Path
    control: Control
    production: Production
    authorized_peers_path: Path
    watch: bool = True  # whether a change of the authorized peers is taken up by itself
    metrics_listen: Endpoint | None = None  # where metrics are served over TCP, if anywhere
    # What a daemon does depends on none of it: a change needs no restart.
    host: Host = field(default_factory=Host, compare=False)


def load_config(path: Path = DEFAULT_CONFIG) -> Config:
    """Read `anubis.conf`. Raises ConfigError with every problem of the file."""
    config, problems = examine_config(path)
    if problems:
        raise ConfigError(problems)
    return config


def examine_config(path: Path) -> tuple[Config, list[Problem]]:
    """Read `anubis.conf`, and return what could be understood beside every problem.

    It is for a reader who wants to go on to the other files and tell all problems at once.
    """
    try:
        file = read_guarded(path, missing="`anubis init` writes one to start with")
    except ConfigError as error:
        return _understand(b"", path)[0], list(error.problems)
    return _understand(file.data, path)


def parse_config(data: bytes, path: Path) -> Config:
    """Understand the bytes of `anubis.conf`. Raises ConfigError with every problem.

    No section need be there: a file without any key describes a host with all the defaults.
    Key files without a path beginning with `/` are beside `path`.
    """
    config, problems = _understand(data, path)
    if problems:
        raise ConfigError(problems)
    return config


def _understand(data: bytes, path: Path) -> tuple[Config, list[Problem]]:
    problems: list[Problem] = []
    by_name = {section.grammar.name: section for section in parse(data, path, GRAMMAR, problems)}
    control, production, authorization, metrics, host = (
        by_name.get(known.name, Section(path, 0, known, problems)) for known in GRAMMAR.sections
    )
    config = Config(
        path=path,
        control=_control(control, path.parent),
        production=_production(production, path.parent),
        authorized_peers_path=path.parent / AUTHORIZED_PEERS,
        watch=authorization.one("Watch", fields.yes_or_no, default=True),
        metrics_listen=metrics.one("Listen", fields.listen_address, None),
        host=parse_host(host),
    )
    _check_apart(config, control, production)
    return config, problems


def _control(section: Section, directory: Path) -> Control:
    suites = section.many("Suites", fields.one_of(SUITE_NAMES, "a suite"))
    if len(set(suites)) < len(suites):
        section.complain("Suites", "a suite is named twice", "name each once, the preferred first")
    return Control(
        interface=section.one("Interface", fields.interface_name, "anubis0"),
        listen_port=section.one("ListenPort", fields.port, CONTROL_PORT),
        private_key_file=_key_file(section, directory / "control.key", directory),
        backend=_BACKENDS[section.one("Backend", fields.one_of(_BACKENDS, "a backend"), "auto")],
        suites=tuple(SUITE_NAMES[word] for word in suites) or (1, 2),
    )


def _production(section: Section, directory: Path) -> Production:
    return Production(
        interface=section.one("Interface", fields.interface_name, "wg0"),
        listen_port=section.one("ListenPort", fields.port, PRODUCTION_PORT),
        private_key_file=_key_file(section, directory / "production.key", directory),
        addresses=_unique(section.many("Address", fields.interface_address)),
        table=section.one("Table", _table, 214),
        fwmark=section.one("FwMark", _fwmark, 0xD6),
        mtu=section.one("MTU", _mtu, None),
        throw=_unique(section.many("Throw", _throw)),
        lease_seconds=section.one("Lease", fields.duration, 8 * 3600),
        max_lease_seconds=section.one("MaxLease", fields.duration, 24 * 3600),
        idle_timeout=section.one("IdleTimeout", fields.idle_timeout, 0),
    )


def _check_apart(config: Config, control: Section, production: Section) -> None:
    """Refuse one name, port or key file for both interfaces of a host."""
    pairs: Sequence[tuple[str, object, object]] = (
        ("Interface", config.control.interface, config.production.interface),
        ("ListenPort", config.control.listen_port, config.production.listen_port),
        (
            "PrivateKeyFile",
            config.control.private_key_file,
            config.production.private_key_file,
        ),
    )
    for key, ours, theirs in pairs:
        if ours == theirs:
            # The place is the line that gives the value, where only one section does.
            here, other = (
                (production, control) if key in production.values else (control, production)
            )
            here.complain(
                key,
                f"{key} = {ours}: [Control] and [Production] have the same",
                f"[{other.grammar.name}] {_origin(other, key)}; they must differ",
            )


def _origin(section: Section, key: str) -> str:
    line = section.location(key).line
    return f"has it in line {line}" if key in section.values else "has it by default"


def _key_file(section: Section, default: Path, directory: Path) -> Path:
    def parse_path(text: str) -> Path:
        if not text:
            raise BadValue("no path", f"like {default}")
        return directory / text

    return section.one("PrivateKeyFile", parse_path, default)


def _table(text: str) -> int:
    table = fields.number(text)
    if table in {0, 253, 254, 255}:
        raise BadValue(
            "the system's own table, or none",
            "a number for Anubis alone, 1 to 4294967295 without 253, 254, 255",
        )
    return _at_most_32_bits(table)


def _fwmark(text: str) -> int:
    mark = fields.number(text)
    if mark == 0:
        raise BadValue(
            "no mark",
            "1 to 0xffffffff; the mark keeps bearer packets out of the tunnel that they bear",
        )
    return _at_most_32_bits(mark)


def _at_most_32_bits(number: int) -> int:
    if number > 0xFFFFFFFF:
        raise BadValue("too large", "at most 4294967295")
    return number


def _mtu(text: str) -> int:
    mtu = fields.number(text)
    if not _MIN_MTU <= mtu <= 65535:
        raise BadValue("not an MTU", f"{_MIN_MTU} to 65535 bytes; IPv6 needs {_MIN_MTU}")
    return mtu


def _throw(text: str) -> IPNetwork:
    found = fields.network(text)
    if found.prefixlen == 0:
        raise BadValue("everything", "name the networks that shall stay outside the tunnel")
    return found


def _unique(items: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(dict.fromkeys(items))
