"""Which addresses are free for somebody who is new in the tunnels."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.errors import ConfigError
from anubis.files.config import Config, parse_config
from anubis.files.free_addresses import free_addresses

PATH = Path("/etc/anubis/anubis.conf")


def config(*addresses: str) -> Config:
    """Return the configuration of a host with these addresses."""
    text = "".join(f"Address = {address}\n" for address in addresses)
    return parse_config(f"[Production]\n{text}".encode(), PATH)


def found(of: Config, *taken: str) -> list[str]:
    """Return what is free while these networks are somebody's."""
    return [str(each) for each in free_addresses(of, map(ip_network, taken))]


@pytest.mark.parametrize(
    ("addresses", "taken", "free"),
    [
        (("10.9.0.1/24", "fd00:9::1/64"), (), ["10.9.0.2/32", "fd00:9::2/128"]),
        (("10.9.0.9/24",), (), ["10.9.0.1/32"]),
        (("fd00:9::1/64",), ("10.9.0.2",), ["fd00:9::2/128"]),
        (("10.9.0.1/24", "fd00:9::1/64"), ("10.9.0.2",), ["10.9.0.3/32", "fd00:9::3/128"]),
        (("10.9.0.1/24", "fd00:9::1/64"), ("fd00:9::2/127",), ["10.9.0.4/32", "fd00:9::4/128"]),
        (("10.9.0.1/24",), ("10.9.0.0/28", "10.9.0.17"), ["10.9.0.16/32"]),
        (("10.9.0.1/24",), ("0.0.0.0/0", "::/0", "10.8.0.0/24"), ["10.9.0.2/32"]),
        (("10.9.0.1/32", "10.9.0.129/25", "10.8.0.1/24"), (), ["10.9.0.130/32"]),
        (("10.9.0.1/30",), (), ["10.9.0.2/32"]),
    ],
)
def test_the_lowest_that_nobody_has(
    addresses: tuple[str, ...], taken: tuple[str, ...], free: list[str]
) -> None:
    """The same number in both families; the first network of each; none in anybody's network."""
    assert found(config(*addresses), *taken) == free


@pytest.mark.parametrize(
    ("addresses", "taken", "told"),
    [
        ((), (), "Address = nothing has no network around it"),
        (("10.9.0.1/32", "fd00::1/128"), (), "Address = 10.9.0.1/32, fd00::1/128 has no network"),
        (("10.9.0.1/31",), (), "has no network around it"),
        (("10.9.0.1/30",), ("10.9.0.2",), "no address is free in 10.9.0.0/30"),
        (("10.9.0.1/30", "fd00::1/64"), ("fd00::2",), "no address is free in 10.9.0.0/30, fd00::"),
        (("10.9.0.1/24",), ("10.0.0.0/8",), "no address is free"),
    ],
)
def test_where_nothing_is_free_the_administrator_is_asked(
    addresses: tuple[str, ...], taken: tuple[str, ...], told: str
) -> None:
    """With what to write where."""
    with pytest.raises(ConfigError) as caught:
        found(config(*addresses), *taken)
    assert told in caught.value.message
    assert "give --allowed-ips" in caught.value.message
    assert caught.value.message.startswith(f"{PATH}: ")


@given(st.lists(st.integers(0, 31).flatmap(lambda at: st.integers(27, 32).map(lambda n: (at, n)))))
def test_it_is_what_counting_finds(taken: list[tuple[int, int]]) -> None:
    """In a small network, address by address."""
    networks = [ip_network((f"10.9.0.{at}", length), strict=False) for at, length in taken]
    hosts = ip_network("10.9.0.0/27").hosts()
    own = "10.9.0.7"
    free = [
        host for host in hosts if str(host) != own and not any(host in each for each in networks)
    ]
    try:
        (address,) = free_addresses(config(f"{own}/27"), networks)
        assert address.network_address == free[0]
    except ConfigError:
        assert not free
