"""An authorized peer that does whatever it likes: what it cannot do to others, and to the house.

xena has its own valid keys and speaks the protocol by hand, through its own control tunnel; on its
own host it writes any packet into any interface. selen, another peer, has a connection up all the
while. After every test jacinth, surya and the house are what they were, and selen's connection
stands. docs/security.md names the test that keeps each promise.
"""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from anubis.protocol.wire import MessageType, Reply, Request, Result, State, Verb
from anubis.wireguard.keys import PublicKey
from benchmarks.flood import phone_tunnel
from tests.lab.caller import SERVICE_PORT, Caller, inside
from tests.lab.hostile import (
    LogMark,
    anubis,
    control_address,
    differences,
    has_peer,
    new_tunnel,
    nft_table,
    public_key,
    state,
)
from tests.lab.packets import Injector, udp_packet
from tests.lab.steps import AUTHORIZED_PEERS, Edit, client, configured, edited

VERBS = ("up", "down", "renew", "status", "gone")
OTHERS = ("jacinth", "surya", "leaf")
JACINTH = "203.0.113.1"
DAY = 86400  # seconds; the longest lease that jacinth grants


@pytest.fixture(scope="module")
def phone(lab: Lab) -> Iterator[Caller]:
    """Have selen's tunnel up; speak as selen."""
    with phone_tunnel(lab), Caller(lab, "selen") as caller:
        yield caller


@pytest.fixture
def selen(lab: Lab, phone: Caller) -> Iterator[Caller]:
    """Have selen's connection up, and see that it and all of the others stay as they are."""
    assert phone.ask("up").result in {"done", "unchanged"}
    reach(lab)
    before = {host: state(lab, host) for host in OTHERS}
    ends = endpoints(lab, "selen")
    yield phone
    for host in OTHERS:
        assert differences(before[host], state(lab, host)) == [], host
    assert endpoints(lab, "selen") == ends
    assert phone.ask("status").up
    reach(lab)


@pytest.fixture
def xena(lab: Lab, selen: Caller) -> Iterator[Caller]:
    """Speak as the attacker, whose own connection is down."""
    new_tunnel(lab, "xena", "jacinth")
    with Caller(lab, "xena") as caller:
        yield caller
        if has_peer(lab, "xena", public_key(lab, "jacinth")):  # its daemon brought it up
            anubis(lab, "xena", "down", "jacinth")
        leave(lab, caller)


def leave(lab: Lab, xena: Caller) -> None:
    """Take the attacker's own connection down."""
    new_tunnel(lab, "xena", "jacinth")
    assert xena.ask("down").result in {"done", "unchanged"}
    assert not has_peer(lab, "jacinth", public_key(lab, "xena"))
    new_tunnel(lab, "xena", "jacinth")


def reach(lab: Lab) -> None:
    """See that selen gets through its tunnel to the house."""
    ping = ("ping", "-n", "-c", "1", "-W", "5", "192.168.7.2")
    lab.run("selen", *ping, check=True)


def endpoints(lab: Lab, host: str) -> tuple[str, ...]:
    """Return where jacinth's WireGuard sends what is for a host, on both planes."""
    found = []
    for interface, plane in (("wg0", "production"), ("anubis0", "control")):
        key = public_key(lab, host, plane)
        shown = lab.run("jacinth", "wg", "show", interface, "endpoints", check=True).stdout
        found += [line.split("\t")[1] for line in shown.splitlines() if line.startswith(key)]
    return tuple(found)


def silence(lab: Lab, xena: Caller) -> bool:
    """Tell whether nothing that was sent so far was answered.

    The answer to what is asked behind it, from another port, says that all of it was looked at.
    """
    with Caller(lab, "xena") as behind:
        assert behind.ask("status").up
    return xena.answers() == []


