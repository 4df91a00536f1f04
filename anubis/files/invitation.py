"""An invitation that travels to a laptop, and the answer that comes back. Pure.

Owns both texts. Neither has a private key in it, and neither lets anybody in: the administrator
does, by taking the answer. Refuses to know what makes an answer worth something (`proofs`), files
and clocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from anubis.errors import ConfigError, Problem
from anubis.files import fields
from anubis.files.endpoints import NamedEndpoint
from anubis.files.ini import Grammar, Key, Section, SectionGrammar, parse
from anubis.files.introduction import Introduction
from anubis.files.peer_checks import OwnKeys
from anubis.files.peer_stanza import AuthorizedPeer, parse_stanza
from anubis.files.proofs import secret
from anubis.files.reservation import Reservation
from anubis.files.times import format_time, time
from anubis.wireguard.types import IPNetwork

__all__ = [
    "Answer",
    "Invitation",
    "answer_text",
    "gateway_stanza",
    "invitation_text",
    "parse_answer",
    "parse_invitation",
]

_WHOLE = "take all of the text, as it was sent"
_GATEWAY_KEYS = (
    Key("Name"),
    Key("PublicKey"),
    Key("ControlPublicKey"),
    Key("AllowedIPs", is_list=True),
    Key("Endpoint"),
    Key("ControlEndpoint"),
)
_INVITATION = Grammar(
    sections=(
        SectionGrammar(
            "Invitation",
            (Key("Name"), Key("Address", is_list=True), Key("Code", secret=True), Key("Expires")),
        ),
        SectionGrammar("Peer", _GATEWAY_KEYS),
    )
)
_ANSWER = Grammar(
    sections=(
        SectionGrammar(
            "Answer", (Key("Name"), Key("PublicKey"), Key("ControlPublicKey"), Key("Proof"))
        ),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What a laptop is told: who it is there, and which gateway invites it."""

    name: str
    addresses: tuple[IPNetwork, ...]
    code: str
    expires: datetime  # UTC
    gateway: AuthorizedPeer


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the gateway is told: the keys that the laptop made."""

    name: str
    keys: OwnKeys
    proof: str


def invitation_text(reservation: Reservation, code: str, gateway: Introduction) -> str:
    """Return the file with which a laptop joins."""
    addresses = ", ".join(map(str, reservation.allowed_ips))
    peer = _peer(
        gateway.name, gateway.keys, gateway.networks, gateway.endpoint, gateway.control_endpoint
    )
    return f"""\
# {gateway.name} invites {reservation.name}. There, as root: anubis join THIS-FILE
[Invitation]
Name = {reservation.name}
Address = {addresses}
Code = {code}
Expires = {format_time(reservation.expires)}

{peer}"""


def answer_text(name: str, keys: OwnKeys, proof: str) -> str:
    """Return what the administrator of the gateway takes."""
    return f"""\
[Answer]
Name = {name}
PublicKey = {keys.production}
ControlPublicKey = {keys.control}
Proof = {proof}
"""


def parse_invitation(data: bytes, path: Path) -> Invitation:
    """Understand an invitation. Raises ConfigError with every problem."""
    problems: list[Problem] = []
    sections = _sections(data, path, _INVITATION, problems)
    if problems:
        raise ConfigError(problems)
    invited = sections["Invitation"]
    name = invited.one("Name", fields.name, "")
    addresses = tuple(dict.fromkeys(invited.many("Address", fields.network)))
    code = invited.one("Code", secret, "")
    expires = invited.one("Expires", time, None)
    gateway = parse_stanza(sections["Peer"])
    if any(address.prefixlen < address.max_prefixlen for address in addresses):
        invited.complain("Address", "Address has a network, not an address")
    if problems or gateway is None or expires is None:
        raise ConfigError(problems)
    return Invitation(name=name, addresses=addresses, code=code, expires=expires, gateway=gateway)


def parse_answer(data: bytes, path: Path) -> Answer:
    """Understand an answer. Raises ConfigError with every problem."""
    problems: list[Problem] = []
    section = _sections(data, path, _ANSWER, problems)["Answer"]
    name = section.one("Name", fields.name, "")
    production = section.one("PublicKey", fields.public_key, None)
    control = section.one("ControlPublicKey", fields.public_key, None)
    given = section.one("Proof", secret, "")
    if problems or production is None or control is None:
        raise ConfigError(problems)
    return Answer(name=name, keys=OwnKeys(production, control), proof=given)


def gateway_stanza(gateway: AuthorizedPeer) -> str:
    """Return the section by which a laptop knows the gateway, of all that an invitation says."""
    return _peer(
        gateway.name,
        OwnKeys(gateway.public_key, gateway.control_public_key),
        sorted(gateway.allowed_ips, key=lambda network: (network.version, network)),
        gateway.endpoint,
        gateway.control_endpoint,
    )


def _peer(
    name: str,
    keys: OwnKeys,
    networks: Iterable[IPNetwork],
    endpoint: NamedEndpoint | None,
    control_endpoint: NamedEndpoint | None,
) -> str:
    return f"""\
[Peer]
Name = {name}
PublicKey = {keys.production}
ControlPublicKey = {keys.control}
AllowedIPs = {", ".join(map(str, networks))}
Endpoint = {endpoint}
ControlEndpoint = {control_endpoint}
"""


def _sections(
    data: bytes, path: Path, grammar: Grammar, problems: list[Problem]
) -> dict[str, Section]:
    """Return the sections of a text by name; each has to be there, with every key."""
    found = {section.grammar.name: section for section in parse(data, path, grammar, problems)}
    for known in grammar.sections:
        section = found.setdefault(known.name, Section(path, 0, known, problems))
        for key in known.keys:
            if key.name not in section.values:
                section.complain(None, f"{key.name} of [{known.name}] is missing", _WHOLE)
    return found
