"""The kernel's WireGuard messages, encoded and decoded without a kernel."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.wireguard.errors import (
    BackendError,
    BackendPermissionDenied,
    BackendUnavailable,
    DeviceNotFound,
)
from anubis.wireguard.keys import PresharedKey, PrivateKey, PublicKey
from anubis.wireguard.netlink import answers, requests, transport
from anubis.wireguard.netlink.format import (
    DeviceAttribute,
    Message,
    MessageFlag,
    MessageType,
    PeerAttribute,
    PeerFlag,
    attribute,
    attributes,
    messages,
    nest,
)
from anubis.wireguard.types import Device, DeviceChange, Endpoint, Peer, PeerChange

FAMILY, SEQUENCE = 0x1C, 7
ONE, TWO = PublicKey(bytes([1] * 32)), PublicKey(bytes([2] * 32))


def answer(*attributes: bytes, flags: int = 0) -> bytes:
    """Make a message of the kernel's."""
    return Message(FAMILY, flags, SEQUENCE, b"".join(attributes), 0, 1).encode()


def outcome(kind: MessageType, number: int, sequence: int = SEQUENCE) -> bytes:
    """Make the end of an exchange."""
    return struct.pack("=IHHIIi", 20, kind, 0, sequence, 0, number)


def peer(key: PublicKey, *parts: bytes) -> bytes:
    """Make a peer's record."""
    return nest(0, [attribute(PeerAttribute.PUBLIC_KEY, bytes(key)), *parts])


def peers(*records: bytes) -> bytes:
    """Make the nest of peers."""
    return nest(DeviceAttribute.PEERS, records)


def allowed_ips(*networks: str) -> bytes:
    """Encode AllowedIPs by hand, from linux/wireguard.h."""
    records = b""
    for text in networks:
        network = ip_network(text)
        family = {4: 2, 6: 10}[network.version]
        body = struct.pack("=HHHH", 6, 1, family, 0)
        packed = network.network_address.packed
        body += struct.pack("=HH", 4 + len(packed), 2) + packed
        body += struct.pack("=HHBBBB", 5, 3, network.prefixlen, 0, 0, 0)
        records += struct.pack("=HH", 4 + len(body), 0x8000) + body
    return struct.pack("=HH", 4 + len(records), 9 | 0x8000) + records


def read(*datagrams: bytes) -> Device:
    """Decode a dump."""
    dump = answers.DeviceDump("wg0", SEQUENCE)
    *before, last = datagrams
    assert [dump.feed(datagram) for datagram in before] == [False] * len(before)
    assert dump.feed(last)
    assert not dump.interrupted
    return dump.device()


def test_a_request_is_exactly_this() -> None:
    """The bytes of a small change, written out from the kernel's headers."""
    change = DeviceChange(
        listen_port=4296,
        peers=(
            PeerChange(
                ONE,
                endpoint=Endpoint(ip_address("192.0.2.1"), 0x1234),
                allowed_ips=frozenset({ip_network("10.0.0.0/8")}),
            ),
        ),
    )
    (request,) = requests.change_requests(FAMILY, SEQUENCE, "wg0", change)
    record = b"".join(
        [
            struct.pack("=HH", 36, 1) + bytes([1] * 32),
            struct.pack("=HHI", 8, 3, 2),  # WGPEER_F_REPLACE_ALLOWEDIPS
            struct.pack("=HHH", 20, 4, 2) + b"\x12\x34" + bytes([192, 0, 2, 1]) + bytes(8),
            allowed_ips("10.0.0.0/8"),
        ]
    )
    record = struct.pack("=HH", 4 + len(record), 0x8000) + record
    body = b"".join(
        [
            struct.pack("=BBH", 1, 1, 0),
            struct.pack("=HH", 8, 2) + b"wg0\0",
            struct.pack("=HHHH", 6, 6, 4296, 0),
            struct.pack("=HH", 4 + len(record), 8 | 0x8000) + record,
        ]
    )
    assert request == struct.pack("=IHHII", 16 + len(body), FAMILY, 5, SEQUENCE, 0) + body


