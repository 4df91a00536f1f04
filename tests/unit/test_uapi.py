"""The userspace protocol, byte by byte."""

from __future__ import annotations

import errno
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anubis.wireguard import uapi
from anubis.wireguard.errors import BackendError, BackendPermissionDenied, WireGuardError
from anubis.wireguard.keys import PresharedKey, PrivateKey, PublicKey
from anubis.wireguard.types import Device, DeviceChange, Endpoint, Peer, PeerChange

ONE, TWO = PublicKey(bytes([1] * 32)), PublicKey(bytes([0xAB] * 32))
ONE_HEX, TWO_HEX = "01" * 32, "ab" * 32
SECRET_HEX = "5c" * 32

ANSWER = (
    f"private_key={SECRET_HEX}\n"
    "listen_port=4296\n"
    "fwmark=51966\n"
    f"public_key={ONE_HEX}\n"
    f"preshared_key={SECRET_HEX}\n"
    "protocol_version=1\n"
    "endpoint=[2001:db8::1]:4297\n"
    "last_handshake_time_sec=1700000000\n"
    "last_handshake_time_nsec=500000000\n"
    "tx_bytes=38333\n"
    "rx_bytes=18446744073709551615\n"
    "persistent_keepalive_interval=25\n"
    "allowed_ip=192.0.2.0/24\n"
    "allowed_ip=fd00::/64\n"
    "a_key_of_next_year=whatever\n"
    f"public_key={TWO_HEX}\n"
    "endpoint=192.0.2.1:51820\n"
    "errno=0\n"
    "\n"
)


def test_a_request_is_exactly_this() -> None:
    """Keys in hexadecimal, IPv6 endpoints in brackets, AllowedIPs replaced, a blank line."""
    change = DeviceChange(
        private_key=PrivateKey(bytes.fromhex(SECRET_HEX)),
        listen_port=4296,
        fwmark=0xCAFE,
        replace_peers=True,
        peers=(
            PeerChange(
                ONE,
                preshared_key=PresharedKey(bytes.fromhex(SECRET_HEX)),
                endpoint=Endpoint(ip_address("2001:db8::1"), 4297),
                persistent_keepalive=25,
                allowed_ips=frozenset({ip_network("192.0.2.0/24"), ip_network("fd00::/64")}),
            ),
            PeerChange(
                TWO,
                update_only=True,
                endpoint=Endpoint(ip_address("192.0.2.1"), 51820),
                allowed_ips=frozenset(),
            ),
        ),
    )
    assert uapi.set_request(change).decode() == (
        "set=1\n"
        f"private_key={SECRET_HEX}\n"
        "listen_port=4296\n"
        "fwmark=51966\n"
        "replace_peers=true\n"
        f"public_key={ONE_HEX}\n"
        f"preshared_key={SECRET_HEX}\n"
        "endpoint=[2001:db8::1]:4297\n"
        "persistent_keepalive_interval=25\n"
        "replace_allowed_ips=true\n"
        "allowed_ip=192.0.2.0/24\n"
        "allowed_ip=fd00::/64\n"
        f"public_key={TWO_HEX}\n"
        "update_only=true\n"
        "endpoint=192.0.2.1:51820\n"
        "replace_allowed_ips=true\n"
        "\n"
    )


def test_a_change_of_nothing_says_nothing() -> None:
    """What is None is not in the request."""
    assert uapi.set_request(DeviceChange()) == b"set=1\n\n"
    request = uapi.set_request(DeviceChange(peers=(PeerChange(ONE),)))
    assert request.decode() == f"set=1\npublic_key={ONE_HEX}\n\n"


def test_removal_and_replacement() -> None:
    """A removed peer is named and removed; a replaced one is so too, and then named again."""
    endpoint = Endpoint(ip_address("192.0.2.1"), 1)
    change = DeviceChange(
        peers=(
            PeerChange(ONE, remove=True, endpoint=endpoint),
            PeerChange(TWO, replace=True, endpoint=endpoint),
        )
    )
    assert uapi.set_request(change).decode() == (
        "set=1\n"
        f"public_key={ONE_HEX}\n"
        "remove=true\n"
        f"public_key={TWO_HEX}\n"
        "remove=true\n"
        f"public_key={TWO_HEX}\n"
        "endpoint=192.0.2.1:1\n"
        "\n"
    )


def test_zeros_are_sent() -> None:
    """0 takes a thing away and is not mistaken for None."""
    change = DeviceChange(listen_port=0, fwmark=0, peers=(PeerChange(ONE, persistent_keepalive=0),))
    assert uapi.set_request(change).decode() == (
        f"set=1\nlisten_port=0\nfwmark=0\npublic_key={ONE_HEX}\npersistent_keepalive_interval=0\n\n"
    )


def test_an_answer_is_read() -> None:
    """All fields arrive, unknown ones are ignored."""
    assert uapi.parse_device("wg0", ANSWER.encode()) == Device(
        name="wg0",
        public_key=PrivateKey(bytes.fromhex(SECRET_HEX)).public_key(),
        listen_port=4296,
        fwmark=51966,
        peers=(
            Peer(
                ONE,
                Endpoint(ip_address("2001:db8::1"), 4297),
                frozenset({ip_network("192.0.2.0/24"), ip_network("fd00::/64")}),
                25,
                1700000000.5,
                18446744073709551615,
                38333,
            ),
            Peer(TWO, Endpoint(ip_address("192.0.2.1"), 51820)),
        ),
    )


