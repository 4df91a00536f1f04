"""A phone's configuration tells which key is whose, or what is wrong with it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.addresses import control_addresses
from anubis.errors import ConfigError
from anubis.files.tunnel import Gateway, load_tunnel, parse_tunnel
from anubis.wireguard.keys import PrivateKey

PATH = Path("house.conf")
PHONE, CONTROL, PRODUCTION = (PrivateKey(bytes([number] * 32)) for number in (1, 2, 3))
ADDRESS = control_addresses(CONTROL.public_key()).routable


def text(control: str = "# Name = jacinth", production: str = "# Name = jacinth") -> str:
    """Return a configuration with these comments on its two peers."""
    return f"""\
[Interface]
PrivateKey = {PHONE.base64()}
Address = 10.66.0.11/32, fd66::11/128
DNS = 192.168.7.1
PostUp = echo "a = b"

[Peer]
{control}
PublicKey = {CONTROL.public_key()}
AllowedIPs = {ADDRESS}/128
Endpoint = house.example.org:4297

[Peer]
{production}
PublicKey = {PRODUCTION.public_key()}
AllowedIPs = 192.168.7.0/24, 0.0.0.0/0, ::/0
Endpoint = house.example.org:4296
PersistentKeepalive = 25
"""


def test_the_two_peers_of_a_gateway_are_found() -> None:
    """The control plane by its address, its production interface by the name of both."""
    tunnel = parse_tunnel(text().encode(), PATH)
    assert tunnel.gateways == (Gateway("jacinth", PRODUCTION.public_key(), ADDRESS),)
    assert tunnel.private_key == PHONE
    assert tunnel.control == control_addresses(PHONE.public_key()).routable
    assert "hidden" in repr(tunnel)


def test_without_names_the_file_is_the_name() -> None:
    """Where there is but one gateway nobody needs to say whose the peers are."""
    tunnel = parse_tunnel(text("", "").encode(), PATH)
    assert [gateway.name for gateway in tunnel.gateways] == ["house"]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (text("# Name = jacinth", "# Name = surya"), "0 production peers belong to this control"),
        (text().replace(str(ADDRESS), "fd61:6e75:6269:7300::1"), "is not the control address of"),
        (text().replace(f"{ADDRESS}/128", "10.0.0.1/32"), "no peer is a control plane of Anubis"),
        (text().replace(PHONE.base64(), "x"), "PrivateKey = (not shown)"),
        (text().replace("PrivateKey", "# "), "no [Interface] with a PrivateKey"),
        (text().replace("PublicKey", "# "), "this [Peer] has no PublicKey"),
        (text().replace("192.168.7.0/24", "house"), "not a network"),
        ("", "no [Interface] with a PrivateKey"),
    ],
)
def test_what_is_wrong_is_told(written: str, told: str) -> None:
    """With its line, and never with the private key."""
    with pytest.raises(ConfigError) as caught:
        parse_tunnel(written.encode(), PATH)
    assert told in caught.value.message
    assert PHONE.base64() not in caught.value.message


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """It holds a private key."""
    path = tmp_path / "house.conf"
    path.write_text(text())
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read the private key in it"):
        load_tunnel(path)
    path.chmod(0o600)
    assert load_tunnel(path).gateways[0].name == "jacinth"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_tunnel(tmp_path / "none.conf")


@given(st.data())
def test_any_bytes_are_a_tunnel_or_an_error(data: st.DataObject) -> None:
    """Cut, changed and doubled lines raise nothing else."""
    lines = text().encode().split(b"\n")
    noise = st.one_of(st.binary(max_size=40), st.sampled_from(lines))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines)))
        lines[at : at + data.draw(st.integers(0, 2))] = data.draw(st.lists(noise, max_size=2))
    with suppress(ConfigError):
        parse_tunnel(b"\n".join(lines), PATH)