def test_an_ipv6_endpoint_keeps_its_zone() -> None:
    """The zone of a link-local endpoint travels as the scope id, both ways."""
    endpoint = Endpoint(ip_address("fe80::1%3"), 4296)
    change = DeviceChange(peers=(PeerChange(ONE, endpoint=endpoint),))
    (record,) = decode_changes(change)[0][1]
    raw = record[PeerAttribute.ENDPOINT]
    assert raw == struct.pack("=H2s4x16sI", 10, b"\x10\xc8", endpoint.address.packed, 3)
    device = read(
        answer(peers(peer(ONE, attribute(PeerAttribute.ENDPOINT, raw)))),
        outcome(MessageType.DONE, 0),
    )
    assert device.peers == (Peer(ONE, endpoint),)


def decode_changes(change: DeviceChange) -> list[tuple[dict[int, bytes], list[dict[int, bytes]]]]:
    """Take requests apart: the interface's attributes, and those of each record."""
    found = []
    for request in requests.change_requests(FAMILY, SEQUENCE, "wg0", change):
        (message,) = messages(request)
        device = dict(attributes(message.body))
        records = attributes(device.pop(DeviceAttribute.PEERS, b""))
        found.append((device, [dict(attributes(record)) for _index, record in records]))
    return found


def flags_of(record: dict[int, bytes]) -> PeerFlag:
    """Read the flags of a record."""
    return PeerFlag(int.from_bytes(record[PeerAttribute.FLAGS], "little"))


def test_many_peers_are_cut_into_batches() -> None:
    """All peers go in order, no attribute outgrows 16 bits, and the interface's part goes once."""
    keys = [PublicKey(number.to_bytes(32, "big")) for number in range(3000)]
    change = DeviceChange(
        private_key=PrivateKey(bytes([3] * 32)),
        replace_peers=True,
        peers=tuple(PeerChange(key, preshared_key=PresharedKey(bytes(32))) for key in keys),
    )
    sent = decode_changes(change)
    assert 4 <= len(sent) <= 6
    assert [record[PeerAttribute.PUBLIC_KEY] for _device, batch in sent for record in batch] == [
        bytes(key) for key in keys
    ]
    assert set(sent[0][0]) == {
        DeviceAttribute.IFNAME,
        DeviceAttribute.FLAGS,
        DeviceAttribute.PRIVATE_KEY,
    }
    assert [set(device) for device, _batch in sent[1:]] == [{DeviceAttribute.IFNAME}] * (
        len(sent) - 1
    )


def test_one_peer_of_many_networks_is_cut() -> None:
    """The AllowedIPs are replaced in the first record only; `update_only` is in all of them."""
    networks = {IPv4Network((0x0A000000 + number, 32)) for number in range(5000)}
    change = PeerChange(
        ONE, update_only=True, persistent_keepalive=25, allowed_ips=frozenset(networks)
    )
    records = [r for _device, batch in decode_changes(DeviceChange(peers=(change,))) for r in batch]
    assert [flags_of(record) for record in records] == [
        PeerFlag.UPDATE_ONLY | PeerFlag.REPLACE_ALLOWEDIPS,
        *[PeerFlag.UPDATE_ONLY] * 4,
    ]
    assert [PeerAttribute.PERSISTENT_KEEPALIVE_INTERVAL in record for record in records] == [
        True,
        *[False] * 4,
    ]
    device = read(
        *(
            answer(
                peers(peer(ONE, attribute(PeerAttribute.ALLOWEDIPS, r[PeerAttribute.ALLOWEDIPS])))
            )
            for r in records
        ),
        outcome(MessageType.DONE, 0),
    )
    assert device.peers == (Peer(ONE, allowed_ips=frozenset(networks)),)


def test_replacing_is_one_message() -> None:
    """Nobody can see the peer missing: removal and addition go together."""
    change = PeerChange(ONE, replace=True, allowed_ips=frozenset())
    ((_device, (removal, addition)),) = decode_changes(DeviceChange(peers=(change,)))
    assert flags_of(removal) == PeerFlag.REMOVE_ME
    assert flags_of(addition) == PeerFlag.REPLACE_ALLOWEDIPS
    assert removal[PeerAttribute.PUBLIC_KEY] == addition[PeerAttribute.PUBLIC_KEY] == bytes(ONE)