def request(verb: str | int, tail: bytes = b"", *, lease: int | None = None) -> bytes:
    """Return the body of a fresh request, with any options behind it."""
    number = Verb[verb.upper()] if isinstance(verb, str) else verb
    return Request(secrets.token_bytes(16), time.time_ns(), number, lease=lease).encode() + tail


def option(kind: int, value: bytes = b"") -> bytes:
    """Return one option."""
    return bytes([kind, len(value)]) + value


# Connections of others


def test_another_s_key_opens_nothing(lab: Lab, xena: Caller, selen: Caller) -> None:
    """A request that proves selen's production key and xena's control key is refused as such."""
    mark = LogMark(lab, "jacinth")
    genuine = selen.ask("renew").requests
    with Caller(lab, "xena", key_of="selen") as thief:
        for verb in VERBS:
            assert thief.ask(verb).result == "key_mismatch"
        for datagram in genuine:  # the very bytes that were accepted last
            assert thief.told(datagram).result == Result.KEY_MISMATCH
    assert mark.matching("refused", "peer=selen", "reason=key_mismatch")
    assert not mark.matching("up")
    assert not mark.matching("down")


def test_a_peer_touches_its_own_connection_only(lab: Lab, xena: Caller, selen: Caller) -> None:
    """Whatever xena asks for is about xena; selen's connection stays as it is."""
    key = public_key(lab, "selen")
    for verb in ("up", "renew", "status", "down", "gone"):
        assert xena.ask(verb).result in {"done", "no_connection"}
        assert has_peer(lab, "jacinth", key)
    assert selen.ask("status").up


def test_a_request_in_another_s_name_is_met_with_silence(lab: Lab, xena: Caller) -> None:
    """Sealed with xena's key, but with the key of another peer, of a stranger or of jacinth itself.

    All are met alike, so that nobody can ask whether a key is authorized.
    """
    keys = [PublicKey.from_base64(public_key(lab, host)) for host in ("selen", "surya", "jacinth")]
    keys += [PublicKey(secrets.token_bytes(32))]
    assert xena.ask("up").result == "done"  # keeps the tunnel
    for key in keys:
        for verb in VERBS:
            xena.send(xena.sealed(request(verb), sender=key))
    assert silence(lab, xena)


def test_another_s_source_does_not_come_through(lab: Lab, xena: Caller, selen: Caller) -> None:
    """Genuine requests of selen's, from selen's own address, but through xena's tunnel.

    WireGuard lets no source through a tunnel but the two addresses of its peer.
    """
    own, theirs = control_address(lab, "jacinth"), control_address(lab, "selen")
    sources = (theirs, theirs.replace("fd61:6e75:6269:7300", "fe80:"), "fd66::11", "10.66.0.11")
    body = """
        counter arrived { }
        counter alien { }
        chain prerouting {
            type filter hook prerouting priority -450; policy accept;
            iifname "anubis0" counter name arrived
            iifname "anubis0" ip6 saddr != OWN counter name alien
        }
    """.replace("OWN", control_address(lab, "xena"))
    assert xena.ask("up").result == "done"  # keeps the tunnel
    mark = LogMark(lab, "jacinth")
    with nft_table(lab, "jacinth", "inet watch", body), Injector(lab, "xena", "anubis0") as tunnel:
        for verb in ("down", "gone", "up"):
            for source in sources:
                to = own if ":" in source else "192.168.7.1"
                packet = (source, SERVICE_PORT), (to, SERVICE_PORT), selen.request(verb)
                tunnel.send(udp_packet(*packet))
        assert xena.ask("status").up  # came behind them through the same tunnel
        assert counters(lab)["arrived"] >= 1
        assert counters(lab)["alien"] == 0
    assert mark.lines == []


