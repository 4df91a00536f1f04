"""The authorized-peers file (`anubis/files/authorized_peers.py` and all that it is made of).

Any bytes are a table of peers, or a ConfigError with a place for every problem and no preshared
key in it. In a table that was read, names, keys and control addresses are unique, no network lies
in one of a peer of another group, every entry is found by what it has, and the same entries
written plainly read the same.
"""

from __future__ import annotations

import base64
import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from anubis.durations import format_duration
from anubis.errors import ConfigError, Location
from anubis.files.authorized_peers import AuthorizedPeer, AuthorizedPeers, parse_authorized_peers
from anubis.files.keyfile import GuardedFile
from anubis.files.peer_checks import OwnKeys
from anubis.files.peer_stanza import GRAMMAR
from anubis.files.reservation import Reservation
from anubis.files.times import format_time
from tests.fuzz.tools import assert_problems_have_places, uncommented
from tests.vectors.world import HOUSE, LAPTOP, PHONE, STRANGER

RUNS = 10_000
MAX_LENGTH = 1_300
TOKENS = (
    *(f"{key.name} = ".encode() for section in GRAMMAR.sections for key in section.keys),
    b"[Peer]\n", b"[Invitation]\n", b"yes", b"no", b"2027-01-31T18:00Z", b"00ff" * 4,
    b"none", b"up", b"status", b"::/0", b"0.0.0.0/0", b"/32", b"[::1]:1", b"off",
    b"fd61:6e75:6269:7300::1/128", b"8h", b"0s", b"25", b"#", b"\n", b"=", b",",
    *(str(host.public_key).encode() for host in (HOUSE, LAPTOP, PHONE, STRANGER)),
)  # fmt: skip

_PATH = Path("/etc/anubis/authorized_peers")
_EXAMPLE = Path(__file__).parents[3] / "etc" / "authorized_peers"
_OWN = OwnKeys(HOUSE.public_key, HOUSE.control_public)
_PRESHARED = re.compile(rb"(?im)^[ \t]*PresharedKey[ \t]*=[ \t]*([A-Za-z0-9+/]{43}=)[ \t]*$")
_PUBLIC = re.compile(rb"(?i)PublicKey\s*=\s*([A-Za-z0-9+/]{43}=)")
_NOWHERE = Location(_PATH)


def run(data: bytes) -> None:
    """Read the input as the whole file; a `!` in front makes it one that others can read."""
    private = not data.startswith(b"!")
    text = data.removeprefix(b"!")
    try:
        peers = _read(text, private=private)
    except ConfigError as error:
        assert_problems_have_places(error, text)
        # What the file itself gives as a public key may be named as one.
        for secret in set(_PRESHARED.findall(text)) - set(_PUBLIC.findall(text)):
            assert secret.decode() not in str(error), "a preshared key is shown"
        return
    assert private or not any(peer.preshared_key for peer in peers)
    _check_table(peers)
    written = [*map(_written, peers), *map(_written_invitation, peers.reserved)]
    again = _read("".join(written).encode(), private=True)
    assert [_placeless(peer) for peer in again] == [_placeless(peer) for peer in peers]
    # Where they stand is no part of what is compared.
    assert again.reserved == peers.reserved
    now = 1.8e9
    assert list(again.in_force(now)) == [
        peer
        for peer in again
        if peer.enabled and (peer.expires is None or peer.expires.timestamp() > now)
    ]


def _read(text: bytes, *, private: bool) -> AuthorizedPeers:
    return parse_authorized_peers([GuardedFile(_PATH, text, private=private)], own=_OWN)


def _placeless(peer: AuthorizedPeer) -> AuthorizedPeer:
    return replace(peer, location=_NOWHERE)


def _check_table(peers: AuthorizedPeers) -> None:
    keys = [key for p in peers for key in {p.public_key, p.control_public_key}]
    assert len(keys) == len(set(keys))
    assert not {_OWN.production, _OWN.control} & set(keys)
    for peer in peers:
        assert peers.by_name(peer.name.upper()) is peer
        assert peers.by_public_key(peer.public_key) is peer
        for address in (peer.control.routable, peer.control.link_local):
            assert peers.by_control_address(address) is peer
        for lease in (peer.lease_seconds, peer.max_lease_seconds):
            assert lease is None or lease > 0
        if peer.approve is not None:
            assert peers.by_name(peer.approve) not in {None, peer}
    for kept, peer in itertools.product(peers.reserved, peers):
        assert kept.name != peer.name
        _check_apart(kept, peer)
    for one, other in itertools.combinations(peers, 2):
        if one.group is None or one.group != other.group:
            _check_apart(one, other)


