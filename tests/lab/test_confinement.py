"""Through the control plane an authorized peer reaches the service port, and nothing else at all.

The attacker has a peer's keys and does with its own host what it likes: it writes packets straight
into its tunnel, past its own nftables, rules and routes. Every single probe is seen to arrive at
the target's control interface; what gets past the confinement there is counted behind it, at the
latest priority, and by sockets that listen on all addresses.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from anubis.lab.entry import ROUTER
from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.caller import SERVICE_PORT, Caller, inside
from tests.lab.hostile import (
    LogMark,
    anubis,
    control_address,
    has_peer,
    nft_table,
    public_key,
)
from tests.lab.packets import ETHERTYPE, Injector, checksum, ip_packet, udp_packet

ALL_PORTS = range(65536)
SOME_PORTS = (*range(1, 1024, 17), *range(1999, 2203), 4296, 4297, 4298, 4299, 51820, 65535)
LISTENING = (22, 53, 443, *range(2000, 2200), 4298, 51821, 65535)
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
WINDOW = 192  # probes under way, so that no buffer overflows
PATIENCE = 0.05  # seconds until what has not arrived is sent again
SOURCE_PORT = 4298  # the one that answers of the service come from: the likeliest to be let in
LAST_WORDS = 1.0  # seconds until both ends have forgotten the tunnel's session
SILENCE = 20.0  # seconds; WireGuard would acknowledge after 10 s, and ask again after 15 s
HEADER = {4: 20, 6: 40}  # bytes

STRANGER = {4: "10.66.0.10", 6: "fd66::10"}  # source addresses that are no control address


def probe(source: str, target: str, protocol: int) -> tuple[bytearray, int, int]:
    """Return a packet to port 0, where its checksum stands, and the sum without the port."""
    if protocol == UDP:
        payload = struct.pack(">HHHH", SOURCE_PORT, 0, 12, 0) + b"scan"
        offset = 6
    else:
        payload = struct.pack(">HHIIBBHHH", SOURCE_PORT, 0, 1, 0, 0x50, 0x02, 65535, 0, 0)
        offset = 16
    ends = ip_address(source).packed + ip_address(target).packed
    total = checksum(ends + struct.pack(">HH", protocol, len(payload)) + payload)
    packet = ip_packet(source, target, protocol, payload)
    return bytearray(packet), len(packet) - len(payload) + offset, total


class Scanner:
    """Writes packets into the tunnel of one host and sees them come out at the other."""

    def __init__(self, lab: Lab, attacker: str, victim: str) -> None:
        self._injector = Injector(lab, attacker, "anubis0")
        with inside(lab, victim):
            self._witness = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
            self._witness.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
            self._witness.bind(("anubis0", 3))

    def close(self) -> None:
        """Close the sockets."""
        self._injector.close()
        self._witness.close()

    def send(self, packet: bytes | bytearray) -> None:
        """Write one packet into the tunnel."""
        self._injector.send(packet)

    def scan(self, source: str, target: str, protocol: int, ports: Iterable[int]) -> None:
        """Send a probe to each port until every one of them has arrived."""
        packet, place, total = probe(source, target, protocol)
        header = HEADER[ip_address(target).version]
        ends = bytes(packet[header - 2 * len(ip_address(target).packed) : header])
        missing = list(ports)
        deadline = time.monotonic() + 30
        while missing:
            assert time.monotonic() < deadline, f"{len(missing)} probes never arrived"
            window, missing = missing[:WINDOW], missing[WINDOW:]
            for port in window:
                struct.pack_into(">H", packet, header + 2, port)
                right = total + port
                right = 0xFFFF ^ ((right & 0xFFFF) + (right >> 16))
                struct.pack_into(">H", packet, place, right or 0xFFFF)
                self.send(packet)
            missing += self._not_arrived(set(window), header, ends)

    def _not_arrived(self, ports: set[int], header: int, ends: bytes) -> set[int]:
        """Wait for probes to come out of the tunnel; return those that did not."""
        while ports and select.select([self._witness], [], [], PATIENCE)[0]:
            for _ in range(len(ports)):
                try:
                    packet = self._witness.recv(128, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                if packet[header - len(ends) : header] == ends:
                    ports.discard(packet[header + 2] << 8 | packet[header + 3])
        return ports

    def arrived(self, packet: bytes) -> bool:
        """Send a packet; tell whether it comes out of the tunnel."""
        self.send(packet)
        while select.select([self._witness], [], [], PATIENCE)[0]:
            if self._witness.recv(2048) == packet:
                return True
        return False


class Listeners:
    """TCP and UDP sockets on all addresses of a host, on many ports."""

    def __init__(self, lab: Lab, host: str, stack: ExitStack) -> None:
        self.sockets: list[socket.socket] = []
        with inside(lab, host):
            for port in LISTENING:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    by_web = host == "jacinth"  # where an entry may ask by web
                    if port == SERVICE_PORT and (kind == socket.SOCK_DGRAM or by_web):
                        continue  # the daemon's own
                    listener = stack.enter_context(socket.socket(socket.AF_INET6, kind))
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    listener.bind(("::", port))
                    if kind == socket.SOCK_STREAM:
                        listener.listen(16)
                    self.sockets.append(listener)

    def reached(self) -> set[tuple[str, int]]:
        """Return which of them a datagram or a connection has reached; take these in."""
        waiting = select.poll()
        by_number = {listener.fileno(): listener for listener in self.sockets}
        for number in by_number:
            waiting.register(number, select.POLLIN)
        found = set()
        for number, _ in waiting.poll(0):
            listener = by_number[number]
            port = listener.getsockname()[1]
            if listener.type == socket.SOCK_STREAM:
                listener.accept()[0].close()
                found.add(("tcp", port))
            else:
                listener.recv(2048)
                found.add(("udp", port))
        return found


WATCH = f"""
    set reached {{ typeof meta l4proto . th dport; flags dynamic; size 1024; }}
    counter input {{ }}
    counter forward {{ }}
    counter others {{ }}
    chain input {{
        type filter hook input priority 300; policy accept;
        iifname "anubis0" counter name input add @reached {{ meta l4proto . th dport }}
    }}
    chain forward {{
        type filter hook forward priority 300; policy accept;
        iifname "anubis0" counter name forward
        oifname "anubis0" counter name forward
    }}
    chain prerouting {{
        type filter hook prerouting priority -450; policy accept;
        iifname "anubis0" meta l4proto {{ tcp, udp }} th sport {SERVICE_PORT} accept
        iifname "anubis0" counter name others
    }}
