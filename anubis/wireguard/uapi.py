"""The cross-platform userspace protocol of WireGuard, as text; no sockets.

Owns the request and answer formats of https://www.wireguard.com/xplatform/: lines of `key=value`
ended by a blank line, keys in hexadecimal, the outcome as `errno=`. Refuses to know where the
other side listens. Secrets in an answer are dropped as they are read.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_network

from anubis.wireguard.drafts import PeerDraft
from anubis.wireguard.errors import BackendError, KeyFormatError, backend_error
from anubis.wireguard.keys import KEY_SIZE, PrivateKey, PublicKey
from anubis.wireguard.types import Device, DeviceChange, Endpoint, IPNetwork, PeerChange

__all__ = [
    "ANSWER_END",
    "ANSWER_SIZE",
    "GET_REQUEST",
    "check_answer",
    "parse_device",
    "set_request",
]

ANSWER_END = b"\n\n"
ANSWER_SIZE = 64 << 20  # bytes; 65,536 peers, wireguard-go's limit, take about 25 MiB
GET_REQUEST = b"get=1\n\n"
_NETWORKS = 4096  # remembered as they were read


class _Nonsense(Exception):
    """An answer that breaks the format; the text says how, without quoting possible secrets."""


def set_request(change: DeviceChange) -> bytes:
    """Encode a change as one `set=1` operation."""
    lines = ["set=1", *_device_lines(change)]
    for peer in change.peers:
        lines += _peer_lines(peer)
    return "\n".join([*lines, "", ""]).encode("ascii")


def _device_lines(change: DeviceChange) -> Iterator[str]:
    if change.private_key is not None:
        yield f"private_key={bytes(change.private_key).hex()}"
    if change.listen_port is not None:
        yield f"listen_port={change.listen_port}"
    if change.fwmark is not None:
        yield f"fwmark={change.fwmark}"
    if change.replace_peers:
        yield "replace_peers=true"


def _peer_lines(change: PeerChange) -> Iterator[str]:
    name = f"public_key={bytes(change.public_key).hex()}"
    yield name
    if change.remove or change.replace:
        yield "remove=true"
    if change.remove:
        return
    if change.replace:
        # Each public_key line begins a peer, so this one is made anew.
        yield name
    if change.update_only:
        yield "update_only=true"
    if change.preshared_key is not None:
        yield f"preshared_key={bytes(change.preshared_key).hex()}"
    if change.endpoint is not None:
        yield f"endpoint={change.endpoint}"
    if change.persistent_keepalive is not None:
        yield f"persistent_keepalive_interval={change.persistent_keepalive}"
    if change.allowed_ips is not None:
        yield "replace_allowed_ips=true"
        # Sorted, so that the same change is always the same request.
        yield from sorted(f"allowed_ip={network}" for network in change.allowed_ips)


def check_answer(interface: str, answer: bytes) -> None:
    """Check the answer to `set=1`, up to and with its blank line.

    Raises BackendError, with the number that the other side gave.
    """
    _fields(interface, answer, "cannot configure")


def parse_device(interface: str, answer: bytes) -> Device:
    """Read the answer to `get=1`, up to and with its blank line. Raises BackendError."""
    draft = _DeviceDraft()
    try:
        for key, value in _fields(interface, answer, "cannot read"):
            draft.line(key, value)
    except _Nonsense as error:
        raise _nonsense(interface, str(error)) from None
    return Device(
        name=interface,
        public_key=draft.public_key,
        listen_port=draft.listen_port,
        fwmark=draft.fwmark,
        peers=tuple(peer.peer() for peer in draft.peers.values()),
    )


def _nonsense(interface: str, reason: str) -> BackendError:
    return BackendError(f"{interface}: its control socket answered nonsense: {reason}", interface)


def _fields(interface: str, answer: bytes, doing: str) -> list[tuple[str, str]]:
    """Split an answer into its fields without `errno`; raise BackendError unless that is 0."""
    if len(answer) > ANSWER_SIZE:
        raise _nonsense(interface, f"more than {ANSWER_SIZE} bytes")
    if not answer.endswith(ANSWER_END):
        raise _nonsense(interface, "it ended in the middle")
    if not answer.isascii():
        raise _nonsense(interface, "not ASCII")
    fields = []
    outcome: int | None = None
    for line in answer[: -len(ANSWER_END)].decode("ascii").split("\n"):
        key, equals, value = line.partition("=")
        if not equals:
            raise _nonsense(interface, "a line is not key=value")
        if key == "errno":
            # The protocol's text has it positive, wireguard-go sends it negative.
            outcome = _outcome(interface, value.removeprefix("-"))
        else:
            fields.append((key, value))
    if outcome is None:
        raise _nonsense(interface, "no errno")
    if outcome:
        raise backend_error(interface, outcome, doing)
    return fields


def _outcome(interface: str, text: str) -> int:
    try:
        return _number(text, 32)
    except _Nonsense:
        raise _nonsense(interface, "errno is not a number") from None


@dataclass(slots=True)
class _DeviceDraft:
    """What was read so far; a `public_key` line begins a peer."""

    public_key: PublicKey | None = None
    listen_port: int = 0
    fwmark: int = 0
    peers: dict[PublicKey, PeerDraft] = field(default_factory=dict)
    current: PeerDraft | None = None

    def line(self, key: str, value: str) -> None:
        """Take one line in; unknown keys are for those who know them."""
        if key == "public_key":
            public_key = PublicKey(_key(value))
            self.current = self.peers.setdefault(public_key, PeerDraft(public_key))
        elif self.current is not None:
            _peer_field(self.current, key, value)
        elif key == "private_key":
            self.public_key = _public_key(value)
        elif key == "listen_port":
            self.listen_port = _number(value, 16)
        elif key == "fwmark":
            self.fwmark = _number(value, 32)


def _peer_field(draft: PeerDraft, key: str, value: str) -> None:
    match key:
        case "endpoint":
            draft.endpoint = _endpoint(value)
        case "persistent_keepalive_interval":
            draft.persistent_keepalive = _number(value, 16)
        case "last_handshake_time_sec":
            draft.handshake_seconds = _number(value, 63)
        case "last_handshake_time_nsec":
            draft.handshake_nanoseconds = _number(value, 32)
        case "rx_bytes":
            draft.rx_bytes = _number(value, 64)
        case "tx_bytes":
            draft.tx_bytes = _number(value, 64)
        case "allowed_ip":
            try:
                draft.allowed_ips.add(_network(value))
            except ValueError:
                raise _Nonsense("allowed_ip is not a network") from None


@lru_cache(_NETWORKS)
def _network(text: str) -> IPNetwork:
    """Read a network: half of the work of reading an interface, and the same ones each time."""
    return ip_network(text, strict=False)


def _number(text: str, bits: int) -> int:
    """Read a decimal; int() alone also takes signs, spaces, underscores and foreign digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20) or int(text) >> bits:
        raise _Nonsense(f"not a number of {bits} bits")
    return int(text)


def _key(text: str) -> bytes:
    # bytes.fromhex would skip spaces.
    try:
        raw = binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        raise _Nonsense("a key is not hexadecimal") from None
    if len(raw) != KEY_SIZE:
        raise _Nonsense(f"a key has {len(raw)} bytes")
    return raw


def _public_key(private_key: str) -> PublicKey | None:
    """Compute whose interface it is; the private key goes no further than this."""
    raw = _key(private_key)
    try:
        return PrivateKey(raw).public_key() if any(raw) else None
    except KeyFormatError:
        raise _Nonsense("the private key is none") from None


def _endpoint(text: str) -> Endpoint:
    host, colon, port = text.rpartition(":")
    if not colon:
        raise _Nonsense("an endpoint without a port")
    try:
        if host.startswith("[") and host.endswith("]"):
            return Endpoint(IPv6Address(host[1:-1]), _number(port, 16))
        return Endpoint(IPv4Address(host), _number(port, 16))
    except AddressValueError:
        raise _Nonsense("an endpoint without an address") from None
