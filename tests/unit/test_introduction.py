"""What others are told of this host: from the file, from the command line, or asked for."""

from __future__ import annotations

import platform
from ipaddress import ip_network
from pathlib import Path

import pytest

from anubis.errors import ConfigError
from anubis.files.authorized_peers import AuthorizedPeers, HostFiles
from anubis.files.config import parse_config
from anubis.files.endpoints import OwnEndpoint
from anubis.files.introduction import introduce
from anubis.files.own_host import Host
from anubis.wireguard.keys import PrivateKey

PATH = Path("/etc/anubis/anubis.conf")
TEXT = """\
[Control]
ListenPort = 5297
[Production]
ListenPort = 5296
Address = 10.9.0.1/24
MTU = 1400
[Host]
Name = jacinth
Endpoint = house.example.org
Networks = 192.168.7.0/24
DNS = 192.168.7.1
"""


def host(text: str = TEXT) -> HostFiles:
    """Return a host with this configuration."""
    production, control = (PrivateKey(bytes([number] * 32)) for number in (1, 2))
    return HostFiles(parse_config(text.encode(), PATH), AuthorizedPeers(), production, control, 0.0)


def test_the_file_says_it() -> None:
    """Its ports are those of the interfaces, its own address is one host."""
    found = introduce(host(), Host())
    assert found.name == "jacinth"
    assert found.keys == host().own_keys()
    assert str(found.endpoint) == "house.example.org:5296"
    assert str(found.control_endpoint) == "house.example.org:5297"
    assert found.networks == (ip_network("10.9.0.1/32"), ip_network("192.168.7.0/24"))
    assert (found.dns, found.mtu) == (("192.168.7.1",), 1400)


def test_the_command_line_goes_before_it() -> None:
    """Each of the four."""
    given = Host(
        name="house",
        endpoint=OwnEndpoint("203.0.113.1"),
        networks=(ip_network("10.1.0.0/16"),),
        dns=("10.1.0.1",),
    )
    control = TEXT + "ControlEndpoint = other.example.org:7\n"
    found = introduce(host(control), given)
    assert (found.name, found.dns) == ("house", ("10.1.0.1",))
    assert str(found.endpoint) == "203.0.113.1:5296"
    assert str(found.control_endpoint) == "203.0.113.1:5297"
    assert found.networks == (ip_network("10.9.0.1/32"), ip_network("10.1.0.0/16"))


@pytest.mark.parametrize(
    ("more", "production", "control"),
    [
        ("", "house.example.org:5296", "house.example.org:5297"),
        ("ControlEndpoint = 203.0.113.9", "house.example.org:5296", "203.0.113.9:5297"),
        ("ControlEndpoint = house.example.org:7", "house.example.org:5296", "house.example.org:7"),
    ],
)
def test_the_control_plane_may_be_elsewhere(more: str, production: str, control: str) -> None:
    """On another host, as behind two addresses, or on another port."""
    found = introduce(host(f"{TEXT}{more}\n"), Host())
    assert (str(found.endpoint), str(found.control_endpoint)) == (production, control)


def test_a_port_that_is_given_is_production_s() -> None:
    """The control plane keeps its own."""
    found = introduce(host(TEXT.replace("house.example.org", "[2001:db8::1]:14296")), Host())
    assert str(found.endpoint) == "[2001:db8::1]:14296"
    assert str(found.control_endpoint) == "[2001:db8::1]:5297"


def test_the_name_is_the_host_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its domain, where the file has none."""
    monkeypatch.setattr(platform, "node", lambda: "Jacinth.example.org")
    assert introduce(host(TEXT.replace("Name", "#")), Host()).name == "jacinth"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TEXT.replace("Endpoint", "#"), "write it under [Host]: Endpoint = jacinth.example.org"),
        (
            TEXT.replace("Networks", "#").replace("Address", "#"),
            "write Address under [Production], or Networks under [Host]",
        ),
        (TEXT.replace("Name", "#"), "write under [Host] how others shall call it"),
    ],
)
def test_what_is_missing_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    """With the line that would mend it."""
    monkeypatch.setattr(platform, "node", lambda: "-")
    with pytest.raises(ConfigError) as caught:
        introduce(host(text), Host())
    assert told in caught.value.message
