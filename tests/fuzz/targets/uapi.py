"""What another program answers on WireGuard's control socket (`anubis/wireguard/uapi.py`).

Any bytes are a device, or a BackendError whose text quotes no key. What was read, written in the
same format, reads the same, but for the time of the handshake, which became a float.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from anubis.wireguard.errors import BackendError
from anubis.wireguard.types import Device, Peer
from anubis.wireguard.uapi import check_answer, parse_device
from tests.fuzz.tools import assert_no_secret

RUNS = 20_000
MAX_LENGTH = 1200
TOKENS = (
    b"private_key=", b"public_key=", b"preshared_key=", b"listen_port=", b"fwmark=", b"endpoint=",
    b"persistent_keepalive_interval=", b"allowed_ip=", b"rx_bytes=", b"tx_bytes=", b"errno=",
    b"last_handshake_time_sec=", b"last_handshake_time_nsec=", b"protocol_version=1", b"\n\n",
    b"errno=0\n\n", b"00" * 32, b"[fe80::1%3]:1", b"/128", b"18446744073709551615",
)  # fmt: skip

_ONE = "5ba1a2e65d2e4f3f8c1a4f3c2a6f9c0d1e2f3a4b5c6d7e8f9a0b1c2d3e4f5061"


def run(data: bytes) -> None:
    """Read the input as the answer to `get=1` and as that to `set=1`."""
    try:
        check_answer("wg0", data)
    except BackendError as error:
        assert_no_secret(str(error))
    try:
        device = parse_device("wg0", data)
    except BackendError as error:
        assert_no_secret(str(error))
        return
    check_answer("wg0", data)
    assert 0 <= device.listen_port < 1 << 16
    assert 0 <= device.fwmark < 1 << 32
    assert len({peer.public_key for peer in device.peers}) == len(device.peers)
    again = parse_device("wg0", _written(device))
    assert again.peers == tuple(replace(peer, last_handshake=0.0) for peer in device.peers)


def _written(device: Device) -> bytes:
    lines = [f"listen_port={device.listen_port}", f"fwmark={device.fwmark}"]
    for peer in device.peers:
        lines += _peer_lines(peer)
    return "\n".join([*lines, "errno=0", "", ""]).encode()


def _peer_lines(peer: Peer) -> Iterator[str]:
    yield f"public_key={bytes(peer.public_key).hex()}"
    if peer.endpoint is not None:
        yield f"endpoint={peer.endpoint}"
    yield f"persistent_keepalive_interval={peer.persistent_keepalive}"
    yield f"rx_bytes={peer.rx_bytes}"
    yield f"tx_bytes={peer.tx_bytes}"
    yield from (f"allowed_ip={network}" for network in peer.allowed_ips)


def seeds() -> Iterator[bytes]:
    """Give the example of the protocol's page, and answers that break off or fail."""
    peer = (
        f"public_key={_ONE}\npreshared_key={'11' * 32}\nallowed_ip=192.168.4.4/32\n"
        "endpoint=[2607:5300:60:6b0::c05f:543]:51820\nlast_handshake_time_sec=1700000000\n"
        "last_handshake_time_nsec=5\nrx_bytes=1\ntx_bytes=2\npersistent_keepalive_interval=25\n"
    )
    head = f"private_key={'e8' * 32}\nlisten_port=12912\nfwmark=214\n"
    other = peer.replace(_ONE, "22" * 32).replace("[2607:5300:60:6b0::c05f:543]", "192.0.2.1")
    yield from (text.encode() for text in (
        head + peer + other + peer + "errno=0\n\n", head + peer, "errno=-98\n\n", "errno=1\n\n",
        f"private_key={'00' * 32}\nerrno=0\n\n", "listen_port=65536\nerrno=0\n\n", "x\n\n",
        head + "unknown=1\n" + peer + "protocol_version=1\nerrno=0\n\n", "errno=\u0660\n\n",
    ))  # fmt: skip
