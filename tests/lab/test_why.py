"""`anubis why` names what is broken: each test breaks that very thing, and mends it as told.

Clocks that differ, and answers that are lost on their way, are in `tests/unit/test_findings.py`:
hosts of a lab have one clock, and a NAT that forgets is more than the hotel can do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest

from anubis.diagnosis import Check, Diagnosis
from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from anubis.wireguard.keys import PrivateKey
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    DAEMONS,
    Edit,
    anubis,
    blocked,
    client,
    configured,
    edited,
    end_all,
    left_over,
    seen,
    stanza_key,
    transaction,
)

pytestmark = pytest.mark.usefixtures("everything_as_before")

ECHO = "sysctl -qw net.ipv4.ping_group_range='{}'"  # who may ask for an echo
MAY = "[Peer]\nName = xena\n"


@pytest.fixture(autouse=True)
def nothing_is_up(lab: Lab, before: dict[str, str]) -> None:
    """Begin with nothing up."""
    end_all(lab)
    assert left_over(lab, before) == []


@pytest.fixture
def up(lab: Lab) -> None:
    """Bring xena's connection to jacinth up."""
    client(lab, "xena").up("jacinth")


def why(lab: Lab, host: str = "xena", peer: str = "jacinth") -> Diagnosis:
    """Return what a host's daemon finds on the chain to a far end."""
    return client(lab, host).why(peer)


def assert_whole(lab: Lab, host: str = "xena", peer: str = "jacinth") -> None:
    """See that nothing is broken, and that the exit status says so."""
    done = anubis(lab, host, "why", peer)
    assert "; nothing is broken\n" in done.stdout


def first_broken(lab: Lab, name: str, status: int, host: str = "xena") -> Check:
    """Return the first broken link, which must be this one, also by the exit status."""
    done = lab.run(host, "anubis", "why", "jacinth" if host == "xena" else "xena", "--json")
    found = Diagnosis.from_json(json.loads(done.stdout))
    assert found.broken is not None, found
    assert (found.broken.name, done.returncode) == (name, status), found
    assert found.broken.remedy
    return found.broken


def follow(lab: Lab, check: Check, host: str = "xena") -> None:
    """Do what a remedy says, which begins with a command of the host's."""
    assert check.remedy is not None
    command = re.split(r"; | \(", check.remedy)[0]
    lab.run(host, "sh", "-ec", command, check=True)


class TestWhole:
    """Nothing is broken."""

    def test_down(self, lab: Lab) -> None:
        """What is down is not broken, and looking leaves no trace."""
        assert_whole(lab)
        skipped = {check.name for check in why(lab).checks if check.state == "skipped"}
        assert skipped == {"production_handshake", "mtu", "return_path"}

    @pytest.mark.usefixtures("up")
    def test_up(self, lab: Lab) -> None:
        """From either end every link is whole, and the connection is as it was."""
        since = seen(lab).since
        for host, peer in (("xena", "jacinth"), ("jacinth", "xena")):
            found = why(lab, host, peer)
            assert {check.state for check in found.checks} == {"ok"}, found
        assert (seen(lab).state, seen(lab).since) == ("up", since)

    def test_only_for_those_who_may_change_something(self, lab: Lab) -> None:
        """A stranger on this host learns nothing."""
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        done = lab.run("xena", *nobody, "anubis", "why", "jacinth")
        assert (done.returncode, done.stdout) == (77, "")