def test_a_dump_is_read() -> None:
    """All fields arrive, and the secrets among them are dropped."""
    secret = bytes([0x5C] * 32)
    device = read(
        answer(
            attribute(1, struct.pack("=I", 5)),
            attribute(DeviceAttribute.IFNAME, b"wg0\0"),
            attribute(DeviceAttribute.PRIVATE_KEY, secret),
            attribute(DeviceAttribute.PUBLIC_KEY, bytes(TWO)),
            attribute(DeviceAttribute.LISTEN_PORT, struct.pack("=H", 4296)),
            attribute(DeviceAttribute.FWMARK, struct.pack("=I", 0xCAFE)),
            peers(
                peer(
                    ONE,
                    attribute(PeerAttribute.PRESHARED_KEY, secret),
                    attribute(
                        PeerAttribute.ENDPOINT,
                        struct.pack("=H", 2) + b"\x10\xc8" + bytes([192, 0, 2, 1]) + bytes(8),
                    ),
                    attribute(5, struct.pack("=H", 25)),
                    attribute(6, struct.pack("=qq", 1700000000, 500000000)),
                    attribute(7, struct.pack("=Q", 1 << 40)),
                    attribute(8, struct.pack("=Q", 3)),
                    attribute(99, b"of next year"),
                    allowed_ips("192.0.2.0/24", "fd00::/64"),
                )
            ),
        )
        + outcome(MessageType.DONE, 0)
    )
    networks = frozenset({ip_network("192.0.2.0/24"), ip_network("fd00::/64")})
    endpoint = Endpoint(ip_address("192.0.2.1"), 4296)
    assert device == Device(
        "wg0", TWO, 4296, 0xCAFE, (Peer(ONE, endpoint, networks, 25, 1700000000.5, 1 << 40, 3),)
    )
    assert PrivateKey(secret).base64() not in repr(device)


def test_split_peers_are_merged() -> None:
    """A peer that goes on in the next message is one peer with all its AllowedIPs."""
    device = read(
        answer(
            attribute(DeviceAttribute.LISTEN_PORT, struct.pack("=H", 1)),
            peers(peer(TWO), peer(ONE, attribute(5, struct.pack("=H", 25)), allowed_ips("::/0"))),
        ),
        answer(peers(peer(ONE, allowed_ips("10.0.0.0/8")))),
        answer(peers(peer(ONE, allowed_ips("10.0.0.0/9")))),
        outcome(MessageType.DONE, 0),
    )
    networks = frozenset(map(ip_network, ("::/0", "10.0.0.0/8", "10.0.0.0/9")))
    assert device.peers == (Peer(TWO), Peer(ONE, None, networks, 25))
    assert device.listen_port == 1


def test_what_belongs_to_another_request_is_passed_over() -> None:
    """Only messages of this sequence number count."""
    stale = Message(FAMILY, 0, SEQUENCE - 1, peers(peer(TWO)), 0, 1).encode()
    dump = answers.DeviceDump("wg0", SEQUENCE)
    assert not dump.feed(stale + outcome(MessageType.DONE, 0, SEQUENCE - 1))
    assert dump.device().peers == ()
    assert not answers.acknowledged("wg0", SEQUENCE, outcome(MessageType.ERROR, 0, SEQUENCE - 1))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (-errno.ENODEV, DeviceNotFound),
        (-errno.EPERM, BackendPermissionDenied),
        (-errno.EADDRINUSE, BackendError),
    ],
)
def test_errors_are_mapped(number: int, kind: type[BackendError]) -> None:
    """The kernel's number becomes the class that says what to do, and is kept."""
    dump = answers.DeviceDump("wg0", SEQUENCE)
    for end in (MessageType.DONE, MessageType.ERROR):
        with pytest.raises(kind, match="wg0") as caught:
            dump.feed(outcome(end, number))
        assert (type(caught.value), caught.value.errno) == (kind, -number)
    with pytest.raises(kind):
        answers.acknowledged("wg0", SEQUENCE, outcome(MessageType.ERROR, number))
    assert answers.acknowledged("wg0", SEQUENCE, outcome(MessageType.ERROR, 0))