def test_replies_that_nobody_asked_for_are_dropped(lab: Lab, xena: Caller) -> None:
    """Of every result, in every name, with everything that a reply can carry."""
    assert xena.ask("up").result == "done"
    up = state(lab, "jacinth")
    mark = LogMark(lab, "jacinth")
    for sender in (xena.keyring.public_key, PublicKey.from_base64(public_key(lab, "selen"))):
        for result in (*Result, 200):
            reply = Reply(
                secrets.token_bytes(16), time.time_ns(), result, State.DOWN, challenge=bytes(16),
                suites=(2,),
            )  # fmt: skip
            body = reply.encode() + option(0x06, b"\0" * 5)
            xena.send(xena.sealed(body, kind=MessageType.REPLY, sender=sender))
    assert silence(lab, xena)
    assert differences(up, state(lab, "jacinth")) == []
    assert mark.lines == []


# What is installed

OWN = {"10.66.0.10/32", "fd66::10/128"}  # the AllowedIPs of xena's entry
IGNORED = {
    "a default route": option(0x06, b"\0" * 5) + option(0x06, b"\0" * 17),
    "selen's address": option(0x06, b"\x20\x0a\x42\x00\x0b"),
    "an endpoint": option(0x07, b"\x10\xc8\xcb\x00\x71\x02"),
    "suites": option(0x08, b"\2\1\0\xff"),
    "a state of its own": option(0x02, b"selen") + option(0x03, bytes(4)),
    "what nobody knows": option(0x3F, b"x" * 200),
    "a vendor's wish": option(0x7F, b"AllowedIPs = 0.0.0.0/0"),
    "many of them": b"".join(option(0x40 + n % 64, bytes(9)) for n in range(100)),
}
REFUSED = {
    "what nobody knows": (option(0xBF), Result.UNSUPPORTED_OPTION),
    "a vendor's wish": (option(0xC0, b"AllowedIPs"), Result.UNSUPPORTED_OPTION),
    "a lease twice": (option(0x01, b"\0\0\0\1") * 2, Result.MALFORMED),
    "a challenge that nobody gave": (option(0x81, bytes(16)), Result.STALE),
    "an option cut short": (b"\x06\x05\0", Result.MALFORMED),
    "a long text": (option(0x02, b"x" * 201), Result.MALFORMED),
}


def test_no_option_widens_an_entry(lab: Lab, xena: Caller) -> None:
    """What is installed for an `up` is what its entry says, whatever else the request says."""
    assert xena.ask("up").result == "done"
    honest = without_endpoints(state(lab, "jacinth"))
    for wish, tail in IGNORED.items():
        leave(lab, xena)
        reply = xena.told(xena.sealed(request("up", tail)))
        assert reply.result == Result.DONE, wish
        assert set(map(str, reply.installed)) == OWN, wish
        assert differences(honest, without_endpoints(state(lab, "jacinth"))) == [], wish
        shown = lab.run("jacinth", "wg", "show", "wg0", "allowed-ips", check=True).stdout
        allowed = dict(line.split("\t") for line in shown.splitlines())
        assert set(allowed[public_key(lab, "xena")].split()) == OWN, wish


def test_what_must_be_understood_is_refused(lab: Lab, xena: Caller) -> None:
    """A request with such an option, one that is malformed, or an unknown verb does nothing."""
    down = state(lab, "jacinth")
    for wish, (tail, result) in REFUSED.items():
        assert xena.told(xena.sealed(request("up", tail))).result == result, wish
        assert differences(down, state(lab, "jacinth")) == [], wish
    for verb in (0, 7, 77, 255):
        assert xena.told(xena.sealed(request(verb))).result == Result.UNSUPPORTED_VERB
    assert differences(down, state(lab, "jacinth")) == []


def test_who_approves_nobody_can_approve_nobody(lab: Lab, xena: Caller) -> None:
    """Not another, not itself: each name is met with the same words, and nobody is named to it."""
    down = state(lab, "jacinth")
    told = set()
    for name in (b"selen", b"xena", b"surya", b"\0"):
        reply = xena.told(xena.sealed(request("approve", option(0x82, name))))
        assert (reply.result, reply.waiting) == (Result.NOT_PERMITTED, ())
        told.add(reply.reason)
    assert len(told) == 1
    assert xena.told(xena.sealed(request("approve"))).waiting == ()
    assert differences(down, state(lab, "jacinth")) == []