class TestThisHost:
    """What is broken is on this host, and the remedy is a command that mends it."""

    def test_no_daemon(self, lab: Lab) -> None:
        """Nobody answers: the daemon does not run."""
        lab.daemon("xena").stop()
        check = first_broken(lab, "daemon", 69)
        assert check.remedy == "sudo systemctl start anubis"
        lab.daemon("xena").start()
        assert_whole(lab)

    def test_no_daemon_for_a_mistake(self, lab: Lab) -> None:
        """A daemon that cannot start for a mistake in the file: the file comes first."""
        mistake = Edit("xena", AUTHORIZED_PEERS, "AllowedIPs = ", "AllowedIPs = 10.0.0.0/33, ")
        lab.daemon("xena").stop()
        with edited(lab, mistake):
            check = first_broken(lab, "files", 78)
            assert f"{AUTHORIZED_PEERS}:5" in check.finding
        lab.daemon("xena").start()
        assert_whole(lab)

    def test_a_mistake_in_the_file(self, lab: Lab) -> None:
        """What a running daemon cannot take up is told with its line."""
        with edited(lab, Edit("xena", AUTHORIZED_PEERS, "Group = home", "Grup = home")):
            check = first_broken(lab, "files", 78)
            assert "Grup" in check.finding
        assert_whole(lab)

    def test_an_edit_that_is_not_in_force(self, lab: Lab) -> None:
        """Somebody has edited the entry, and not reloaded."""
        edit = Edit("xena", AUTHORIZED_PEERS, "Group = home", "Group = house")
        with edited(lab, edit):
            check = first_broken(lab, "files", 78)
            assert check.remedy is not None
            assert check.remedy.endswith("anubis reload does it")
            anubis(lab, "xena", "reload")
            assert_whole(lab)

    def test_a_peer_of_a_stranger(self, lab: Lab) -> None:
        """The far end is on the interface already, by other means."""
        key = stanza_key(lab, "xena", "jacinth")
        lab.run("xena", "wg", "set", "wg0", "peer", key, check=True)
        check = first_broken(lab, "peer", 4)
        follow(lab, check)
        assert_whole(lab)

    @pytest.mark.usefixtures("up")
    def test_a_route_of_a_stranger(self, lab: Lab) -> None:
        """A narrower route in our table leads past the tunnel."""
        route = "192.168.7.0/25 via 10.9.8.1 dev hotel table 214"
        lab.run("xena", "sh", "-ec", f"ip route add {route}", check=True)
        check = first_broken(lab, "routes", 4)
        assert "192.168.7.0/25" in check.finding
        follow(lab, check)
        assert_whole(lab)

    @pytest.mark.usefixtures("up")
    @pytest.mark.parametrize("action", ["lookup main", "prohibit"])
    @pytest.mark.parametrize("network", ["192.168.7.0/24", "2001:db8:7::/64"])
    def test_a_rule_of_a_stranger(self, lab: Lab, network: str, action: str) -> None:
        """A rule before ours leads elsewhere, or nowhere."""
        ip = "ip -6" if ":" in network else "ip"
        rule = f"{ip} rule add priority 100 to {network} {action}"
        lab.run("xena", "sh", "-ec", rule, check=True)
        check = first_broken(lab, "rules", 4)
        assert "rule 100" in check.finding
        follow(lab, check)
        assert_whole(lab)

    def test_a_strict_rp_filter(self, lab: Lab) -> None:
        """With a default route in the tunnel it drops the answers to bearer packets."""
        path = "net.ipv4.conf.hotel.rp_filter"
        strict = transaction(lab, "xena", f"sysctl -qw {path}=1", f"sysctl -qw {path}=0")
        everything = Edit("xena", AUTHORIZED_PEERS, "192.168.7.0/24", "0.0.0.0/0")
        with configured(lab, everything), strict:
            client(lab, "xena").up("jacinth")
            assert_whole(lab)
            lab.run("xena", "sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=0", check=True)
            check = first_broken(lab, "rp_filter", 4)
            follow(lab, check)
            assert_whole(lab)
            client(lab, "xena").down("jacinth")

    @pytest.mark.parametrize(
        ("chain", "rule"),
        [
            ("type filter hook output priority 0;", "udp dport 4297 drop"),
            ("type filter hook output priority 0;", "meta l4proto udp jump out"),
            ("type filter hook output priority 0; policy drop;", "tcp dport 22 accept"),
            ("type filter hook input priority 0; policy drop;", "iif lo accept"),
        ],
    )
    def test_a_firewall_of_this_host(self, lab: Lab, chain: str, rule: str) -> None:
        """A rule or a policy that drops our packets is named, and mended rule by rule."""
        out = "chain out { udp sport 4297 ip daddr 203.0.113.0/24 drop; };"
        table = f"table inet t {{ {out} chain c {{ {chain} {rule}; }}; }}"
        with transaction(lab, "xena", f"nft '{table}'", "nft delete table inet t"):
            follow(lab, first_broken(lab, "firewall", 4))
            for _ in range(6):
                broken = why(lab).broken
                if broken is None:
                    break
                assert broken.name == "firewall"
                follow(lab, broken)
            assert_whole(lab)

    def test_no_way_out(self, lab: Lab) -> None:
        """This host has no route to the far end."""
        do, undo = "ip route delete default", "ip route add default via 10.9.8.1"
        with transaction(lab, "xena", do, undo):
            check = first_broken(lab, "reachability", 3)
            assert "203.0.113.1" in check.finding
        assert_whole(lab)


