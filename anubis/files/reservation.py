"""One `[Invitation]` section of the authorized-peers file: a name and addresses kept for somebody.

Who was invited is not authorized yet: the daemon passes over it. An answer to the invitation makes
an entry of it, and so there is no second answer. Owns its keys; refuses to know what an invitation
looks like that travels (`invitation`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from anubis.errors import Location
from anubis.files import fields
from anubis.files.ini import BadValue, Key, Section, SectionGrammar, squeeze
from anubis.files.times import time
from anubis.wireguard.types import IPNetwork

__all__ = ["SECTION", "Reservation", "number", "parse_reservation"]

SECTION = SectionGrammar(
    "Invitation",
    (Key("Name"), Key("AllowedIPs", is_list=True), Key("Number"), Key("Expires")),
    repeatable=True,
)
_NUMBER = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What is kept for whoever was invited, until when. `number` tells two invitations apart."""

    name: str  # lower case
    allowed_ips: tuple[IPNetwork, ...]
    number: str  # 64 random bits in hexadecimal
    expires: datetime  # UTC
    location: Location = field(compare=False)
    group: None = None  # as of an entry: its networks are nobody else's


def parse_reservation(section: Section) -> Reservation | None:
    """Return what a section keeps; None, and problems, if that cannot be understood."""
    found_before = len(section.problems)
    for key in SECTION.keys:
        if key.name not in section.values:
            section.complain(
                None, f"this [Invitation] has no {key.name}", "`anubis invite NAME` writes it whole"
            )
    name = section.one("Name", fields.name, None)
    kept = section.one("Number", number, None)
    expires = section.one("Expires", time, None)
    networks = tuple(dict.fromkeys(section.many("AllowedIPs", fields.network)))
    if len(section.problems) > found_before or name is None or kept is None or expires is None:
        return None
    return Reservation(
        name=name,
        allowed_ips=networks,
        number=kept,
        expires=expires,
        location=section.location(),
    )


def number(text: str) -> str:
    """Parse the number of an invitation."""
    text = squeeze(text).lower()
    if not _NUMBER.fullmatch(text):
        raise BadValue("not the number of an invitation", "16 hexadecimal digits")
    return text