"""


def counted(lab: Lab, host: str) -> tuple[dict[str, int], set[tuple[str, int]]]:
    """Return the packets of each counter, and protocol and port of what was let in."""
    shown = lab.run(host, "nft", "-j", "list", "table", "inet", "watch", check=True).stdout
    counters, reached = {}, set()
    for entry in json.loads(shown)["nftables"]:
        if "counter" in entry:
            counters[entry["counter"]["name"]] = int(entry["counter"]["packets"])
        if "set" in entry:
            for element in entry["set"].get("elem", []):
                protocol, port = element["concat"]
                reached.add((str(protocol), int(port)))
    return counters, reached


@contextmanager
def widened(lab: Lab, host: str, peer: str) -> Iterator[None]:
    """Let every address through the control tunnel, as far as WireGuard on `host` is asked."""
    key = public_key(lab, peer, "control")
    shown = lab.run(host, "wg", "show", "anubis0", "allowed-ips", check=True).stdout
    own = dict(line.split("\t") for line in shown.splitlines())[key].replace(" ", ",")
    change = ("wg", "set", "anubis0", "peer", key, "allowed-ips")
    lab.run(host, *change, "::/0,0.0.0.0/0", check=True)
    try:
        yield
    finally:
        lab.run(host, *change, own, check=True)


@contextmanager
def paused(lab: Lab, host: str) -> Iterator[None]:
    """Hold the daemon of a host up: it would put its WireGuard right."""
    process = lab.daemon(host).process
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def link_local(lab: Lab, host: str) -> str:
    """Return the link-local control address of a host."""
    identifier = ip_address(control_address(lab, host)).packed[8:]
    return str(ip_address(b"\xfe\x80" + bytes(6) + identifier))


@dataclass(frozen=True, slots=True)
class Attack:
    """Who attacks whom, and on which addresses all ports are tried; on the others, some."""

    attacker: str
    victim: str
    all_ports: tuple[str, ...]
    some_ports: tuple[str, ...]

    def ports(self, target: str) -> Sequence[int]:
        """Return the ports to be tried on an address."""
        return SOME_PORTS if target in self.some_ports else ALL_PORTS


ATTACKS = (
    Attack("xena", "jacinth", ("control", "2001:db8:7::2", "192.168.7.1"),
           ("link-local", "192.168.7.2", "2001:db8:7::1", "10.66.0.1", "fd66::1", "203.0.113.1",
            "2001:db8:0:1::1")),
    Attack("jacinth", "xena", ("control",), ("link-local", "10.9.8.10", "2001:db8:9::10")),
)  # fmt: skip


@pytest.fixture(scope="module")
def quiet_capture(lab: Lab) -> Iterator[Callable[[], list[float]]]:
    """Record bearer packets of the control plane between xena and surya, from the start on.

    Calling it gives the times at which such packets passed the hotel's network, since 1970.
    """
    command = ("tcpdump", "-lnntt", "-i", "hotel", "udp port 4297 and host 203.0.113.2")
    log = lab.state.path / "capture"

    def times() -> list[float]:
        return [float(line.split()[0]) for line in log.read_text().splitlines()]

    with log.open("w") as output, lab.popen(ROUTER, *command, stdout=output) as process:
        assert process.stderr is not None
        assert any("listening" in line for line in iter(process.stderr.readline, ""))
        yield times
        process.terminate()


@pytest.fixture(scope="module")
def visit(lab: Lab, quiet_capture: Callable[[], list[float]]) -> float:
    """Let xena go to surya and leave again; return when it had left, since 1970.

    Comes first, because the silence afterwards is heard while the other tests make their noise
    elsewhere.
    """
    key = public_key(lab, "surya", "control")

    def keepalive() -> str:
        command = ("wg", "show", "anubis0", "persistent-keepalive")
        shown = lab.run("xena", *command, check=True).stdout
        return dict(line.split("\t") for line in shown.splitlines())[key]

    assert keepalive() == "off"
    assert quiet_capture() == []
    assert anubis(lab, "xena", "up", "surya").status == 0
    assert keepalive() == "25"
    wait_until(lambda: len(quiet_capture()) >= 4, 5, "the request is on the hotel's network")
    assert anubis(lab, "xena", "down", "surya").status == 0
    assert keepalive() == "off"
    return time.time()


@pytest.mark.usefixtures("visit")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.attacker)
def test_a_scan_of_all_ports_finds_the_service_port_only(lab: Lab, attack: Attack) -> None:
    """TCP and UDP, IPv6 and IPv4, of the host itself and of hosts behind it, finds nothing else.

    First as WireGuard lets it, then with a WireGuard that lets every source address through, so
    that the confinement stands alone.
    """
    attacker, victim = attack.attacker, attack.victim
    names = {"control": control_address(lab, victim), "link-local": link_local(lab, victim)}
    targets = {names.get(name, name): attack.ports(name) for name in
               (*attack.all_ports, *attack.some_ports)}  # fmt: skip
    four = [target for target in targets if "." in target]
    with ExitStack() as stack:
        listeners = [Listeners(lab, host, stack) for host in {victim, "leaf"}]
        scanner = stack.enter_context(closing(Scanner(lab, attacker, victim)))
        # The tunnel stands, and is kept while a connection is up.
        assert anubis(lab, "xena", "up", "jacinth").status == 0
        for host in (attacker, victim):
            stack.enter_context(paused(lab, host))
        stack.enter_context(widened(lab, attacker, victim))
        for host in (attacker, victim):
            stack.enter_context(nft_table(lab, host, "inet watch", WATCH))
        stack.enter_context(nft_table(lab, "leaf", "inet watch", WATCH.replace("anubis0", "house")))
        for target in targets.keys() - set(four):
            for protocol in (TCP, UDP):
                scanner.scan(control_address(lab, attacker), target, protocol, targets[target])
        stray = bytes(probe(STRANGER[4], four[0], UDP)[0])
        assert not scanner.arrived(stray), "WireGuard lets a source address through that is not its"
        with widened(lab, victim, attacker):
            assert scanner.arrived(stray)
            for target, ports in targets.items():
                source = STRANGER[ip_address(target).version]
                for protocol in (TCP, UDP):
                    scanner.scan(source, target, protocol, ports if target in four else SOME_PORTS)
            for protocol in range(256):
                if protocol not in {TCP, UDP}:
                    scanner.send(ip_packet(control_address(lab, attacker), names["control"],
                                           protocol, bytes(16)))  # fmt: skip
            assert scanner.arrived(stray)
        counters, reached = counted(lab, victim)
        assert reached == {("tcp", SERVICE_PORT), ("udp", SERVICE_PORT)}
        assert counters["forward"] == 0
        assert counted(lab, attacker)[0]["others"] == 0, "more than the service answers"
        assert counted(lab, "leaf") == ({"input": 0, "forward": 0, "others": 0}, set())
        assert set().union(*(each.reached() for each in listeners)) <= {("tcp", SERVICE_PORT)}
    assert anubis(lab, "xena", "down", "jacinth", "--json").result == "done"  # serves as before


def test_the_listeners_are_reached_by_others(lab: Lab) -> None:
    """What the scan did not reach listens indeed: the same probes by ordinary ways find it."""
    with ExitStack() as stack:
        for host, addresses, caller in (
            ("jacinth", ("192.168.7.1", "2001:db8:7::1"), "leaf"),
            ("leaf", ("192.168.7.2", "2001:db8:7::2"), "jacinth"),
            ("xena", ("10.9.8.10", "2001:db8:9::10"), "selen"),
        ):
            listeners = Listeners(lab, host, stack)
            for address in addresses:
                with inside(lab, caller):
                    for port in (22, 2100):
                        stack.enter_context(socket.create_connection((address, port), 5))
                        family = socket.AF_INET6 if ":" in address else socket.AF_INET
                        sender = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                        sender.sendto(b"scan", (address, port))
            expected = {(kind, port) for kind in ("tcp", "udp") for port in (22, 2100)}
            found: set[tuple[str, int]] = set()

            def all_reached(
                found: set[tuple[str, int]] = found,
                listeners: Listeners = listeners,
                expected: set[tuple[str, int]] = expected,
            ) -> bool:
                found |= listeners.reached()
                return found == expected

            wait_until(all_reached, 5, f"listeners on {host} are reached")


SPOOFED = """
    counter before { }
    counter behind { }
    chain before {
        type filter hook prerouting priority -350; policy accept;
        iifname "FROM" ip6 saddr fd61:6e75:6269:7300::/64 counter name before
    }
    chain behind {
        type filter hook prerouting priority -250; policy accept;
        iifname "FROM" ip6 saddr fd61:6e75:6269:7300::/64 counter name behind
    }