class TestTheWay:
    """What is broken is on the way, or at the far end."""

    def test_a_router_says_no(self, lab: Lab) -> None:
        """What a router answers is told."""
        route = "ip route {} unreachable 203.0.113.1"
        with transaction(lab, "hotel", route.format("add"), route.format("delete")):
            check = first_broken(lab, "reachability", 3)
            assert "no route to host" in check.finding
        assert_whole(lab)

    def test_the_control_port_is_blocked(self, lab: Lab) -> None:
        """The hotel lets nothing through to the control plane."""
        with blocked(lab, "udp dport 4297"):
            check = first_broken(lab, "control_handshake", 3)
            assert check.remedy is not None
            assert "UDP port 4297 of jacinth" in check.remedy
        assert_whole(lab)

    def test_a_wrong_control_key(self, lab: Lab) -> None:
        """The far end knows another control key: both are told how to compare."""
        key = stanza_key(lab, "jacinth", "xena", "ControlPublicKey")
        other = str(PrivateKey.generate(os.urandom).public_key())
        with configured(lab, Edit("jacinth", AUTHORIZED_PEERS, key, other)):
            check = first_broken(lab, "control_handshake", 3)
            assert check.remedy is not None
            assert "ControlPublicKey" in check.remedy
        assert_whole(lab)

    def test_a_wrong_production_key(self, lab: Lab) -> None:
        """The far end knows another production key: it hears, and does not answer."""
        key = stanza_key(lab, "jacinth", "xena")
        other = str(PrivateKey.generate(os.urandom).public_key())
        with configured(lab, Edit("jacinth", AUTHORIZED_PEERS, key, other)):
            check = first_broken(lab, "far_daemon", 3)
            assert check.remedy is not None
            assert "both keys" in check.remedy
        assert_whole(lab)

    def test_the_far_daemon_is_stopped(self, lab: Lab) -> None:
        """Nobody listens on its port, says the far host."""
        lab.daemon("jacinth").stop()
        check = first_broken(lab, "control_handshake", 3)
        assert "nobody listens on UDP port 4297 of jacinth" in check.finding
        assert check.remedy == "on jacinth: sudo systemctl start anubis"
        lab.daemon("jacinth").start()
        assert_whole(lab)

    def test_the_far_daemon_is_dead(self, lab: Lab) -> None:
        """Its WireGuard shakes hands, and no daemon answers behind it."""
        lab.daemon("jacinth").kill()
        check = first_broken(lab, "far_daemon", 3)
        assert check.remedy is not None
        assert check.remedy.startswith("on jacinth: sudo systemctl start anubis")
        lab.daemon("jacinth").start()
        assert_whole(lab)

    @pytest.mark.parametrize("line", ["May = status", "Hours = Mon 00:00-00:01, Tue 00:00-00:01"])
    def test_the_far_end_would_refuse(self, lab: Lab, line: str) -> None:
        """What its administrator has not granted is told without asking for it."""
        with configured(lab, Edit("jacinth", AUTHORIZED_PEERS, MAY, f"{MAY}{line}\n")):
            check = first_broken(lab, "policy", 1)
            assert "jacinth would refuse" in check.finding
            assert seen(lab, "jacinth", "xena").state == "down"
        assert_whole(lab)

    def test_the_far_end_has_it_down(self, lab: Lab) -> None:
        """It was taken down there, and that did not come through."""
        client(lab, "xena").up("jacinth")
        with blocked(lab, "udp sport 4297"):
            client(lab, "jacinth").down("xena", 1.0)
        check = first_broken(lab, "policy", 1)
        follow(lab, check)
        assert_whole(lab)


@pytest.mark.usefixtures("up")
class TestTheTunnel:
    """The connection is up, and something happens to its packets."""

    @pytest.fixture(autouse=True)
    def echo(self, lab: Lab) -> Iterator[None]:
        """Let daemons ask for an echo, as systemd's defaults do."""
        before = {}
        for host in DAEMONS:
            path = "net.ipv4.ping_group_range"
            before[host] = lab.run(host, "sysctl", "-n", path, check=True).stdout.strip()
            lab.run(host, "sh", "-c", ECHO.format("0 2147483647"), check=True)
        yield
        for host, value in before.items():
            lab.run(host, "sh", "-c", ECHO.format(value), check=True)

    def test_the_production_port_is_blocked(self, lab: Lab) -> None:
        """Handshakes succeeded once, and nothing arrives any more."""
        with blocked(lab, "udp dport 4296"):
            check = first_broken(lab, "production_handshake", 3)
            assert check.remedy is not None
            assert "UDP port 4296 of jacinth" in check.remedy
        assert_whole(lab)

    def test_an_mtu_that_is_too_large(self, lab: Lab) -> None:
        """Large packets vanish: the largest that passes is found, and set as told."""
        with blocked(lab, "udp dport 4296 meta length > 1410"):
            check = first_broken(lab, "mtu", 3)
            assert "1420 bytes" in check.finding
            follow(lab, check)
            assert_whole(lab)
        mtu = lab.run("xena", "ip", "-json", "link", "show", "wg0", check=True).stdout
        assert json.loads(mtu)[0]["mtu"] == 1340

    def test_the_far_end_drops_our_address(self, lab: Lab) -> None:
        """AllowedIPs there do not have the address from which this host sends."""
        client(lab, "xena").down("jacinth")
        with configured(lab, Edit("jacinth", AUTHORIZED_PEERS, "10.66.0.10/32", "10.66.0.99/32")):
            client(lab, "xena").up("jacinth")
            check = first_broken(lab, "return_path", 3)
            assert "sends from 10.66.0.10" in check.finding
            assert check.remedy == "on jacinth: 10.66.0.10 in AllowedIPs of this host's entry"
            client(lab, "xena").down("jacinth")
        assert_whole(lab)

    def test_no_way_back(self, lab: Lab) -> None:
        """The far end sends its answers nowhere; asked there as told, it says why."""
        rule = "ip rule add priority 100 to 10.66.0.10 prohibit"
        lab.run("jacinth", "sh", "-ec", rule, check=True)
        check = first_broken(lab, "return_path", 3)
        assert check.remedy is not None
        assert check.remedy.startswith("on jacinth: anubis why")
        follow(lab, first_broken(lab, "rules", 4, "jacinth"), "jacinth")
        wait_until(lambda: why(lab).broken is None, 10.0, "nothing is broken")
