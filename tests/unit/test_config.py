"""`anubis.conf`: what is read, what is refused, and what the reader is told."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.errors import ConfigError
from anubis.files.config import SUITE_NAMES, Config, load_config, parse_config
from anubis.files.endpoints import OwnEndpoint
from anubis.files.own_host import Host

PATH = Path("/etc/anubis/anubis.conf")

FULL = """\
[Control]
Interface = ctl0
ListenPort = 5001
PrivateKeyFile = keys/control
Backend = Userspace
Suites = AES-256-GCM
[Production]
Interface = tun.1
ListenPort = 5000
PrivateKeyFile = /srv/production
Address = 10.9.0.2/24
Address = fd00:9::2/64, 10.9.0.2/24
Table = 0xffffffff
FwMark = 0x1
MTU = 1280
Throw = 192.168.122.7/24
Lease = 1h
MaxLease = 2h30m
IdleTimeout = 45m
[Authorization]
Watch = No
[Host]
Name = Jacinth
Endpoint = Jacinth.example.org:14296
ControlEndpoint = [2001:db8::1]
Networks = 10.1.2.3/16, fd00:1::/48
DNS = 10.1.0.1, home.example.org
"""


def problems_of(text: str) -> list[str]:
    """Return what is said about a file, without its path."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text.encode(), PATH)
    return [str(problem).removeprefix(f"{PATH}:") for problem in caught.value.problems]


def test_every_key_is_read() -> None:
    """Every key of all sections arrives where it belongs."""
    config = parse_config(FULL.encode(), PATH)
    control, production = config.control, config.production
    assert (control.interface, control.listen_port) == ("ctl0", 5001)
    assert control.private_key_file == Path("/etc/anubis/keys/control")
    assert (control.backend, control.suites) == ("userspace", (2,))
    assert (production.interface, production.listen_port) == ("tun.1", 5000)
    assert production.private_key_file == Path("/srv/production")
    assert production.addresses == (ip_interface("10.9.0.2/24"), ip_interface("fd00:9::2/64"))
    assert (production.table, production.fwmark) == (2**32 - 1, 1)
    assert production.mtu == 1280
    assert production.throw == (ip_network("192.168.122.0/24"),)
    assert not config.watch
    assert (production.lease_seconds, production.max_lease_seconds) == (3600, 9000)
    assert production.idle_timeout == 2700
    assert config.host == Host(
        name="jacinth",
        endpoint=OwnEndpoint("Jacinth.example.org", 14296),
        control_endpoint=OwnEndpoint("2001:db8::1"),
        networks=(ip_network("10.1.0.0/16"), ip_network("fd00:1::/48")),
        dns=("10.1.0.1", "home.example.org"),
    )


def test_an_empty_file_has_the_defaults() -> None:
    """No key need be written."""
    config = parse_config(b"", PATH)
    control, production = config.control, config.production
    assert (control.interface, control.listen_port, control.backend) == ("anubis0", 4297, "auto")
    assert control.suites == (1, 2)
    assert control.private_key_file == Path("/etc/anubis/control.key")
    assert (production.interface, production.listen_port) == ("wg0", 4296)
    assert (production.table, production.fwmark) == (214, 0xD6)
    assert production.private_key_file == Path("/etc/anubis/production.key")
    assert (production.lease_seconds, production.max_lease_seconds) == (28800, 86400)
    assert production.idle_timeout == 0
    assert (production.addresses, production.throw, production.mtu) == ((), (), None)
    assert config.host == Host()
    assert config.authorized_peers_path == Path("/etc/anubis/authorized_peers")


def test_suite_words_are_the_suites_of_the_protocol() -> None:
    """The words of the file stand for the numbers that are spoken."""
    from anubis.protocol.suites import SUITES  # noqa: PLC0415  the only test here that needs cryptography

    by_number = SUITES.values() if isinstance(SUITES, dict) else SUITES
    assert {suite.name.lower(): suite.number for suite in by_number} == SUITE_NAMES


