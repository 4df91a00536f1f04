"""What the kernel answers about WireGuard (`anubis/wireguard/netlink/answers.py`).

Any datagrams are a device, a number or a confirmation, or a BackendError. What was read, written as
the kernel would, reads the same. The input's lengths may be mended first, so that what is inside of
messages and attributes is reached as well as their borders.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from anubis.wireguard.errors import BackendError
from anubis.wireguard.netlink.answers import DeviceDump, acknowledged, family_number
from anubis.wireguard.netlink.format import (
    ERRNO,
    SOCKADDR_IN,
    SOCKADDR_IN6,
    TIMESPEC,
    U8,
    U16,
    U32,
    U64,
    AllowedIPAttribute,
    Control,
    DeviceAttribute,
    Message,
    MessageFlag,
    MessageType,
    PeerAttribute,
    attribute,
    nest,
)
from anubis.wireguard.types import Device, Endpoint, IPNetwork, Peer
from tests.fuzz.tools import Input

RUNS = 25_000
MAX_LENGTH = 800
TOKENS: tuple[bytes, ...] = ()

_FAMILY, _SEQUENCE = 0x1C, 7
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
Nests = dict[int, Any]  # by type: what is nested in it, as another of these; 0 is any type

_NESTS: Nests = {DeviceAttribute.PEERS: {0: {PeerAttribute.ALLOWEDIPS: {0: {}}}}}
_TYPE = 0x3FFF


def run(data: bytes) -> None:
    """Read the input as the answers to each of the three questions."""
    given = Input(data)
    mends, split = given.number() % 2, given.number(2)
    answer = given.rest()
    if mends:
        answer = _mended(answer)
    for read in (acknowledged, family_number):
        try:
            read("wg0", _SEQUENCE, answer)
        except BackendError as error:
            assert str(error).startswith("wg0: "), error
    dump = DeviceDump("wg0", _SEQUENCE)
    try:
        dump.feed(answer[:split]) or dump.feed(answer[split:])
        device = dump.device()
    except BackendError as error:
        assert str(error).startswith("wg0: "), error
        return
    _check(device)


def _mended(data: bytes) -> bytes:
    """Return the datagram with lengths that fit, and this exchange's sequence number."""
    mended, offset = bytearray(data), 0
    while len(mended) - offset >= _HEADER.size:
        length, kind, flags, _, port = _HEADER.unpack_from(mended, offset)
        length = max(_HEADER.size, min(length, len(mended) - offset))
        _HEADER.pack_into(mended, offset, length, kind, flags, _SEQUENCE, port)
        if kind not in (MessageType.ERROR, MessageType.DONE):
            _mend_attributes(mended, offset + _HEADER.size + 4, offset + length, _NESTS)
        offset += length + -length % 4
    return bytes(mended[:offset]) if offset else data


def _mend_attributes(data: bytearray, begin: int, end: int, nests: Nests) -> None:
    while end - begin >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, begin)
        length = max(_ATTRIBUTE.size, min(length, end - begin))
        _ATTRIBUTE.pack_into(data, begin, length, kind)
        inner = nests.get(kind & _TYPE, nests.get(0))
        if inner is not None:
            _mend_attributes(data, begin + _ATTRIBUTE.size, begin + length, inner)
        begin += length + -length % 4


def _check(device: Device) -> None:
    assert len({peer.public_key for peer in device.peers}) == len(device.peers)
    dump = DeviceDump("wg0", _SEQUENCE)
    assert dump.feed(_written(device) + _end(0))
    assert dump.device() == replace(
        device, peers=tuple(replace(peer, last_handshake=0.0) for peer in device.peers)
    )


def _written(device: Device) -> bytes:
    parts = [
        attribute(DeviceAttribute.LISTEN_PORT, U16.pack(device.listen_port)),
        attribute(DeviceAttribute.FWMARK, U32.pack(device.fwmark)),
    ]
    if device.public_key is not None:
        parts.append(attribute(DeviceAttribute.PUBLIC_KEY, bytes(device.public_key)))
    messages = [parts, *([nest(DeviceAttribute.PEERS, [_peer(peer)])] for peer in device.peers)]
    return b"".join(_message(b"".join(message)) for message in messages)


def _message(body: bytes, flags: int = 0) -> bytes:
    return Message(_FAMILY, flags, _SEQUENCE, body, 0, 1).encode()


