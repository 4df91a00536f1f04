"""Invitations and answers to them (`anubis/files/invitation.py`, `proofs.py`).

Any bytes are one, or a ConfigError with words for every problem. What an invitation says of its
gateway is one plain entry of a laptop's authorized peers, whatever else was in the text; its
addresses are single hosts. An answer written again reads the same, and proves nothing to a gateway
that did not invite.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path

from anubis.errors import ConfigError
from anubis.files.authorized_peers import parse_authorized_peers
from anubis.files.invitation import (
    Answer,
    Invitation,
    answer_text,
    gateway_stanza,
    parse_answer,
    parse_invitation,
)
from anubis.files.keyfile import GuardedFile
from anubis.files.peer_checks import OwnKeys
from anubis.files.proofs import is_proven, proof
from tests.vectors.world import HOUSE, LAPTOP, PHONE, STRANGER

RUNS = 20_000
MAX_LENGTH = 800
_CODE = "abcdefghijklmnopqrstuvwx"
_NAMES = ("Name", "Address", "Code", "Expires", "PublicKey", "ControlPublicKey", "AllowedIPs",
          "Endpoint", "ControlEndpoint", "Proof")  # fmt: skip
TOKENS = (
    b"[Invitation]\n", b"[Peer]\n", b"[Answer]\n", *(f"{name} = ".encode() for name in _NAMES),
    b"2027-01-31T18:00Z", b"10.9.0.3/32", b"::/0", b"[::1]:1", b"#", b"\n", b"=", b",",
    _CODE.encode(), *(str(each.public_key).encode() for each in (HOUSE, LAPTOP)),
)  # fmt: skip

_PATH = Path("/tmp/invitation")
_HOUSE = OwnKeys(HOUSE.public_key, HOUSE.control_public)


def run(data: bytes) -> None:
    """Read the input as either."""
    with _refused():
        _check_invitation(parse_invitation(data, _PATH))
    with _refused():
        _check_answer(parse_answer(data, _PATH))


@contextmanager
def _refused() -> Iterator[None]:
    """See that what is refused is refused in words."""
    try:
        yield
    except ConfigError as error:
        assert error.problems
        assert all(str(problem).isprintable() for problem in error.problems)


def _check_invitation(found: Invitation) -> None:
    assert found.addresses
    for address in found.addresses:
        assert ip_interface(str(address)).network.num_addresses == 1
    stanza = gateway_stanza(found.gateway).encode()
    (entry,) = parse_authorized_peers([GuardedFile(_PATH, stanza, private=False)])
    assert entry.enabled
    assert not entry.one_shot
    assert entry.preshared_key is None
    assert (entry.public_key, entry.allowed_ips) == (
        found.gateway.public_key,
        found.gateway.allowed_ips,
    )


def _check_answer(found: Answer) -> None:
    text = answer_text(found.name, found.keys, found.proof)
    assert parse_answer(text.encode(), _PATH) == found
    assert not is_proven(found.proof, "z" * 24, found.name, found.keys, _HOUSE)


def seeds() -> Iterator[bytes]:
    """Give one of each, and some of them in disorder."""
    invitation = f"""\
# jacinth invites xena
[Invitation]
Name = xena
Address = 10.9.0.3/32, fd00:9::3
Code = {_CODE}
Expires = 2027-01-31T18:00Z

[Peer]
Name = jacinth
PublicKey = {HOUSE.public_key}
ControlPublicKey = {HOUSE.control_public}
AllowedIPs = 10.9.0.1/32, 192.168.7.0/24
Endpoint = house.example.org:4296
ControlEndpoint = [2001:db8::1]:4297
"""
    keys = OwnKeys(LAPTOP.public_key, LAPTOP.control_public)
    answer = answer_text("xena", keys, proof(_CODE, "xena", keys, _HOUSE))
    yield from (text.encode() for text in (
        invitation, answer, f"# wrote /etc/anubis/anubis.conf\n{answer}",
        invitation.replace("10.9.0.3/32", "10.9.0.0/24"),
        invitation.replace("Endpoint = house.example.org:4296\n", "May = up\n"),
        invitation.replace("18:00Z", "24:00Z"), invitation + invitation, answer + invitation,
        invitation.replace(str(HOUSE.control_public), str(HOUSE.public_key)),
        invitation.replace(_CODE, f"{_CODE}!"), answer.replace("Proof", "Code"),
        answer.replace(str(LAPTOP.public_key), str(STRANGER.public_key).lower()),
        answer.replace(str(LAPTOP.control_public), str(PHONE.public_key)),
    ))  # fmt: skip
