"""`anubis.conf` (`anubis/files/config.py`, `ini.py`, `fields.py`).

Any bytes are a configuration, or a ConfigError with a place for every problem. What was read is
within its ranges, the two interfaces have nothing in common, and the same values written plainly
read the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from anubis.durations import format_duration
from anubis.errors import ConfigError
from anubis.files.config import GRAMMAR, SUITE_NAMES, Config, parse_config
from anubis.files.own_host import Host
from tests.fuzz.tools import assert_problems_have_places, uncommented

RUNS = 20_000
MAX_LENGTH = 700
TOKENS = (
    *(f"[{section.name}]\n".encode() for section in GRAMMAR.sections),
    *(f"{key.name} = ".encode() for section in GRAMMAR.sections for key in section.keys),
    b"[Peer]", b"off", b"0x", b"auto", b"userspace", b"aes-256-gcm", b"xchacha20-poly1305",
    b"fd61:6e75:6269:7300::1/64", b"::/0", b"/32", b"1280", b"65536", b"-1", b"#", b"\n", b"=",
)  # fmt: skip

_PATH = Path("/etc/anubis/anubis.conf")
_EXAMPLE = Path(__file__).parents[3] / "etc" / "anubis.conf"
_WORDS = {number: word for word, number in SUITE_NAMES.items()}


def run(data: bytes) -> None:
    """Read the input as the whole file."""
    try:
        config = parse_config(data, _PATH)
    except ConfigError as error:
        assert_problems_have_places(error, data)
        return
    control, production = config.control, config.production
    assert control.interface != production.interface
    assert control.listen_port != production.listen_port
    assert control.private_key_file != production.private_key_file
    for port in (control.listen_port, production.listen_port):
        assert 1 <= port <= 65535
    if config.metrics_listen is not None:
        assert 1 <= config.metrics_listen.port <= 65535
    for interface in (control.interface, production.interface):
        assert 1 <= len(interface) <= 15
        assert "/" not in interface
    assert production.mtu is None or 1280 <= production.mtu <= 65535
    assert 1 <= production.table < 2**32
    assert 1 <= production.fwmark < 2**32
    assert production.lease_seconds > 0
    assert production.max_lease_seconds > 0
    assert control.suites
    assert set(control.suites) <= set(_WORDS)
    # A path may have characters at its ends that a line cannot.
    plain = replace(
        config,
        control=replace(control, private_key_file=Path("/a")),
        production=replace(production, private_key_file=Path("/b")),
    )
    again = parse_config(_written(plain), _PATH)
    assert again == plain
    assert again.host == plain.host  # which does not count where two are compared


def _written(config: Config) -> bytes:
    """Write every value in its plainest form."""
    control, production = config.control, config.production
    mtu = "" if production.mtu is None else f"MTU = {production.mtu}\n"
    text = f"""\
[Control]
Interface = {control.interface}
ListenPort = {control.listen_port}
PrivateKeyFile = {control.private_key_file}
Backend = {control.backend}
Suites = {", ".join(_WORDS[suite] for suite in control.suites)}
[Production]
Interface = {production.interface}
ListenPort = {production.listen_port}
PrivateKeyFile = {production.private_key_file}
Table = {production.table}
FwMark = {production.fwmark}
Lease = {format_duration(production.lease_seconds)}
MaxLease = {format_duration(production.max_lease_seconds)}
"""
    addresses = "".join(f"Address = {address}\n" for address in production.addresses)
    throw = "".join(f"Throw = {network}\n" for network in production.throw)
    metrics = f"[Metrics]\nListen = {config.metrics_listen or 'off'}\n"
    host = _written_host(config.host)
    return (text + mtu + addresses + throw + metrics + host).encode()


def _written_host(host: Host) -> str:
    given = {"Name": host.name, "Networks": ", ".join(map(str, host.networks))}
    for key, endpoint in (("Endpoint", host.endpoint), ("ControlEndpoint", host.control_endpoint)):
        if endpoint is not None and endpoint.port is not None:
            given[key] = str(endpoint.at(endpoint.port))
        elif endpoint is not None:
            given[key] = endpoint.host
    given["DNS"] = ", ".join(host.dns)
    return "[Host]\n" + "".join(f"{key} = {value}\n" for key, value in given.items() if value)


def seeds() -> Iterator[bytes]:
    """Give the example without its prose, and some of it in disorder."""
    yield uncommented(_EXAMPLE.read_bytes())
    yield b"\xef\xbb\xbf[Control]\r\nSuites = aes-256-gcm\nBackend=kernel # why\n"
    yield b"[production]\nAddress = 10.9.0.2/24, fd00:9::2/64\nMTU = 1420\nThrow = 10.0.0.0/8\n"
    yield b"[Metrics]\nListen = [::1]:9586 # here\n"
    yield b"[Metrics]\nListen = ::1:9586\nListen = 127.0.0.1:0\n[metrics]\n"
    yield b"Interface = wg0\n[Peer]\n[Control]\n[Control]\nnonsense\nFwMark\x00 = 1\n\xff\n"
    yield b"[Host]\nName = A\nEndpoint = a.b:1\nControlEndpoint = ::1\nDNS = ::1, home\n"
    yield b"[Host]\nEndpoint = [fd00::1]\nNetworks = 10.1.2.3/8\nDNS = 1.1.1.1:53\n"
    yield b"[Production]\nInterface = anubis0\nTable = 254\nFwMark = off\nLease = 8\n"