def _check_apart(one: AuthorizedPeer | Reservation, other: AuthorizedPeer) -> None:
    """See by brute force that no network of one lies in one of the other."""
    for a, b in itertools.product(one.allowed_ips, other.allowed_ips):
        if a.version == b.version and (a.prefixlen == 0) == (b.prefixlen == 0):
            assert not a.overlaps(b), (a, b)


def _written(peer: AuthorizedPeer) -> str:
    """Write every value in its plainest form."""
    lines = [
        "[Peer]",
        f"Name = {peer.name}",
        f"PublicKey = {peer.public_key}",
        f"ControlPublicKey = {peer.control_public_key}",
        *(f"AllowedIPs = {network}" for network in peer.allowed_ips),
        f"PersistentKeepalive = {peer.persistent_keepalive}",
        f"May = {', '.join(sorted(peer.may)) or 'none'}",
    ]
    psk, lease, max_lease = peer.preshared_key, peer.lease_seconds, peer.max_lease_seconds
    idle = format_duration(peer.idle_timeout) if peer.idle_timeout else "off"
    others = {
        "PresharedKey": psk and base64.b64encode(bytes(psk)).decode(),
        "Endpoint": peer.endpoint,
        "ControlEndpoint": peer.control_endpoint,
        "Lease": lease and format_duration(lease),
        "MaxLease": max_lease and format_duration(max_lease),
        "IdleTimeout": None if peer.idle_timeout is None else idle,
        "Group": peer.group,
        "Hours": peer.hours,
        "Expires": peer.expires and format_time(peer.expires),
        "Approve": peer.approve,
        "PostUp": shlex.join(peer.post_up) or None,
        "PreDown": shlex.join(peer.pre_down) or None,
    }
    lines += [f"{key} = {value}" for key, value in others.items() if value is not None]
    lines.append(f"OneShot = {'yes' if peer.one_shot else 'no'}")
    lines.append(f"Enabled = {'yes' if peer.enabled else 'no'}")
    return "\n".join([*lines, "", ""])


def _written_invitation(kept: Reservation) -> str:
    networks = ", ".join(map(str, kept.allowed_ips))
    return (
        f"[Invitation]\nName = {kept.name}\nAllowedIPs = {networks}\nNumber = {kept.number}\n"
        f"Expires = {format_time(kept.expires)}\n"
    )


def seeds() -> Iterator[bytes]:
    """Give the example without its prose, and stanzas in order and in disorder."""
    yield uncommented(_EXAMPLE.read_bytes())
    one = f"[Peer]\nName = One\nPublicKey = {LAPTOP.public_key}\nAllowedIPs = 10.0.0.0/8\n"
    two = f"[peer]\nname=two\npublickey={PHONE.public_key}\nallowedips=10.1.0.0/16, fd00::/8\n"
    kept = (
        "[Invitation]\nName = three\nAllowedIPs = 192.0.2.1\nNumber = 00ff00ff00ff00ff\n"
        "Expires = 2027-01-31T18:00Z\n"
    )
    rest = (
        "OneShot = yes\nEnabled = no\nExpires = 2027-01-31\n"
        "Hours = Mon-Fri 08:00-18:00, 22:00-06:00\n"
        "Endpoint = [2001:db8::1]:4296\nControlEndpoint = example.org:4297\nLease = 1h\n"
        "MaxLease = 1d\nMay = up, down\nPersistentKeepalive = 25\nGroup = home\n"
        "PresharedKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=\n"
    )
    control = f"ControlPublicKey = {STRANGER.public_key}\n"
    yield from ((one + line).encode() for line in rest.splitlines(keepends=True))
    yield from (text.encode() for text in (
        one + rest + control, one + two, one + "Group = a\n" + two + "Group = a\n",
        one + "Approve = TWO\n" + two + "Approve = one\n", one + "Approve = One\n",
        one + kept, kept + "Group = a\n", kept.replace("192.0.2.1", "10.0.0.0/7") + one,
        "!" + one + rest, one + one, one + f"ControlPublicKey = {HOUSE.public_key}\n",
        two + "May = none, up\n", one + "Hours = Sat-Mon 00:00-24:00\nHours = Moo 8-18\n",
        one + "Expires = 9999-12-31T23:59:59Z\n", one + "Expires = 2027-02-30\n",
        "[Peer]\nName\nAllowedIPs = 0.0.0.0/0, ::/0, 10.1.2.3/33\nEndpoint = 10.0.0.1:0\n",
        two.replace("10.1.0.0/16", "0.0.0.0/0") + one.replace("10.0.0.0/8", "0.0.0.0/0"),
    ))  # fmt: skip