def _end(number: int, kind: int = MessageType.DONE) -> bytes:
    return _HEADER.pack(_HEADER.size + 4, kind, 0, _SEQUENCE, 0) + ERRNO.pack(number)


def _peer(peer: Peer) -> bytes:
    parts = [
        attribute(PeerAttribute.PUBLIC_KEY, bytes(peer.public_key)),
        attribute(PeerAttribute.PERSISTENT_KEEPALIVE_INTERVAL, U16.pack(peer.persistent_keepalive)),
        attribute(PeerAttribute.RX_BYTES, U64.pack(peer.rx_bytes)),
        attribute(PeerAttribute.TX_BYTES, U64.pack(peer.tx_bytes)),
        nest(PeerAttribute.ALLOWEDIPS, [_network(network) for network in peer.allowed_ips]),
    ]
    if peer.endpoint is not None:
        parts.append(attribute(PeerAttribute.ENDPOINT, _endpoint(peer.endpoint)))
    return nest(0, parts)


def _endpoint(endpoint: Endpoint) -> bytes:
    address, port = endpoint.address, endpoint.port.to_bytes(2)
    if address.version == 4:
        return SOCKADDR_IN.pack(2, port, address.packed)
    return SOCKADDR_IN6.pack(10, port, address.packed, int(address.scope_id or 0))


def _network(network: IPNetwork) -> bytes:
    family = 2 if network.version == 4 else 10
    return nest(
        0,
        [
            attribute(AllowedIPAttribute.FAMILY, U16.pack(family)),
            attribute(AllowedIPAttribute.IPADDR, network.network_address.packed),
            attribute(AllowedIPAttribute.CIDR_MASK, U8.pack(network.prefixlen)),
        ],
    )


def seeds() -> Iterator[bytes]:
    """Give a dump of two peers, one in two parts, and every other kind of message."""
    key, other = bytes([1] * 32), bytes([2] * 32)
    v6 = nest(0, [attribute(1, U16.pack(10)), attribute(2, bytes(16)), attribute(3, b"\x40")])
    v4 = nest(0, [attribute(1, U16.pack(2)), attribute(2, b"\x0a\0\0\0"), attribute(3, b"\x08")])
    one = nest(0, [
        attribute(PeerAttribute.PUBLIC_KEY, key), attribute(PeerAttribute.PRESHARED_KEY, other),
        attribute(PeerAttribute.ENDPOINT, SOCKADDR_IN.pack(2, b"\x10\xc8", b"\xc0\0\2\1")),
        attribute(PeerAttribute.PERSISTENT_KEEPALIVE_INTERVAL, U16.pack(25)),
        attribute(PeerAttribute.LAST_HANDSHAKE_TIME, TIMESPEC.pack(1_700_000_000, 5)),
        attribute(PeerAttribute.RX_BYTES, U64.pack(1)),
        attribute(PeerAttribute.TX_BYTES, U64.pack(2)),
        nest(PeerAttribute.ALLOWEDIPS, [v6, v4]),
    ])  # fmt: skip
    scoped = SOCKADDR_IN6.pack(10, b"\x10\xc8", b"\xfe\x80" + bytes(14), 3)
    two = nest(0, [attribute(1, other), attribute(PeerAttribute.ENDPOINT, scoped)])
    more = nest(0, [attribute(1, key), nest(PeerAttribute.ALLOWEDIPS, [v4])])
    head = b"".join((
        attribute(DeviceAttribute.IFNAME, b"wg0\0"), attribute(DeviceAttribute.PRIVATE_KEY, key),
        attribute(DeviceAttribute.PUBLIC_KEY, key),
        attribute(DeviceAttribute.FWMARK, U32.pack(214)),
        attribute(DeviceAttribute.LISTEN_PORT, U16.pack(4296)),
    ))  # fmt: skip
    first = _message(head + nest(DeviceAttribute.PEERS, [one, two]))
    second = _message(nest(DeviceAttribute.PEERS, [more]), MessageFlag.DUMP_INTR)
    family = Message(
        Control.FAMILY, 0, _SEQUENCE, attribute(Control.ATTR_FAMILY_ID, U16.pack(_FAMILY)), 1, 2
    ).encode()
    for mends in (b"\0", b"\1"):
        yield mends + len(first).to_bytes(2) + first + second + _end(0)
        yield mends + b"\0\0" + family
        for number in (0, -1, -2, -19, -(1 << 31)):
            yield mends + b"\0\0" + _end(number, MessageType.ERROR)
            yield mends + b"\0\0" + _end(number)