def without_endpoints(text: str) -> str:
    """Leave out where WireGuard heard its peers, which only handshakes tell."""
    return re.sub(r"^wg0 \S{44} (\(none\)|\S+:\d+)$", "", text, flags=re.M)


def test_no_lease_is_longer_than_granted(lab: Lab, xena: Caller) -> None:
    """136 years are asked for, at first and again; what the administrator allows is given."""
    for verb in ("up", "renew", "up"):
        reply = xena.told(xena.sealed(request(verb, lease=2**32 - 1)))
        assert reply.granted
        assert DAY - 5 <= reply.lease <= DAY
    short = Edit("jacinth", AUTHORIZED_PEERS, "Name = xena\n", "Name = xena\nMaxLease = 90s\n")
    leave(lab, xena)
    with configured(lab, short):
        new_tunnel(lab, "xena", "jacinth")
        for verb in ("up", "renew"):
            assert xena.told(xena.sealed(request(verb, lease=2**32 - 1))).lease <= 90
        leave(lab, xena)
    assert phone_is_up(lab)


def phone_is_up(lab: Lab) -> bool:
    """Bring selen's connection up again after jacinth was restarted."""
    with Caller(lab, "selen") as phone:
        up = phone.ask("up").up
    new_tunnel(lab, "selen", "jacinth", "production")
    reach(lab)
    return up


# What flows

FORGED = ("10.66.0.11", "10.66.0.1", "192.168.7.2", "192.168.7.1", "203.0.113.2", "127.0.0.1",
          "fd66::11", "fd66::1", "2001:db8:7::2", "2001:db8:0:1::2", "fe80::1", "::1")  # fmt: skip
FLOWS = """
    counter genuine { }
    counter forged { }
    chain prerouting {
        type filter hook prerouting priority -450; policy accept;
        iifname "wg0" ip saddr 10.66.0.10 counter name genuine accept
        iifname "wg0" ip6 saddr fd66::10 counter name genuine accept
        iifname "wg0" counter name forged
    }
"""


def counters(lab: Lab, host: str = "jacinth") -> dict[str, int]:
    """Return the packets of each counter of the test's own table."""
    shown = lab.run(host, "nft", "list", "table", "inet", "watch", check=True).stdout
    found = re.findall(r"counter (\w+) \{\s+packets (\d+)", shown)
    return {name: int(packets) for name, packets in found}


def test_production_lets_no_source_through_but_the_entry_s(lab: Lab, xena: Caller) -> None:
    """Packets from selen's address, the house's, jacinth's, the control plane's, of both families.

    They go into the tunnel at xena, and cryptokey routing drops each at jacinth.
    """
    assert anubis(lab, "xena", "up", "jacinth").status == 0
    forged = (*FORGED, control_address(lab, "xena"), control_address(lab, "selen"))
    targets = {4: "192.168.7.2", 6: "2001:db8:7::2"}
    with nft_table(lab, "jacinth", "inet watch", FLOWS), Injector(lab, "xena", "wg0") as tunnel:
        for source in forged:
            tunnel.send(udp_packet((source, 9), (targets[6 if ":" in source else 4], 9), b"forged"))
        for source, target in (("10.66.0.10", targets[4]), ("fd66::10", targets[6])):
            tunnel.send(udp_packet((source, 9), (target, 9), b"genuine"))
        wait_until(lambda: counters(lab)["genuine"] == 2, 5, "what came behind has arrived")
        assert counters(lab)["forged"] == 0


