"""What is wrong on a WireGuard interface is found, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path

from anubis.daemon.faults import control_faults, own_faults, production_faults
from anubis.daemon.interface import Settings
from anubis.daemon.road import resident
from anubis.errors import Location
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.network.changes import Mended
from anubis.wireguard.keys import PrivateKey, PublicKey
from anubis.wireguard.types import Device, Endpoint, Peer, PeerChange

KEY = PrivateKey(bytes(range(32)))
SETTINGS = Settings(KEY, 4297, 0xD6, ())
ENDPOINT = Endpoint(IPv4Address("192.0.2.1"), 4296)
STRANGER = PublicKey(bytes([99] * 32))


def entry(name: str, number: int, allowed: str) -> AuthorizedPeer:
    """Return an entry with keys of its own."""
    return AuthorizedPeer(
        name=name,
        public_key=PublicKey(bytes([number] * 32)),
        control_public_key=PublicKey(bytes([number + 1] * 32)),
        preshared_key=None,
        allowed_ips=frozenset({ip_network(allowed)}),
        endpoint=None,
        control_endpoint=None,
        persistent_keepalive=15,
        lease_seconds=None,
        max_lease_seconds=None,
        may=frozenset(),
        group=None,
        location=Location(Path("authorized_peers"), 1),
    )


JACINTH = entry("jacinth", 10, "192.168.7.0/24")
SURYA = entry("surya", 20, "192.168.7.0/24")
BOTH = {"jacinth": JACINTH, "surya": SURYA}
DEVICE = Device("wg0", KEY.public_key(), 4297, 0xD6)
FOREIGN = Peer(STRANGER, ENDPOINT, frozenset({ip_network("10.0.0.0/8")}))


def always(_what: str) -> bool:
    """Allow everything."""
    return True


def on_device(*peers: Peer) -> Device:
    """Return the device with these peers."""
    return replace(DEVICE, peers=peers)


def there(one: AuthorizedPeer, *allowed: str) -> Peer:
    """Return the production peer of an entry with these networks."""
    return Peer(one.public_key, ENDPOINT, frozenset(map(ip_network, allowed)))


def test_own_settings_are_set_again_whichever_was_changed() -> None:
    """Key, port and mark; what may not be put right now is left."""
    assert own_faults(DEVICE, SETTINGS, always).settings is None
    changed = replace(DEVICE, public_key=STRANGER, listen_port=1, fwmark=0)
    faults = own_faults(changed, SETTINGS, always)
    assert [one.what for one in faults.mended] == [
        "private key of wg0",
        "port of wg0",
        "fwmark of wg0",
    ]
    assert faults.change().private_key is KEY
    assert (faults.change().listen_port, faults.change().fwmark) == (4297, 0xD6)
    assert own_faults(changed, SETTINGS, lambda _: False).settings is None


def test_control_peers_are_exactly_those_of_the_file() -> None:
    """Missing, changed and foreign ones are put right; right ones are not touched."""
    right = Peer(JACINTH.control_public_key, ENDPOINT, frozenset(JACINTH.control.networks()))
    wide = Peer(SURYA.control_public_key, ENDPOINT, frozenset({ip_network("::/0")}))
    peers = (JACINTH, SURYA)
    assert control_faults(on_device(right), [JACINTH], resident, always).mended == []
    assert control_faults(on_device(right), peers, resident, always).mended == [
        Mended("peer surya of wg0", "vanished")
    ]
    faults = control_faults(on_device(right, wide, FOREIGN), peers, resident, always)
    assert faults.mended == [
        Mended("peer surya of wg0", "changed"),
        Mended(f"peer {STRANGER} of wg0", "appeared"),
    ]
    assert faults.change().peers == (resident(SURYA), PeerChange(STRANGER, remove=True))


def test_a_removed_production_peer_comes_back_where_it_was_last_seen() -> None:
    """With its keepalive; a peer of somebody else's is not looked at."""
    faults = production_faults(
        on_device(FOREIGN), {"jacinth": JACINTH}, {JACINTH.public_key: ENDPOINT}, always
    )
    assert faults.mended == [Mended("peer jacinth of wg0", "vanished")]
    assert faults.peers == [
        PeerChange(
            JACINTH.public_key,
            endpoint=ENDPOINT,
            persistent_keepalive=15,
            allowed_ips=JACINTH.allowed_ips,
        )
    ]


def test_networks_that_a_stranger_took_are_taken_back() -> None:
    """Those that he added go; the endpoint, which may have moved, stays as it is."""
    thief = Peer(STRANGER, ENDPOINT, JACINTH.allowed_ips)
    for device in (
        on_device(there(JACINTH), thief),
        on_device(there(JACINTH, "192.168.7.0/24", "10.0.0.0/8")),
    ):
        faults = production_faults(device, {"jacinth": JACINTH}, {}, always)
        assert faults.mended == [Mended("AllowedIPs of jacinth on wg0", "changed")]
        assert faults.peers == [PeerChange(JACINTH.public_key, allowed_ips=JACINTH.allowed_ips)]


def test_a_switch_under_way_is_no_theft() -> None:
    """Networks that another connection of ours has already are its own."""
    device = on_device(there(JACINTH), there(SURYA, "192.168.7.0/24"))
    assert production_faults(device, BOTH, {}, always).mended == []
