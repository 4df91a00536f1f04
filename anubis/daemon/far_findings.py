"""What the far end's answer, and what came of packets to it, say of the links of a chain. Pure.

Owns the judgement of what both ends contribute: the far end's word on the connection, and the
counters of both. Only an authenticated far end has said any of it. What this host alone has is
`findings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anubis.diagnosis import BROKEN, OK, SKIPPED, UNKNOWN, Check
from anubis.durations import format_duration
from anubis.errors import AnubisError, LocalFailure
from anubis.files.authorized_peers import AuthorizedPeer
from anubis.network.state import IPNetwork
from anubis.network.ways import IPAddress
from anubis.protocol.wire import Reply, Result, State
from anubis.refusal import refusal
from anubis.wireguard.types import Peer

__all__ = ["CLOCK_SECONDS", "Asked", "Sounding", "clock", "control_and_far", "policy", "tunnel"]

CLOCK_SECONDS = 300.0  # by which the two clocks may differ
HANDSHAKE_FRESH = 180.0  # REJECT_AFTER_TIME of the WireGuard paper


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking the far end for the status, at `unix_ns` of this host's clock.

    `reached` if its WireGuard shook hands; `knock` is what the network said of its port.
    """

    outcome: Reply | AnubisError
    unix_ns: int
    reached: bool = False
    nobody_listens: bool = False


@dataclass(frozen=True, slots=True)
class Sounding:
    """What was seen of packets that were sent through the tunnel.

    `arrived` and `arrived_whole` if the far end counted them, small ones and ones as large as the
    interface's MTU; `passes` is the largest size in bytes that was seen to arrive, where the whole
    did not. `returned` if anything came back, `answered` if the far end sent anything.
    `source` is this host's address in the tunnel, `may_echo` whether an echo could be asked for.
    """

    interface: str
    address: IPAddress
    source: IPAddress | None
    here: Peer | None  # afterwards
    now: float  # in seconds since 1970
    arrived: bool
    returned: bool
    answered: bool
    may_echo: bool
    mtu: int
    arrived_whole: bool = False
    passes: int | None = None
    failure: str = ""  # why nothing could be sent


def control_and_far(entry: AuthorizedPeer, asked: Asked, port: int) -> tuple[Check, Check]:
    """Judge the handshake on the control plane, and whether a daemon answers behind it.

    `port` is that of the far end's control plane.
    """
    outcome, name = asked.outcome, entry.name
    if isinstance(outcome, Reply):
        shook = Check("control_handshake", OK, f"{name} shakes hands on the control plane")
        return shook, Check("far_daemon", OK, f"the daemon of {name} answers")
    if asked.reached:
        shook = Check("control_handshake", OK, f"{name} shakes hands on the control plane")
        remedy = f"{_start(name)}; and see that its authorized_peers has both keys of this host"
        return shook, Check("far_daemon", BROKEN, outcome.message, remedy)
    waits = Check("far_daemon", SKIPPED, "there is no way to ask it")
    if isinstance(outcome, LocalFailure):
        return Check("control_handshake", UNKNOWN, outcome.message, outcome.hint), waits
    if asked.nobody_listens:
        finding = f"nobody listens on UDP port {port} of {name}"
        return Check("control_handshake", BROKEN, finding, _start(name)), waits
    remedy = (
        f"let UDP port {port} of {name} through on the way, and see with anubis check, at both"
        " ends, that each has the other's ControlPublicKey"
    )
    return Check("control_handshake", BROKEN, outcome.message, remedy), waits


def _start(name: str) -> str:
    return f"on {name}: sudo systemctl start anubis"


def policy(entry: AuthorizedPeer, reply: Reply, *, is_up: bool) -> Check:
    """Judge what the far end lets this host do, and whether it has the connection that we have."""
    name = entry.name
    if not reply.granted:
        why = refusal(name, reply)
        if reply.result == Result.NOT_PERMITTED:
            finding = f"{name} does not tell this host its state: {reply.reason}"
            return Check("policy", UNKNOWN, finding, f"on {name}: May in authorized_peers")
        return Check("policy", BROKEN, why.message, why.hint)
    if reply.state is State.DOWN and reply.reason:
        remedy = f"on {name}: mend the entry of this host in authorized_peers, then anubis reload"
        return Check("policy", BROKEN, f"{name} would refuse: {reply.reason}", remedy)
    if is_up and reply.state is State.DOWN:
        finding = f"{name} has the connection down, and this host has it up"
        return Check("policy", BROKEN, finding, f"anubis down {name} && anubis up {name}")
    if is_up:
        return Check("policy", OK, f"{name} has it up, for {format_duration(reply.lease)} more")
    return Check("policy", OK, f"{name} would not refuse")