@pytest.mark.parametrize("order", ["aes-256-gcm, xchacha20-poly1305", "xchacha20-poly1305"])
def test_suites_keep_their_order_and_absent_ones_are_refused(order: str) -> None:
    """The order of the file is the preference, and nothing is added to it."""
    config = parse_config(f"[Control]\nSuites = {order}\n".encode(), PATH)
    assert config.control.suites == tuple(SUITE_NAMES[word] for word in order.split(", "))


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("Control", "Interface = a/b", "not an interface name"),
        ("Control", "Interface = sixteen-letters.", "not an interface name"),
        ("Control", "Interface = default", "not an interface name"),
        ("Control", "Interface =", "Interface = (nothing): not an interface name"),
        ("Control", "ListenPort = 0", "not a port"),
        ("Control", "ListenPort = 65536", "not a port"),
        ("Control", "ListenPort = +1", "not a port"),
        ("Control", "Backend = kernle", "did you mean kernel?"),
        ("Control", "Suites = aes-256-gcm, aes-256-gcm", "named twice"),
        ("Control", "Suites =", "not a suite"),
        ("Control", "PrivateKey = x", "did you mean PrivateKeyFile?"),
        ("Production", "PrivateKeyFile =", "no path"),
        ("Production", "Address = 10.9.0.2/33", "not an address"),
        ("Production", "Address = 10.9.0.2/255.255.255.0", "not an address"),
        ("Production", "Address = fe80::1%eth0/64", "not an address"),
        ("Production", "Address = 224.0.0.1", "not an address of a host"),
        ("Production", "Address = fd61:6e75:6269:7300::1/128", "is the control plane"),
        ("Production", "Table = 0", "system's own"),
        ("Production", "Table = off", "system's own"),
        ("Production", "Table = 254", "system's own"),
        ("Production", "Table = 4294967296", "too large"),
        ("Production", "Table = main", "not a number"),
        ("Production", "FwMark = 0", "bearer packets"),
        ("Production", "FwMark = off", "bearer packets"),
        ("Production", "FwMark = 0x1ffffffff", "not a number"),
        ("Production", "FwMark = 4294967296", "too large"),
        ("Production", "MTU = 1279", "1280 to 65535"),
        ("Production", "MTU = 65536", "1280 to 65535"),
        ("Production", "Throw = 0.0.0.0/0", "everything"),
        ("Production", "Throw = fd61:6e75:6269:7300:1::/80", "is the control plane"),
        ("Production", "Lease = 8", "needs a unit: 8s, 8m or 8h"),
        ("Production", "Lease = 0s", "no time at all"),
        ("Production", "MaxLease = off", "not a duration"),
        ("Production", "IdleTimeout = 0s", "no time at all"),
        ("Production", "IdleTimeout = never", "not a duration"),
        ("Metrics", "Listen = 9586", "not an address and a port (like 127.0.0.1:9586 or"),
        ("Metrics", "Listen = localhost:9586", "not an address and a port"),
        ("Metrics", "Listen = ::1:9586", "not an address and a port"),
        ("Metrics", "Listen = [127.0.0.1]:9586", "not an address and a port"),
        ("Metrics", "Listen = [fe80::1%eth0]:9586", "not an address and a port"),
        ("Metrics", "Listen = 127.0.0.1:0", "not a port"),
        ("Host", "Name = a b", "not a name"),
        ("Host", "Endpoint = a_b..c", "not a host name"),
        ("Host", "Endpoint = 10.0.0.1:0", "not a port"),
        ("Host", "Endpoint = fd00::1::2", "not an IP address"),
        ("Host", "ControlEndpoint = 224.0.0.1", "not the address of a host"),
        ("Host", "Networks = 10.1.0.0/33", "not a network"),
        ("Host", "DNS = 10.1.0.1:53", "not a name server"),
    ],
)
def test_bad_values_are_told_with_line_and_remedy(section: str, line: str, expected: str) -> None:
    """A bad value is one problem, at its line, and says what would be right."""
    (problem,) = problems_of(f"[{section}]\n{line}\n")
    assert problem.startswith("2: ")
    assert expected in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Control]\nInterface = wg0", "2: Interface = wg0: [Control] and [Production]"),
        ("[Production]\nListenPort = 4297", "2: ListenPort = 4297: [Control] and [Production]"),
        (
            "[Control]\nPrivateKeyFile = a\n[Production]\nPrivateKeyFile = /etc/anubis/a",
            "4: PrivateKeyFile = /etc/anubis/a: [Control] and [Production] have the same",
        ),
    ],
)
def test_the_interfaces_share_nothing(text: str, expected: str) -> None:
    """One name, port or key for both interfaces is refused where it is written."""
    (problem,) = problems_of(text)
    assert problem.startswith(expected)