"""


@pytest.mark.parametrize(("liar", "network"), [("leaf", "house"), ("surya", "internet")])
def test_a_control_address_from_outside_the_tunnel_is_dropped(
    lab: Lab, liar: str, network: str
) -> None:
    """Genuine requests of xena with xena's control address as their source, but from elsewhere."""
    show = ("ip", "-json", "link", "show", "dev", network)
    ethernet = json.loads(lab.run("jacinth", *show, check=True).stdout)[0]["address"]
    way = (network, ETHERTYPE[6], 0, 1, bytes.fromhex(ethernet.replace(":", "")))
    own, theirs = control_address(lab, "jacinth"), control_address(lab, "xena")
    targets = (own, "2001:db8:7::1", "2001:db8:0:1::1")
    mark = LogMark(lab, "jacinth")
    with (
        nft_table(lab, "jacinth", "inet watch", SPOOFED.replace("FROM", network)),
        Caller(lab, "xena") as caller,
        inside(lab, liar),
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sender,
    ):
        for verb in ("up", "status", "down"):
            request = caller.request(verb)
            for target in targets:
                packet = udp_packet((theirs, SERVICE_PORT), (target, SERVICE_PORT), request)
                sender.sendto(packet, way)
        sent = 3 * len(targets)
        wait_until(lambda: counted(lab, "jacinth")[0]["before"] == sent, 5, "all have arrived")
        assert counted(lab, "jacinth")[0]["behind"] == 0
        assert caller.answers() == []
    assert mark.lines == []
    assert not has_peer(lab, "jacinth", public_key(lab, "xena"))


def test_the_control_plane_falls_silent(
    visit: float, quiet_capture: Callable[[], list[float]]
) -> None:
    """While nothing is up not a byte is sent, not even an acknowledgement of the last answer."""
    assert quiet_capture()
    wait_until(lambda: time.time() > visit + SILENCE, SILENCE + 1, "a while has passed")
    assert [moment - visit for moment in quiet_capture() if moment > visit + LAST_WORDS] == []