def test_secrets_are_not_kept() -> None:
    """Neither the private nor a preshared key is found in what was read."""
    device = uapi.parse_device("wg0", ANSWER.encode())
    secret = bytes.fromhex(SECRET_HEX)
    assert SECRET_HEX not in repr(device)
    assert PrivateKey(secret).base64() not in repr(device)
    assert device.public_key is not None
    assert secret not in {bytes(device.public_key), *(bytes(p.public_key) for p in device.peers)}


def test_an_interface_without_a_key() -> None:
    """A missing private key and one of zeros are both none."""
    assert uapi.parse_device("wg0", b"listen_port=1\nerrno=0\n\n").public_key is None
    answer = f"private_key={'00' * 32}\nerrno=0\n\n"
    assert uapi.parse_device("wg0", answer.encode()).public_key is None


@pytest.mark.parametrize("number", ["98", "-98"])
def test_errors_have_either_sign(number: str) -> None:
    """Errors are errno values, negative from some programs; the message has the words for it."""
    with pytest.raises(BackendError, match="wg0: cannot configure: Address already in use") as e:
        uapi.check_answer("wg0", f"errno={number}\n\n".encode())
    assert (e.value.errno, e.value.interface) == (errno.EADDRINUSE, "wg0")
    with pytest.raises(BackendPermissionDenied):
        uapi.parse_device("wg0", b"listen_port=1\nerrno=-1\n\n")


def test_success() -> None:
    """errno=0 is success."""
    uapi.check_answer("wg0", b"errno=0\n\n")
    uapi.check_answer("wg0", b"errno=-0\n\n")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "in the middle"),
        ("errno=0", "in the middle"),
        ("errno=0\n", "in the middle"),
        (ANSWER[:200], "in the middle"),
        ("listen_port=1\n\n", "no errno"),
        ("errno=zero\n\n", "not a number"),
        ("errno=\n\n", "not a number"),
        ("errno\n\n", "not key=value"),
        ("errno=0\n\nerrno=0\n\n", "not key=value"),
        ("listen_port=65536\nerrno=0\n\n", "16 bits"),
        ("listen_port=+1\nerrno=0\n\n", "16 bits"),
        ("listen_port=1_0\nerrno=0\n\n", "16 bits"),
        ("fwmark=-1\nerrno=0\n\n", "32 bits"),
        ("public_key=00\nerrno=0\n\n", "1 bytes"),
        (f"public_key={'zz' * 32}\nerrno=0\n\n", "hexadecimal"),
        (f"public_key={'01 ' * 32}\nerrno=0\n\n", "hexadecimal"),
        (f"public_key={ONE_HEX}\nendpoint=2001:db8::1:1\nerrno=0\n\n", "address"),
        (f"public_key={ONE_HEX}\nendpoint=jacinth:1\nerrno=0\n\n", "address"),
        (f"public_key={ONE_HEX}\nendpoint=192.0.2.1\nerrno=0\n\n", "port"),
        (f"public_key={ONE_HEX}\nallowed_ip=192.0.2.0/33\nerrno=0\n\n", "network"),
    ],
)
def test_nonsense_is_refused(answer: str, reason: str) -> None:
    """Every broken answer is a BackendError with the reason, and never quotes what it read."""
    with pytest.raises(BackendError, match=reason):
        uapi.parse_device("wg0", answer.encode())


def test_the_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer beyond ANSWER_SIZE is refused."""
    monkeypatch.setattr(uapi, "ANSWER_SIZE", len(ANSWER))
    uapi.parse_device("wg0", ANSWER.encode())
    monkeypatch.setattr(uapi, "ANSWER_SIZE", len(ANSWER) - 1)
    with pytest.raises(BackendError, match="more than"):
        uapi.parse_device("wg0", ANSWER.encode())


_KEYS = sorted({line.partition("=")[0] for line in ANSWER.splitlines() if line})
_VALUES = st.one_of(
    st.text(max_size=80), st.sampled_from(sorted(set(ANSWER.replace("=", "\n").split("\n"))))
)
_LINES = st.builds(lambda key, value: f"{key}={value}", st.sampled_from(_KEYS), _VALUES)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(_LINES, max_size=20).map(
            lambda lines: "\n".join(lines).encode() + b"\nerrno=0\n\n"
        ),
    )
)
@example(f"public_key={ONE_HEX}\nendpoint=[fe80::1%]:1\nerrno=0\n\n".encode())
@example(b"errno=99999999999999999999\n\n")
@example(b"errno=4294967295\n\n")
def test_no_bytes_surprise(answer: bytes) -> None:
    """Whatever the answer, there is a device or a WireGuardError."""
    for read in (uapi.parse_device, uapi.check_answer):
        try:
            read("wg0", answer)
        except WireGuardError as error:
            assert str(error).startswith("wg0: ")  # noqa: PT017  any other class is the failure
