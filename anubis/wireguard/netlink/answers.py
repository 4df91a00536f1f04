"""What the kernel says, decoded.

Owns the merging of peers that come in pieces; refuses to know how the pieces travelled. Every
function raises BackendError and nothing else, whatever the bytes.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from struct import Struct

from anubis.wireguard.drafts import PeerDraft
from anubis.wireguard.errors import BackendError, BackendUnavailable, backend_error
from anubis.wireguard.keys import KEY_SIZE, PublicKey
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
    Malformed,
    Message,
    MessageFlag,
    MessageType,
    PeerAttribute,
    attributes,
    messages,
)
from anubis.wireguard.types import Device, Endpoint, IPNetwork

__all__ = ["DeviceDump", "acknowledged", "family_number"]


def family_number(interface: str, sequence: int, datagram: bytes) -> int | None:
    """Read the answer to `family_request`; None if it is not in this datagram.

    Raises BackendUnavailable if the kernel has no WireGuard.
    """
    try:
        for message in messages(datagram):
            if message.sequence != sequence:
                continue
            number = _error(message)
            if number == errno.ENOENT:
                raise BackendUnavailable(
                    f"{interface}: this kernel has no WireGuard", interface, number
                )
            if number:
                raise backend_error(interface, number, "cannot ask the kernel for WireGuard")
            for kind, value in attributes(message.body):
                if kind == Control.ATTR_FAMILY_ID:
                    return _unpack(U16, value)
    except Malformed as error:
        raise _nonsense(interface, error) from None
    return None


def acknowledged(interface: str, sequence: int, datagram: bytes) -> bool:
    """Tell whether a change is acknowledged by this datagram. Raises BackendError if refused."""
    try:
        for message in messages(datagram):
            if message.sequence == sequence and message.type == MessageType.ERROR:
                if number := _error(message):
                    raise backend_error(interface, number, "cannot configure")
                return True
    except Malformed as error:
        raise _nonsense(interface, error) from None
    return False


class DeviceDump:
    """The answer to `device_request`, taken in datagram by datagram."""

    def __init__(self, interface: str, sequence: int) -> None:
        self._interface = interface
        self._sequence = sequence
        self._public_key: PublicKey | None = None
        self._listen_port = 0
        self._fwmark = 0
        self._peers: dict[bytes, PeerDraft] = {}
        self.interrupted = False  # the interface changed meanwhile: ask again

    def feed(self, datagram: bytes) -> bool:
        """Take a datagram in; True when it was the last. Raises BackendError."""
        try:
            for message in messages(datagram):
                if message.sequence != self._sequence:
                    continue
                if message.flags & MessageFlag.DUMP_INTR:
                    self.interrupted = True
                if message.type in (MessageType.DONE, MessageType.ERROR):
                    if number := _error(message):
                        raise backend_error(self._interface, number, "cannot read")
                    return True
                self._device(message.body)
        except Malformed as error:
            raise _nonsense(self._interface, error) from None
        return False

    def device(self) -> Device:
        """Return what was read."""
        return Device(
            name=self._interface,
            public_key=self._public_key,
            listen_port=self._listen_port,
            fwmark=self._fwmark,
            peers=tuple(draft.peer() for draft in self._peers.values()),
        )

    def _device(self, body: bytes) -> None:
        # The kernel tells root the private key too; it is passed over and never kept.
        for kind, value in attributes(body):
            match kind:
                case DeviceAttribute.PUBLIC_KEY:
                    self._public_key = PublicKey(_key(value)) if any(value) else None
                case DeviceAttribute.LISTEN_PORT:
                    self._listen_port = _unpack(U16, value)
                case DeviceAttribute.FWMARK:
                    self._fwmark = _unpack(U32, value)
                case DeviceAttribute.PEERS:
                    for _index, peer in attributes(value):
                        self._peer(peer)

    def _peer(self, body: bytes) -> None:
        """Take one record in: a peer, or more AllowedIPs of one that is known already."""
        fields = dict(attributes(body))
        key = _key(fields.get(PeerAttribute.PUBLIC_KEY, b""))
        if (draft := self._peers.get(key)) is None:
            draft = self._peers[key] = PeerDraft(PublicKey(key))
        if endpoint := fields.get(PeerAttribute.ENDPOINT):
            draft.endpoint = _endpoint(endpoint)
        if keepalive := fields.get(PeerAttribute.PERSISTENT_KEEPALIVE_INTERVAL):
            draft.persistent_keepalive = _unpack(U16, keepalive)
        if handshake := fields.get(PeerAttribute.LAST_HANDSHAKE_TIME):
            draft.handshake_seconds, draft.handshake_nanoseconds = _timespec(handshake)
        if rx_bytes := fields.get(PeerAttribute.RX_BYTES):
            draft.rx_bytes = _unpack(U64, rx_bytes)
        if tx_bytes := fields.get(PeerAttribute.TX_BYTES):
            draft.tx_bytes = _unpack(U64, tx_bytes)
        if networks := fields.get(PeerAttribute.ALLOWEDIPS):
            draft.allowed_ips.update(_network(network) for _index, network in attributes(networks))


def _nonsense(interface: str, error: Malformed) -> BackendError:
    return BackendError(f"{interface}: the kernel's answer is nonsense: {error}", interface)


def _error(message: Message) -> int:
    """Return the error number that a message carries, 0 for none."""
    if message.type not in (MessageType.ERROR, MessageType.DONE):
        return 0
    if len(message.body) < ERRNO.size:
        raise Malformed("an outcome without a number")
    return abs(int(ERRNO.unpack_from(message.body)[0]))


def _unpack(layout: Struct, value: bytes) -> int:
    if len(value) != layout.size:
        raise Malformed(f"{len(value)} bytes where {layout.size} belong")
    return int(layout.unpack(value)[0])


def _key(value: bytes) -> bytes:
    if len(value) != KEY_SIZE:
        raise Malformed(f"a key has {len(value)} bytes")
    return value


def _timespec(value: bytes) -> tuple[int, int]:
    if len(value) != TIMESPEC.size:
        raise Malformed(f"a time has {len(value)} bytes")
    seconds, nanoseconds = TIMESPEC.unpack(value)
    return seconds, nanoseconds


def _endpoint(value: bytes) -> Endpoint:
    # The kernel may pad either form, so the family decides and the rest is left.
    family = _unpack(U16, value[: U16.size])
    if family == socket.AF_INET and len(value) >= SOCKADDR_IN.size:
        _family, port, packed = SOCKADDR_IN.unpack_from(value)
        return Endpoint(IPv4Address(packed), int.from_bytes(port, "big"))
    if family == socket.AF_INET6 and len(value) >= SOCKADDR_IN6.size:
        _family, port, packed, scope = SOCKADDR_IN6.unpack_from(value)
        address = IPv6Address(packed)
        if scope:
            address = IPv6Address(f"{address}%{scope}")
        return Endpoint(address, int.from_bytes(port, "big"))
    raise Malformed("an endpoint of neither family")


def _network(body: bytes) -> IPNetwork:
    fields = dict(attributes(body))
    family = _unpack(U16, fields.get(AllowedIPAttribute.FAMILY, b""))
    prefix = _unpack(U8, fields.get(AllowedIPAttribute.CIDR_MASK, b""))
    packed = fields.get(AllowedIPAttribute.IPADDR, b"")
    if family == socket.AF_INET and len(packed) == 4 and prefix <= 32:
        return IPv4Network((packed, prefix), strict=False)
    if family == socket.AF_INET6 and len(packed) == 16 and prefix <= 128:
        return IPv6Network((packed, prefix), strict=False)
    raise Malformed("an allowed IP of neither family")