def test_a_kernel_without_wireguard() -> None:
    """ENOENT for the family's name means that the kernel has no WireGuard."""
    with pytest.raises(BackendUnavailable, match="wg0: this kernel has no WireGuard"):
        answers.family_number("wg0", SEQUENCE, outcome(MessageType.ERROR, -errno.ENOENT))
    found = Message(0x10, 0, SEQUENCE, attribute(1, struct.pack("=H", FAMILY)), 1, 2).encode()
    assert answers.family_number("wg0", SEQUENCE, found) == FAMILY


class FakeKernel:
    """A netlink socket that answers every dump, and calls the first few interrupted."""

    def __init__(self, interruptions: int) -> None:
        self.left = interruptions
        self.dumps = 0
        self.answers: Iterator[bytes] = iter(())

    def send(self, request: bytes) -> None:
        (message,) = messages(request)
        if message.type == 0x10:
            number = attribute(1, struct.pack("=H", FAMILY))
            datagrams = [Message(0x10, 0, message.sequence, number, 1, 2).encode()]
        else:
            self.dumps += 1
            key = PublicKey(self.dumps.to_bytes(32, "big"))
            flags = MessageFlag.DUMP_INTR if self.left else 0
            self.left = max(0, self.left - 1)
            body = Message(FAMILY, flags, message.sequence, peers(peer(key)), 0, 1).encode()
            datagrams = [body, outcome(MessageType.DONE, 0, message.sequence)]
        self.answers = iter(datagrams)

    def recv(self, size: int) -> bytes:
        return next(self.answers)

    def settimeout(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


def test_an_interrupted_dump_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read from an interrupted dump is thrown away."""
    kernel = FakeKernel(2)
    monkeypatch.setattr(
        "anubis.wireguard.netlink.transport.socket.socket", lambda *_arguments: kernel
    )
    assert transport.read_device("wg0").peers == (Peer(PublicKey((3).to_bytes(32, "big"))),)
    assert kernel.dumps == 3


def test_endless_interruption_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bounded number of attempts there is an error that says why."""
    kernel = FakeKernel(1000)
    monkeypatch.setattr(
        "anubis.wireguard.netlink.transport.socket.socket", lambda *_arguments: kernel
    )
    with pytest.raises(BackendError, match="wg0: it changed during each of 10 attempts"):
        transport.read_device("wg0")
    assert kernel.dumps == 10


def test_a_silent_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receive that times out ends the call."""

    class Silent(FakeKernel):
        def recv(self, size: int) -> bytes:
            raise TimeoutError("timed out")

    monkeypatch.setattr(
        "anubis.wireguard.netlink.transport.socket.socket", lambda *_arguments: Silent(0)
    )
    with pytest.raises(BackendError) as caught:
        transport.read_device("wg0")
    assert caught.value.errno == errno.ETIMEDOUT


_WHOLE = answer(
    attribute(DeviceAttribute.PUBLIC_KEY, bytes(TWO)),
    peers(
        peer(
            ONE,
            attribute(PeerAttribute.ENDPOINT, struct.pack("=H", 10) + bytes(26)),
            attribute(6, bytes(16)),
            allowed_ips("::/0", "10.0.0.0/8"),
        )
    ),
)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.tuples(st.integers(0, len(_WHOLE) - 1), st.integers(0, 255)), max_size=4).map(
            lambda changes: mutated(_WHOLE, changes)
        ),
        st.integers(0, len(_WHOLE)).map(lambda size: _WHOLE[:size]),
        st.binary(max_size=100).map(lambda body: answer(peers(nest(0, [body])))),
    )
)
def test_no_bytes_surprise(datagram: bytes) -> None:
    """Whatever the datagram, there is a result or a BackendError."""
    for take in (
        answers.DeviceDump("wg0", SEQUENCE).feed,
        lambda data: answers.acknowledged("wg0", SEQUENCE, data),
        lambda data: answers.family_number("wg0", SEQUENCE, data),
    ):
        try:
            take(datagram)
        except BackendError as error:
            assert error.interface == "wg0"  # noqa: PT017  any other class is the failure


def mutated(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    """Overwrite some bytes."""
    copy = bytearray(data)
    for position, value in changes:
        copy[position] = value
    return bytes(copy)
