"""One `[Peer]` stanza of the authorized-peers file: the value, and how text becomes one.

Owns the keys of a stanza and their defaults; refuses to know the other stanzas. What must hold
between entries is in `peer_checks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Literal

from anubis.addresses import ControlAddresses, control_addresses
from anubis.errors import Location
from anubis.files import fields, hook
from anubis.files.config import CONTROL_PORT
from anubis.files.endpoints import NamedEndpoint, endpoint
from anubis.files.ini import Grammar, Key, Section, SectionGrammar
from anubis.files.reservation import SECTION as INVITATION_SECTION
from anubis.files.times import Hours, expiry, stretch
from anubis.wireguard.keys import PresharedKey, PublicKey
from anubis.wireguard.types import IPNetwork

__all__ = ["GRAMMAR", "AuthorizedPeer", "NamedEndpoint", "Permission", "parse_stanza"]

Permission = Literal["up", "down", "status"]

GRAMMAR = Grammar(
    sections=(
        SectionGrammar(
            "Peer",
            (
                Key("Name"),
                Key("PublicKey"),
                Key("ControlPublicKey"),
                Key("PresharedKey", secret=True),
                Key("AllowedIPs", is_list=True),
                Key("Endpoint"),
                Key("ControlEndpoint"),
                Key("PersistentKeepalive"),
                Key("Lease"),
                Key("MaxLease"),
                Key("IdleTimeout"),
                Key("May", is_list=True),
                Key("Hours", is_list=True),
                Key("Expires"),
                Key("Approve"),
                Key("OneShot"),
                Key("Group"),
                Key("PostUp"),
                Key("PreDown"),
                Key("Enabled"),
            ),
            repeatable=True,
        ),
        INVITATION_SECTION,
    ),
    elsewhere={
        "interface": "the interface and its key are configured in anubis.conf, under [Production]",
        "control": "this section is for anubis.conf",
        "production": "this section is for anubis.conf",
        "host": "this section is for anubis.conf",
    },
)

_EVERY_VERB: frozenset[Permission] = frozenset({"up", "down", "status"})
_GATEWAY_VERBS: frozenset[Permission] = frozenset({"down", "status"})
_VERB_WORDS: dict[str, frozenset[Permission]] = {
    "up": frozenset({"up"}),
    "down": frozenset({"down"}),
    "status": frozenset({"status"}),
    "none": frozenset(),
}
# Prefix lengths of the largest private networks, 10.0.0.0/8 and fc00::/7 (RFC 1918, RFC 4193).
_LARGEST_PRIVATE = {4: 8, 6: 7}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizedPeer:
    """An entry of the authorized-peers file: who it is, what it may ask for, what it gets."""

    name: str  # lower case
    public_key: PublicKey  # of its production interface
    control_public_key: PublicKey
    allowed_ips: frozenset[IPNetwork]
    location: Location = field(compare=False)  # it may move while the entry stays
    preshared_key: PresharedKey | None = None
    endpoint: NamedEndpoint | None = None
    control_endpoint: NamedEndpoint | None = None
    persistent_keepalive: int = 0  # seconds; 0 is off
    lease_seconds: int | None = None  # None: what [Production] says
    max_lease_seconds: int | None = None
    idle_timeout: int | None = None  # seconds; 0 is for ever
    may: frozenset[Permission] = _EVERY_VERB
    hours: Hours | None = None  # when it may ask for `up`; None: always
    expires: datetime | None = None  # UTC; from then on as if it were not there
    approve: str | None = None  # who has to agree to each `up`, in lower case
    one_shot: bool = False  # may ask by web
    group: str | None = None
    post_up: tuple[str, ...] = ()  # the words of a command; none if there is nothing to run
    pre_down: tuple[str, ...] = ()
    enabled: bool = True  # to the daemon, one that is not is not there

    def seconds_left(self, at: float) -> float:
        """Return for how long it may still have what it asks for, at a time since 1970.

        0 outside its hours; infinite if nothing ends it.
        """
        left = inf if self.expires is None else max(0.0, self.expires.timestamp() - at)
        if self.hours is not None:
            left = min(left, self.hours.seconds_left(datetime.fromtimestamp(at)))  # noqa: DTZ006
        return left

    @property
    def control(self) -> ControlAddresses:
        """Return the addresses of this peer on the control plane."""
        return control_addresses(self.control_public_key)


def parse_stanza(section: Section) -> AuthorizedPeer | None:
    """Return the entry that a stanza describes; None, and problems, if it describes none."""
    found_before = len(section.problems)
    name = section.one("Name", fields.name, None)
    public_key = section.one("PublicKey", fields.public_key, None)
    networks = frozenset(section.many("AllowedIPs", fields.network))
    production_endpoint, control_endpoint = _endpoints(section)
    _require(section)
    control_public_key = section.one("ControlPublicKey", fields.public_key, None)
    preshared_key = section.one("PresharedKey", fields.preshared_key, None)
    keepalive = section.one("PersistentKeepalive", fields.persistent_keepalive, 0)
    lease, max_lease = (section.one(key, fields.duration, None) for key in ("Lease", "MaxLease"))
    idle_timeout = section.one("IdleTimeout", fields.idle_timeout, None)
    may = _may(section, networks)
    stretches = tuple(section.many("Hours", stretch))
    expires = section.one("Expires", expiry, None)
    approve = section.one("Approve", fields.name, None)
    one_shot = section.one("OneShot", fields.yes_or_no, default=False)
    group = section.one("Group", fields.name, None)
    post_up, pre_down = (section.one(key, hook.command, ()) for key in ("PostUp", "PreDown"))
    enabled = section.one("Enabled", fields.yes_or_no, default=True)
    if len(section.problems) > found_before or name is None or public_key is None:
        return None
    return AuthorizedPeer(
        name=name,
        public_key=public_key,
        control_public_key=control_public_key or public_key,
        allowed_ips=networks,
        location=section.location(),
        preshared_key=preshared_key,
        endpoint=production_endpoint,
        control_endpoint=control_endpoint,
        persistent_keepalive=keepalive,
        lease_seconds=lease,
        max_lease_seconds=max_lease,
        idle_timeout=idle_timeout,
        may=may,
        hours=Hours(stretches) if stretches else None,
        expires=expires,
        approve=approve,
        one_shot=one_shot,
        group=group,
        post_up=post_up,
        pre_down=pre_down,
        enabled=enabled,
    )


def _endpoints(section: Section) -> tuple[NamedEndpoint | None, NamedEndpoint | None]:
    """Return where production and the control plane of the peer are reached."""
    production = section.one("Endpoint", endpoint, None)
    given = section.one("ControlEndpoint", endpoint, None)
    control = given or (NamedEndpoint(production.host, CONTROL_PORT) if production else None)
    if production is not None and production == control:
        key = "ControlEndpoint" if given else "Endpoint"
        section.complain(
            key,
            f"{key} = {production}: production and control cannot share a port",
            f"the control plane listens on {CONTROL_PORT}, production elsewhere",
        )
    return production, control


def _require(section: Section) -> None:
    """Complain of the keys without which a stanza means nothing."""
    reasons = {
        "Name": "every entry needs one: Name = jacinth",
        "PublicKey": "the key of its production interface, from `anubis keygen` over there",
        "AllowedIPs": "its addresses and the networks behind it: AllowedIPs = 10.9.0.2/32",
    }
    for key, reason in reasons.items():
        if key not in section.values:
            section.complain(None, f"this [Peer] has no {key}", reason)


def _may(section: Section, networks: frozenset[IPNetwork]) -> frozenset[Permission]:
    if "May" not in section.values:
        # Whoever could bring such a connection up would become our gateway to the Internet.
        if any(network.prefixlen < _LARGEST_PRIVATE[network.version] for network in networks):
            return _GATEWAY_VERBS
        return _EVERY_VERB
    words = section.many("May", fields.one_of(_VERB_WORDS, "a verb"))
    if "none" in words and len(set(words)) > 1:
        section.complain("May", "May has none beside other words", "none stands alone")
    return frozenset[Permission]().union(*(_VERB_WORDS[word] for word in words))
