"""What an entry or an invitation says, for a person and for a program; of secrets, that they are.

Owns the words. Refuses to know where the entry comes from.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from anubis.durations import format_duration
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.files.config import Production
from anubis.files.peer_editor import Entry
from anubis.files.reservation import Reservation
from anubis.files.times import format_time
from anubis.wireguard.types import IPNetwork

__all__ = ["entry_facts", "summary", "table"]


def summary(entry: Entry) -> str:
    """Return in a line whose networks these are, and what keeps them from counting."""
    text = ", ".join(map(str, _ordered(entry.allowed_ips)))
    if isinstance(entry, Reservation):
        return f"{text}  invited until {format_time(entry.expires)}"
    if entry.expires is not None:
        text += f"  until {format_time(entry.expires)}"
    return text if entry.enabled else f"{text}  disabled"


def entry_facts(entry: Entry, production: Production) -> dict[str, object]:
    """Return what an entry says, and what counts where it says nothing, for a program."""
    place = {"file": str(entry.location.path), "line": entry.location.line}
    networks = list(map(str, _ordered(entry.allowed_ips)))
    if isinstance(entry, Reservation):
        expires = format_time(entry.expires)
        return {"name": entry.name, "allowed_ips": networks, "expires": expires, **place}
    lease, max_lease, idle = _times(entry, production)
    return {
        "name": entry.name,
        "enabled": entry.enabled,
        "public_key": str(entry.public_key),
        "control_public_key": str(entry.control_public_key),
        "control_address": str(entry.control.routable),
        "preshared_key": None if entry.preshared_key is None else "set",
        "allowed_ips": networks,
        "endpoint": None if entry.endpoint is None else str(entry.endpoint),
        "control_endpoint": None if entry.control_endpoint is None else str(entry.control_endpoint),
        "persistent_keepalive": entry.persistent_keepalive,
        "lease_seconds": lease,
        "max_lease_seconds": max_lease,
        "idle_timeout": idle,
        "may": sorted(entry.may),
        "group": entry.group,
        "hours": None if entry.hours is None else str(entry.hours),
        "expires": None if entry.expires is None else format_time(entry.expires),
        "approve": entry.approve,
        "one_shot": entry.one_shot,
        "post_up": list(entry.post_up),
        "pre_down": list(entry.pre_down),
        **place,
    }


def table(entry: Entry, production: Production) -> list[str]:
    """Return the same for a person, in the words of the file."""
    rows = _reserved_rows(entry) if isinstance(entry, Reservation) else _rows(entry, production)
    width = max(len(word) for word in rows)
    return [f"{word:<{width}}  {value}" for word, value in rows.items()]


def _rows(peer: AuthorizedPeer, production: Production) -> dict[str, str]:
    of_host = " (of [Production])"
    lease, max_lease, idle = _times(peer, production)
    return {
        "Name": peer.name,
        "Enabled": _yes(peer.enabled),
        "PublicKey": str(peer.public_key),
        "ControlPublicKey": str(peer.control_public_key),
        "control address": str(peer.control.routable),
        "PresharedKey": "none" if peer.preshared_key is None else "set",
        "AllowedIPs": ", ".join(map(str, _ordered(peer.allowed_ips))),
        "Endpoint": str(peer.endpoint or "none"),
        "ControlEndpoint": str(peer.control_endpoint or "none"),
        "PersistentKeepalive": str(peer.persistent_keepalive or "off"),
        "Lease": format_duration(lease) + (of_host if peer.lease_seconds is None else ""),
        "MaxLease": format_duration(max_lease)
        + (of_host if peer.max_lease_seconds is None else ""),
        "IdleTimeout": (format_duration(idle) if idle else "off")
        + (of_host if peer.idle_timeout is None else ""),
        "May": ", ".join(sorted(peer.may)) or "none",
        "Group": peer.group or "none",
        "Hours": str(peer.hours or "always"),
        "Expires": "never" if peer.expires is None else format_time(peer.expires),
        "Approve": peer.approve or "nobody",
        "OneShot": _yes(peer.one_shot),
        "PostUp": shlex.join(peer.post_up) or "none",
        "PreDown": shlex.join(peer.pre_down) or "none",
        "stands in": str(peer.location),
    }


def _reserved_rows(reservation: Reservation) -> dict[str, str]:
    return {
        "Name": f"{reservation.name} (invited, not authorized yet)",
        "AllowedIPs": ", ".join(map(str, reservation.allowed_ips)),
        "Expires": format_time(reservation.expires),
        "stands in": str(reservation.location),
    }


def _times(peer: AuthorizedPeer, production: Production) -> tuple[int, int, int]:
    return (
        peer.lease_seconds or production.lease_seconds,
        peer.max_lease_seconds or production.max_lease_seconds,
        production.idle_timeout if peer.idle_timeout is None else peer.idle_timeout,
    )


def _ordered(networks: Iterable[IPNetwork]) -> list[IPNetwork]:
    return sorted(networks, key=lambda network: (network.version, network))


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"