def test_all_problems_are_told_in_the_order_of_the_file() -> None:
    """One run of `anubis check` is enough to mend a file."""
    found = problems_of("[Control]\nX = 1\nListenPort = x\n[Peer]\n[Production]\nMTU = 1\n")
    assert [problem.partition(":")[0] for problem in found] == ["2", "3", "4", "6"]
    assert "authorized_peers" in found[2]


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    """Who has no configuration is told how to get one."""
    with pytest.raises(ConfigError, match=r"there is no such file .*anubis init"):
        load_config(tmp_path / "anubis.conf")


@pytest.mark.parametrize(
    ("text", "endpoint", "at"),
    [
        ("house.example.org", OwnEndpoint("house.example.org"), "house.example.org:4296"),
        ("house.example.org:1", OwnEndpoint("house.example.org", 1), "house.example.org:1"),
        ("203.0.113.1", OwnEndpoint("203.0.113.1"), "203.0.113.1:4296"),
        ("2001:db8::1", OwnEndpoint("2001:db8::1"), "[2001:db8::1]:4296"),
        ("[2001:db8::1]", OwnEndpoint("2001:db8::1"), "[2001:db8::1]:4296"),
        ("[2001:db8::1]:7", OwnEndpoint("2001:db8::1", 7), "[2001:db8::1]:7"),
    ],
)
def test_an_own_endpoint_needs_no_port(text: str, endpoint: OwnEndpoint, at: str) -> None:
    """It has that of the interface, unless another one is given."""
    found = parse_config(f"[Host]\nEndpoint = {text}\n".encode(), PATH).host.endpoint
    assert found == endpoint
    assert str(found.at(4296)) == at


def test_what_others_are_told_needs_no_restart() -> None:
    """A daemon that compares its configuration with the file's does not mind [Host]."""
    assert parse_config(b"[Host]\nName = other\n", PATH) == parse_config(b"", PATH)


def understood_or_refused(data: bytes) -> None:
    """Parse; any exception but ConfigError is a failure."""
    with suppress(ConfigError):
        assert isinstance(parse_config(data, PATH), Config)


LINES = st.sampled_from(FULL.splitlines())
JUNK = st.one_of(st.text(max_size=12), st.sampled_from(["0x", "/", "-1", ",", "[", "9" * 30]))


@given(st.lists(st.one_of(LINES, st.tuples(LINES, JUNK).map("".join), JUNK), max_size=12))
def test_any_file_gives_a_config_or_a_config_error(lines: list[str]) -> None:
    """No text raises anything but ConfigError, however near it is to a valid file."""
    understood_or_refused("\n".join(lines).encode())


@given(st.binary(max_size=200))
def test_any_bytes_give_a_config_or_a_config_error(data: bytes) -> None:
    """Nor do any bytes."""
    understood_or_refused(b"[Production]\n" + data)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9586", "127.0.0.1:9586"),
        ("[::1]:1", "[::1]:1"),
        ("0.0.0.0:65535", "0.0.0.0:65535"),
    ],
)
def test_where_metrics_are_served(text: str, expected: str) -> None:
    """An address of either family; nowhere by default, and where it is switched off."""
    config = parse_config(f"[Metrics]\nListen = {text}\n".encode(), PATH)
    assert str(config.metrics_listen) == expected
    for nowhere in (b"", b"[Metrics]\n", b"[Metrics]\nListen = Off\n"):
        assert parse_config(nowhere, PATH).metrics_listen is None
