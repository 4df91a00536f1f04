"""Questions and changes, encoded for the kernel.

Owns how a change is cut into messages; refuses to know how they travel.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from anubis.wireguard.netlink.format import (
    SOCKADDR_IN,
    SOCKADDR_IN6,
    U8,
    U16,
    U32,
    AllowedIPAttribute,
    Control,
    DeviceAttribute,
    Message,
    MessageFlag,
    PeerAttribute,
    PeerFlag,
    WireGuard,
    attribute,
    nest,
)
from anubis.wireguard.types import DeviceChange, Endpoint, IPNetwork, PeerChange

__all__ = ["change_requests", "device_request", "family_request", "scope_number"]

# An attribute's length has 16 bits, so a nest of peers stays below 65,536 bytes. A peer takes at
# most 124 bytes and 36 for each of its AllowedIPs; the records of one peer are cut at 1,000.
_NEST_LIMIT = 60_000  # bytes
_ALLOWED_IPS_IN_RECORD = 1_000


def family_request(sequence: int) -> bytes:
    """Ask for the number under which this kernel speaks WireGuard."""
    return Message(
        type=Control.FAMILY,
        flags=MessageFlag.REQUEST,
        sequence=sequence,
        body=attribute(Control.ATTR_FAMILY_NAME, b"wireguard\0"),
        command=Control.GETFAMILY,
        version=Control.VERSION,
    ).encode()


def device_request(family: int, sequence: int, interface: str) -> bytes:
    """Ask for an interface with all its peers."""
    return Message(
        type=family,
        flags=MessageFlag.REQUEST | MessageFlag.DUMP,
        sequence=sequence,
        body=_name(interface),
        command=WireGuard.GET_DEVICE,
        version=WireGuard.VERSION,
    ).encode()


def change_requests(
    family: int, sequence: int, interface: str, change: DeviceChange
) -> Iterator[bytes]:
    """Encode a change in the fewest messages that hold it, numbered upwards from `sequence`.

    Each is to be acknowledged before the next is sent.
    """
    head = _name(interface) + b"".join(_device_attributes(change))
    for number, batch in enumerate(_batches(change.peers), sequence):
        yield Message(
            type=family,
            flags=MessageFlag.REQUEST | MessageFlag.ACK,
            sequence=number,
            body=head + (nest(DeviceAttribute.PEERS, batch) if batch else b""),
            command=WireGuard.SET_DEVICE,
            version=WireGuard.VERSION,
        ).encode()
        # A second REPLACE_PEERS would undo the first batch.
        head = _name(interface)


def _name(interface: str) -> bytes:
    return attribute(DeviceAttribute.IFNAME, interface.encode() + b"\0")


def _device_attributes(change: DeviceChange) -> Iterator[bytes]:
    if change.replace_peers:
        yield attribute(DeviceAttribute.FLAGS, U32.pack(WireGuard.REPLACE_PEERS))
    if change.private_key is not None:
        yield attribute(DeviceAttribute.PRIVATE_KEY, bytes(change.private_key))
    if change.listen_port is not None:
        yield attribute(DeviceAttribute.LISTEN_PORT, U16.pack(change.listen_port))
    if change.fwmark is not None:
        yield attribute(DeviceAttribute.FWMARK, U32.pack(change.fwmark))


def _batches(changes: Iterable[PeerChange]) -> Iterator[list[bytes]]:
    """Gather the peers' records below the limit of a nest; at least one batch, maybe empty."""
    batch: list[bytes] = []
    size = 0
    for change in changes:
        for record in _peer_records(change):
            if size + len(record) > _NEST_LIMIT:
                yield batch
                batch, size = [], 0
            batch.append(record)
            size += len(record)
    yield batch


def _peer_records(change: PeerChange) -> Iterator[bytes]:
    """Encode one peer; many AllowedIPs become several records, which the kernel adds up."""
    key = attribute(PeerAttribute.PUBLIC_KEY, bytes(change.public_key))
    if change.remove or change.replace:
        yield nest(0, [key, _flags(PeerFlag.REMOVE_ME)])
    if change.remove:
        return
    flags = PeerFlag.UPDATE_ONLY if change.update_only else PeerFlag(0)
    replace = PeerFlag(0) if change.allowed_ips is None else PeerFlag.REPLACE_ALLOWEDIPS
    networks = list(change.allowed_ips or ())
    pieces = [
        networks[start : start + _ALLOWED_IPS_IN_RECORD]
        for start in range(0, len(networks), _ALLOWED_IPS_IN_RECORD)
    ] or [[]]
    yield nest(
        0, [key, _flags(flags | replace), *_peer_attributes(change), *_allowed_ips(pieces[0])]
    )
    for piece in pieces[1:]:
        yield nest(0, [key, _flags(flags), *_allowed_ips(piece)])


def _flags(flags: PeerFlag) -> bytes:
    return attribute(PeerAttribute.FLAGS, U32.pack(flags))


def _peer_attributes(change: PeerChange) -> Iterator[bytes]:
    if change.preshared_key is not None:
        yield attribute(PeerAttribute.PRESHARED_KEY, bytes(change.preshared_key))
    if change.endpoint is not None:
        yield attribute(PeerAttribute.ENDPOINT, _socket_address(change.endpoint))
    if change.persistent_keepalive is not None:
        seconds = U16.pack(change.persistent_keepalive)
        yield attribute(PeerAttribute.PERSISTENT_KEEPALIVE_INTERVAL, seconds)


def _allowed_ips(networks: list[IPNetwork]) -> Iterator[bytes]:
    if networks:
        yield nest(PeerAttribute.ALLOWEDIPS, [_allowed_ip(network) for network in networks])


def _allowed_ip(network: IPNetwork) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return nest(
        0,
        [
            attribute(AllowedIPAttribute.FAMILY, U16.pack(family)),
            attribute(AllowedIPAttribute.IPADDR, network.network_address.packed),
            attribute(AllowedIPAttribute.CIDR_MASK, U8.pack(network.prefixlen)),
        ],
    )


def _socket_address(endpoint: Endpoint) -> bytes:
    port = endpoint.port.to_bytes(2, "big")
    address = endpoint.address
    if isinstance(address, IPv4Address):
        return SOCKADDR_IN.pack(socket.AF_INET, port, address.packed)
    return SOCKADDR_IN6.pack(socket.AF_INET6, port, address.packed, scope_number(address))


def scope_number(address: IPv6Address) -> int:
    """Return the interface index that an address's zone means, or 0. Raises OSError."""
    zone = address.scope_id or "0"
    return int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