def test_recorded_packets_move_nobody_s_endpoint(lab: Lab, xena: Caller, selen: Caller) -> None:
    """Every packet of selen's production tunnel, handshake included, sent again by xena."""
    with inside(lab, "hotel"):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with tap:
        tap.bind(("hotel", 0x0800))
        new_tunnel(lab, "selen", "jacinth", "production")
        reach(lab)
        recorded = bearer_packets(tap)
    assert {payload[0] for payload in recorded} >= {1, 4}  # a handshake initiation, and data
    before = endpoints(lab, "selen")
    assert anubis(lab, "xena", "up", "jacinth").status == 0
    with inside(lab, "xena"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for payload in recorded * 3:
            sender.sendto(payload, (JACINTH, 4296))
    # Behind them, by the same port: jacinth has read them all.
    lab.run("xena", "ping", "-n", "-c", "3", "-i", "0.2", "192.168.7.2", check=True)
    assert endpoints(lab, "selen") == before


def bearer_packets(tap: socket.socket) -> list[bytes]:
    """Return what has gone from the hotel's guests to jacinth's production port."""
    found: list[bytes] = []
    while True:
        try:
            packet = tap.recv(2048, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        header = 4 * (packet[0] & 15)
        to_jacinth = socket.inet_ntoa(packet[16:20]) == JACINTH and packet[9] == socket.IPPROTO_UDP
        if to_jacinth and int.from_bytes(packet[header + 2 : header + 4]) == 4296:
            found.append(packet[header + 8 :])


# What there is no end of

MANY = 3000


def test_no_table_grows(lab: Lab, xena: Caller) -> None:
    """Thousands of requests, each from another port, in another name, with another number.

    Neither the daemon grows, nor what it keeps on disks, nor the kernel's table of connections.
    """
    source, own = control_address(lab, "xena"), control_address(lab, "jacinth")
    assert xena.ask("up").result == "done"  # keeps the tunnel
    before, mark = sizes(lab), LogMark(lab, "jacinth")
    begin = time.monotonic()
    with Injector(lab, "xena", "anubis0") as tunnel:
        for number in range(MANY):
            sender = PublicKey(secrets.token_bytes(32)) if number % 3 == 0 else None
            datagram = xena.sealed(request("status"), sender=sender)
            tunnel.send(udp_packet((source, 10_000 + number), (own, SERVICE_PORT), datagram))
            if number % 50 == 0:
                time.sleep(0.05)  # so that the budget of a peer lets a part of it through
    wait_until(lambda: xena.ask("status").result == "done", 30, "jacinth answers again")
    after, seconds = sizes(lab), time.monotonic() - begin
    bounds = {"memory": 4096, "files": 2, "tracked": 20, "state": 1024, "watermarks": 128 << 10}
    grown = {name: after[name] - before[name] for name in before}
    assert all(grown[name] <= bounds[name] for name in bounds), grown
    kinds = 6  # over_budget, unknown_sender, busy and what else there may be
    assert len(mark.lines) <= kinds * (seconds + 1), "a line a second of a kind"
    assert anubis(lab, "jacinth", "status").status == 0


def sizes(lab: Lab) -> dict[str, int]:
    """Return how large everything at jacinth is that a peer may make grow."""
    process = Path(f"/proc/{lab.daemon('jacinth').process}")
    memory = re.search(r"VmRSS:\s+(\d+) kB", (process / "status").read_text())
    assert memory is not None
    tracked = lab.run("jacinth", "cat", "/proc/sys/net/netfilter/nf_conntrack_count", check=True)
    return {
        "memory": int(memory[1]),  # KiB
        "files": len(list((process / "fd").iterdir())),
        "tracked": int(tracked.stdout),
        "state": lab.path("jacinth", "/run/anubis/state.json").stat().st_size,
        "watermarks": lab.path("jacinth", "/var/lib/anubis/watermarks").stat().st_size,
    }


# What can be learned

SHARED = "10.99.0.0/24"


def test_a_conflict_is_the_same_whoever_holds_the_network(lab: Lab, xena: Caller) -> None:
    """Whether selen or surya: xena gets the same refusal, without a name; the log has the name."""
    stanza = (
        f"[Peer]\nName = surya\nPublicKey = {public_key(lab, 'surya')}\n"
        f"ControlPublicKey = {public_key(lab, 'surya', 'control')}\n"
        f"AllowedIPs = {SHARED}\nGroup = shared\nEndpoint = 203.0.113.2:4296\n"
    )
    own = (
        f"[Peer]\nName = jacinth\nPublicKey = {public_key(lab, 'jacinth')}\n"
        f"ControlPublicKey = {public_key(lab, 'jacinth', 'control')}\nAllowedIPs = 10.66.0.1/32\n"
    )
    edits = [
        Edit("jacinth", AUTHORIZED_PEERS, line, f"{line}AllowedIPs = {SHARED}\nGroup = shared\n")
        for line in ("Name = xena\n", "Name = selen\n")
    ]
    edits.append(Edit("jacinth", AUTHORIZED_PEERS, "", stanza))
    edits.append(Edit("surya", AUTHORIZED_PEERS, "", own))
    with configured(lab, *edits):
        assert phone_is_up(lab)
        held_by_selen = conflict(lab, xena, "selen")
        with Caller(lab, "selen") as phone:
            assert phone.ask("down").result == "done"
        assert anubis(lab, "jacinth", "up", "surya").status == 0
        held_by_surya = conflict(lab, xena, "surya")
        assert anubis(lab, "jacinth", "down", "surya").status == 0
    assert held_by_selen == held_by_surya
    assert phone_is_up(lab)


def conflict(lab: Lab, xena: Caller, holder: str) -> tuple[int, Reply]:
    """Ask for what `holder` has; return the length of the refusal, and what does not vary in it."""
    mark = LogMark(lab, "jacinth")
    new_tunnel(lab, "xena", "jacinth")
    answer = xena.send_and_open(xena.sealed(request("up")))
    assert answer is not None
    reply = xena.opened(answer[0])
    assert reply.result == Result.CONFLICT
    assert not any(name in reply.reason for name in ("selen", "surya", "10.99"))
    assert f"its AllowedIPs are held by {holder}" in "\n".join(mark.lines)
    return len(answer[0]), Reply(bytes(16), 0, **{
        name: getattr(reply, name) for name in Reply.__dataclass_fields__
        if name not in {"request_id", "unix_ns"}
    })  # fmt: skip


def test_a_reply_tells_of_nobody_else(lab: Lab, xena: Caller) -> None:
    """Of whatever xena may ask, no answer has another peer's address or network in it."""
    others = ("10.66.0.11", "fd66::11", *endpoints(lab, "selen"), "selen", "surya")
    for verb in ("status", "up", "status", "renew", "up", "down", "status", "gone"):
        new_tunnel(lab, "xena", "jacinth")
        told = repr(xena.told(xena.sealed(request(verb))))
        assert not any(word in told for word in others), told


def test_nothing_listens_for_tcp_where_nobody_may_ask_by_web(lab: Lab, xena: Caller) -> None:
    """The confinement would let TCP to the service port through; there is nobody.

    Where somebody may, another peer is told that it may not.
    """
    assert xena.ask("up").result == "done"  # keeps the tunnel
    there = (control_address(lab, "jacinth"), SERVICE_PORT)
    with inside(lab, "xena"):
        with socket.create_connection(there, 5) as asking:
            asking.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert asking.makefile("rb").readline() == b"HTTP/1.1 403 Forbidden\r\n"
        edit = Edit("jacinth", AUTHORIZED_PEERS, "OneShot = yes\n", "")
        with edited(lab, edit):
            client(lab, "jacinth").reload()
            wait_until(lambda: is_refused(there), 5, "nobody listens")


def is_refused(there: tuple[str, int]) -> bool:
    """Tell whether a TCP connection from this thread's network is refused."""
    try:
        socket.create_connection(there, 5).close()
    except ConnectionRefusedError:
        return True
    return False