def clock(entry: AuthorizedPeer, asked: Asked) -> Check:
    """Compare the two clocks."""
    if not isinstance(asked.outcome, Reply):
        return Check("clock", SKIPPED, f"{entry.name} did not say what it is there")
    seconds = (asked.outcome.unix_ns - asked.unix_ns) / 1e9
    if abs(seconds) <= CLOCK_SECONDS:
        return Check("clock", OK, f"{abs(seconds):.1f} s apart")
    apart, which = format_duration(int(abs(seconds))), "ahead of" if seconds > 0 else "behind"
    finding = f"the clock of {entry.name} is {apart} {which} this one"
    remedy = "timedatectl, at both ends, tells which is wrong; timedatectl set-ntp true there"
    return Check("clock", BROKEN, finding, remedy)


def tunnel(
    entry: AuthorizedPeer, installed: Sequence[IPNetwork], sounding: Sounding
) -> Iterator[Check]:
    """Judge what happens to packets in the tunnel: handshake, MTU and return path.

    `installed` are the networks that the far end lets this host send from.
    """
    stranger = sounding.source is not None and installed and not any(
        sounding.source in network for network in installed
    )  # fmt: skip
    shook = _handshake(entry, sounding, is_stranger=bool(stranger))
    yield shook
    if shook.state == BROKEN:
        for name in ("mtu", "return_path"):
            yield Check(name, SKIPPED, "nothing gets through")
        return
    yield (
        Check("mtu", SKIPPED, "it is not known what arrives") if stranger else _mtu(entry, sounding)
    )
    yield _of_a_stranger(entry, installed, sounding) if stranger else _return_path(entry, sounding)


def _handshake(entry: AuthorizedPeer, sounding: Sounding, *, is_stranger: bool) -> Check:
    name, here = "production_handshake", sounding.here
    port = here.endpoint.port if here and here.endpoint else "of its production interface"
    remedy = (
        f"let UDP port {port} of {entry.name} through on the way; on {entry.name}: nft list ruleset"
    )
    if sounding.failure:
        return Check(name, UNKNOWN, sounding.failure, f"ping {sounding.address}")
    if here is None or not here.last_handshake:
        return Check(name, BROKEN, "there was none yet", remedy)
    age = sounding.now - here.last_handshake
    shook = f"the last one was {format_duration(max(0, int(age)))} ago"
    if age > HANDSHAKE_FRESH:
        return Check(name, BROKEN, f"{shook}, and none comes now", remedy)
    if not sounding.arrived and not is_stranger:
        finding = f"{shook}, but nothing that is sent now arrives at {entry.name}"
        return Check(name, BROKEN, finding, remedy)
    return Check(name, OK, shook)


def _mtu(entry: AuthorizedPeer, sounding: Sounding) -> Check:
    mtu = sounding.mtu
    if sounding.arrived_whole:
        return Check("mtu", OK, f"packets of {mtu} bytes arrive")
    finding = f"packets of {mtu} bytes do not arrive at {entry.name}, small ones do"
    if sounding.passes is None:
        return Check("mtu", BROKEN, finding, f"ping -M do -s 1200 {sounding.address}")
    remedy = (
        f"ip link set {sounding.interface} mtu {sounding.passes}; MTU = {sounding.passes} under"
        " [Production] in anubis.conf keeps it so"
    )
    return Check("mtu", BROKEN, finding, remedy)


def _of_a_stranger(
    entry: AuthorizedPeer, installed: Sequence[IPNetwork], sounding: Sounding
) -> Check:
    networks = ", ".join(sorted(map(str, installed)))
    finding = (
        f"this host sends from {sounding.source}, which {entry.name} drops: it lets it have"
        f" {networks}"
    )
    remedy = f"on {entry.name}: {sounding.source} in AllowedIPs of this host's entry"
    return Check("return_path", BROKEN, finding, remedy)


def _return_path(entry: AuthorizedPeer, sounding: Sounding) -> Check:
    name, far = "return_path", entry.name
    if sounding.returned:
        return Check(name, OK, f"{far} answers from {sounding.address}")
    ping = f"ping {sounding.address}"
    if sounding.answered:
        finding = f"{far} has sent answers, and none has come here"
        return Check(name, BROKEN, finding, "nft list ruleset, at both ends and in between")
    finding = f"{far} receives what is sent to {sounding.address}, and sends nothing back"
    if sounding.may_echo:
        back = f"ip route get {sounding.source}" if sounding.source else "ip rule"
        remedy = f"on {far}: anubis why, with this host's name; {back}; nft list ruleset"
        return Check(name, BROKEN, finding, remedy)
    return Check(name, UNKNOWN, f"{finding}; a firewall may mean to", ping)
