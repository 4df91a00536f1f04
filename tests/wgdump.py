"""What wg(8) says of an interface: the oracle beside our own readers."""

from __future__ import annotations

import ipaddress
import subprocess
from dataclasses import dataclass

from anubis.wireguard.keys import PublicKey
from anubis.wireguard.types import Device, Endpoint, Peer

__all__ = ["Dump", "wg_show_dump"]


@dataclass(frozen=True)
class Dump:
    """`wg show IF dump`, with the secrets apart from the device."""

    device: Device
    private_key: str
    preshared_keys: dict[PublicKey, str]


def wg_show_dump(interface: str) -> Dump:
    """Run `wg show IF dump` in the namespace where this thread is."""
    done = subprocess.run(
        ["wg", "show", interface, "dump"], capture_output=True, text=True, check=True, timeout=60
    )
    first, *rest = (line.split("\t") for line in done.stdout.splitlines())
    private_key, public_key, listen_port, fwmark = first
    device = Device(
        name=interface,
        public_key=None if public_key == "(none)" else PublicKey.from_base64(public_key),
        listen_port=int(listen_port),
        fwmark=0 if fwmark == "off" else int(fwmark, 0),
        peers=tuple(_peer(fields) for fields in rest),
    )
    preshared = {
        PublicKey.from_base64(fields[0]): fields[1] for fields in rest if fields[1] != "(none)"
    }
    return Dump(device, private_key, preshared)


def _peer(fields: list[str]) -> Peer:
    public_key, _preshared_key, endpoint, allowed_ips, handshake, rx, tx, keepalive = fields
    return Peer(
        public_key=PublicKey.from_base64(public_key),
        endpoint=None if endpoint == "(none)" else _endpoint(endpoint),
        allowed_ips=frozenset(
            ipaddress.ip_network(network)
            for network in allowed_ips.split(",")
            if network != "(none)"
        ),
        persistent_keepalive=0 if keepalive == "off" else int(keepalive),
        last_handshake=float(handshake),
        rx_bytes=int(rx),
        tx_bytes=int(tx),
    )


def _endpoint(text: str) -> Endpoint:
    host, _colon, port = text.rpartition(":")
    return Endpoint(ipaddress.ip_address(host.strip("[]")), int(port))
