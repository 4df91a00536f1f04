"""What others set up on a host's WireGuard stays as it is, and keeps working, beside Anubis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from anubis.errors import LocalFailure
from anubis.lab.lab import Lab
from anubis.lab.observe import snapshot, wait_until
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    LEAF,
    MAKE,
    XENA,
    Edit,
    Ping,
    anubis,
    blocked,
    client,
    configured,
    end_all,
    left_over,
    page,
    stanza_key,
    states,
    transaction,
)

ROUNDS = 10
PERMANENT = {"selen": ("10.88.0.11", "fd88::11"), "surya": ("10.88.0.2", "fd88::2")}
ENDPOINTS = {"selen": "10.9.8.11:5000", "surya": "203.0.113.2:5000"}


def public_key(lab: Lab, host: str, interface: str) -> str:
    """Return the public key of an interface."""
    return lab.run(host, "wg", "show", interface, "public-key", check=True).stdout.strip()


def new_key(lab: Lab) -> str:
    """Return the public key of nobody."""
    return lab.run("xena", "sh", "-c", "wg genkey | wg pubkey", check=True).stdout.strip()


def configuration(lab: Lab, host: str, interface: str) -> list[str]:
    """Return what `wg showconf` says, with the peers in an order of their own."""
    shown = lab.run(host, "wg", "showconf", interface, check=True).stdout
    interface_section, *peers = shown.split("[Peer]\n")
    return [interface_section.rstrip(), *sorted(peer.rstrip() for peer in peers)]


@pytest.fixture(scope="module")
def far_ends(lab: Lab) -> None:
    """Give selen and surya an interface `perm` by hand, which knows xena's production key."""
    xena = public_key(lab, "xena", "wg0")
    for host, (ipv4, ipv6) in PERMANENT.items():
        lab.run(
            host, "sh", "-ec",
            "install -d -m 1775 -g anubisd /run/wireguard;"
            f"{MAKE.format('perm')}; umask 077; wg genkey > /run/perm.key;"
            "wg set perm listen-port 5000 private-key /run/perm.key"
            f" peer {xena} allowed-ips 10.88.0.10/32,fd88::10/128;"
            f"ip addr add {ipv4}/32 dev perm; ip addr add {ipv6}/128 dev perm;"
            "ip link set perm up; ip route add 10.88.0.10 dev perm; ip route add fd88::10 dev perm",
            check=True,
        )  # fmt: skip


@pytest.fixture(params=["off", "0x1234"])
def by_hand(lab: Lab, far_ends: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """Make xena's wg0 by hand, with two permanent peers; give its fwmark."""
    mark: str = request.param
    keys = {host: public_key(lab, host, "perm") for host in PERMANENT}
    peers = " ".join(
        f"peer {keys[host]} endpoint {ENDPOINTS[host]} persistent-keepalive 5 allowed-ips"
        f" {ipv4}/32,{ipv6}/128"
        for host, (ipv4, ipv6) in PERMANENT.items()
    )
    ipv4, ipv6 = PERMANENT["surya"]
    rules = (
        f"ip rule {{0}} to {ipv4} lookup 500 priority 5000;"
        f"ip -6 rule {{0}} to {ipv6} lookup 500 priority 5000"
    )
    if mark != "off":
        rules += f";ip rule {{0}} fwmark {mark} lookup main priority 4999"
    do = (
        f"{MAKE.format('wg0')}; wg set wg0 listen-port 4296 fwmark {mark}"
        f" private-key /etc/anubis/production.key {peers};"
        + "".join(
            f"ip addr add {address} dev wg0;"
            for address in (f"{XENA[4]}/32", "10.88.0.10/32", "fd88::10/128", f"{XENA[6]}/128")
        )
        + "ip link set wg0 mtu 1400 up; ip route add 10.88.0.11 dev wg0 src 10.88.0.10;"
        "ip route add fd88::11 dev wg0; ip route add 10.88.0.2 dev wg0 src 10.88.0.10 table 500;"
        f"ip -6 route add fd88::2 dev wg0 table 500; {rules.format('add')}"
    )
    with ExitStack() as undo:
        undo.callback(lab.daemon("xena").start)
        lab.daemon("xena").stop()
        undo.enter_context(
            transaction(lab, "xena", do, f"ip link delete wg0; {rules.format('delete')}")
        )
        undo.callback(lab.daemon("xena").stop)
        undo.callback(end_all, lab)
        lab.daemon("xena").start()
        yield mark


def test_permanent_peers_do_not_notice_any_number_of_ups_and_downs(lab: Lab, by_hand: str) -> None:
    """Beside a default route of ours they lose no packet, and their configuration does not change.

    Nor does anything else that was there before the daemon, when it has stopped.
    """
    lab.daemon("xena").stop()
    before = (configuration(lab, "xena", "wg0"), snapshot(lab, "xena"))
    allowed = stanza_key(lab, "xena", "jacinth", "AllowedIPs")
    xena = client(lab, "xena")
    with ExitStack() as stack:
        stack.enter_context(
            configured(lab, Edit("xena", AUTHORIZED_PEERS, allowed, "0.0.0.0/0, ::/0"))
        )
        at_rest = states(lab)
        pings = [
            stack.enter_context(Ping(lab, "xena", address, 0.02))
            for addresses in PERMANENT.values()
            for address in addresses
        ]
        for _ in range(ROUNDS):
            xena.up("jacinth")
            shown = lab.run("xena", "wg", "show", "wg0", "fwmark").stdout.strip()
            assert shown == ("0xd6" if by_hand == "off" else by_hand)
            assert page(lab, "xena", LEAF[4]) == f"leaf, in the house\nyou are {XENA[4]}\n"
            xena.down("jacinth")
            assert configuration(lab, "xena", "wg0") == before[0]
        assert [ping.outages() for ping in pings] == [[], [], [], []]
        assert left_over(lab, at_rest) == []
        xena.up("jacinth")
        lab.daemon("xena").stop()
        assert [ping.outages() for ping in pings] == [[], [], [], []]
    lab.daemon("xena").stop()
    assert (configuration(lab, "xena", "wg0"), snapshot(lab, "xena")) == before
    assert "mtu 1400 " in lab.run("xena", "ip", "link", "show", "wg0").stdout


@pytest.mark.parametrize("by_hand", ["0x1234"], indirect=True)
def test_without_an_answer_the_far_end_is_told_by_the_uplink(lab: Lab, by_hand: str) -> None:
    """Whose ever the mark is, the control plane's bearers do not follow the default route.

    So the far end learns that an up was undone whose production never came about.
    """
    allowed = stanza_key(lab, "xena", "jacinth", "AllowedIPs")
    with (
        configured(lab, Edit("xena", AUTHORIZED_PEERS, allowed, "0.0.0.0/0, ::/0")),
        blocked(lab, "ip daddr 203.0.113.1 udp dport 4296"),
    ):
        before = states(lab)
        failed = anubis(lab, "xena", "up", "jacinth", "--timeout", "1s", status=3)
        assert "no handshake on production was seen" in failed.stderr
        assert left_over(lab, before) == []


def refused(lab: Lab, message: str, *, status: int = 4) -> None:
    """See that an up fails with this message, a pattern, and that nothing has changed anywhere."""
    before = states(lab)
    failed = anubis(lab, "xena", "up", "jacinth", status=status)
    assert re.fullmatch(f"anubis: error: {message}\nanubis: hint: .*\n", failed.stderr)
    assert left_over(lab, before) == []


def test_networks_of_a_stranger_s_peer_are_not_taken(lab: Lab) -> None:
    """An up that would take them fails and names the holder."""
    holder = new_key(lab)
    peer = f"wg set wg0 peer {holder}"
    with transaction(lab, "xena", f"{peer} allowed-ips 192.168.7.0/24", f"{peer} remove"):
        named = f"192.168.7.0/24 on wg0 belongs to the peer {re.escape(holder)}"
        refused(lab, named)
    client(lab, "xena").up("jacinth")
    end_all(lab)


def test_networks_of_a_stranger_s_peer_at_the_far_end_are_not_taken(lab: Lab) -> None:
    """The far end says no, its log names the holder, and nothing has changed at either."""
    holder = new_key(lab)
    peer = f"wg set wg0 peer {holder}"
    with transaction(lab, "jacinth", f"{peer} allowed-ips {XENA[4]}/32", f"{peer} remove"):
        refused(lab, r"jacinth refused \(failed\): .*", status=1)
    assert f"{XENA[4]}/32 on wg0 belongs to the peer {holder}" in lab.daemon("jacinth").log


def test_a_peer_of_the_same_key_by_hand_is_not_taken_over(lab: Lab) -> None:
    """An up of a far end that is a peer by other means fails, and leaves that peer as it is."""
    key = stanza_key(lab, "xena", "jacinth")
    peer = f"wg set wg0 peer {key}"
    with transaction(lab, "xena", f"{peer} allowed-ips 10.99.0.1/32", f"{peer} remove"):
        refused(lab, "jacinth is a peer of wg0 already, configured by other means")


def test_an_interface_with_another_key_is_not_used(lab: Lab) -> None:
    """Neither is it at an up, if the key changed meanwhile, nor at the start of the daemon."""
    daemon = lab.daemon("xena")
    message = "wg0 exists with another key than /etc/anubis/production.key"
    daemon.stop()
    do = f"{MAKE.format('wg0')}; wg genkey > /run/other.key; wg set wg0 private-key {{}}"
    try:
        with transaction(lab, "xena", do.format("/run/other.key"), "ip link delete wg0"):
            before = snapshot(lab, "xena")
            with pytest.raises(LocalFailure, match="the daemon of xena has died"):
                daemon.start()
            assert f"anubis: error: {message}\nanubis: hint: " in daemon.log
            assert snapshot(lab, "xena") == before
        with transaction(lab, "xena", do.format("/etc/anubis/production.key"),
                         "ip link delete wg0"):  # fmt: skip
            daemon.start()
            lab.run("xena", "wg", "set", "wg0", "private-key", "/run/other.key", check=True)
            refused(lab, message)
            daemon.stop()
    finally:
        end_all(lab)


@pytest.fixture
def side(lab: Lab, far_ends: None) -> Iterator[str]:
    """Give what follows AllowedIPs a place: a tunnel `side` of wg-quick's, from xena to selen."""
    private = lab.run("xena", "wg", "genkey").stdout.strip()
    public = lab.run("xena", "wg", "pubkey", input=f"{private}\n").stdout.strip()
    file = lab.path("xena", "/run/side.conf")
    file.touch(mode=0o600)
    peer = f"wg set perm peer {public}"
    with transaction(
        lab, "selen",
        f"{peer} allowed-ips 10.99.0.10/32; ip addr add 10.99.0.11/32 dev perm;"
        "ip route add 10.99.0.10 dev perm",
        f"{peer} remove; ip addr del 10.99.0.11/32 dev perm; ip route del 10.99.0.10 dev perm",
    ):  # fmt: skip
        yield (
            f"[Interface]\nPrivateKey = {private}\nAddress = 10.99.0.10/32, fd99::10/128\n"
            f"[Peer]\nPublicKey = {public_key(lab, 'selen', 'perm')}\n"
            f"Endpoint = {ENDPOINTS['selen']}\nAllowedIPs = "
        )
    end_all(lab)


def wg_quick(lab: Lab, configuration_text: str) -> AbstractContextManager[None]:
    """Bring a tunnel of wg-quick's up at xena, and down again."""
    lab.path("xena", "/run/side.conf").write_text(f"{configuration_text}\n")
    keep = "sysctl -qw net.ipv4.conf.all.src_valid_mark=0"  # which wg-quick sets and leaves
    return transaction(
        lab, "xena", "wg-quick up /run/side.conf", f"wg-quick down /run/side.conf; {keep}"
    )


def test_wg_quick_beside_a_connection(lab: Lab, side: str) -> None:
    """Up and down of the one, while the other is up, costs the other not a packet."""
    xena = client(lab, "xena")
    before = snapshot(lab, "xena")
    xena.up("jacinth")
    up = snapshot(lab, "xena")
    with Ping(lab, "xena", LEAF[4]) as ipv4, Ping(lab, "xena", LEAF[6]) as ipv6:
        with wg_quick(lab, side + "10.99.0.11/32"):
            assert lab.run("xena", "ping", "-nc1", "10.99.0.11").returncode == 0
        assert (ipv4.outages(), ipv6.outages()) == ([], [])
    assert snapshot(lab, "xena") == up
    xena.down("jacinth")
    with wg_quick(lab, side + "10.99.0.11/32"), Ping(lab, "xena", "10.99.0.11") as beside:
        alone = snapshot(lab, "xena")
        xena.up("jacinth")
        assert page(lab, "xena", LEAF[4]) == f"leaf, in the house\nyou are {XENA[4]}\n"
        xena.down("jacinth")
        assert snapshot(lab, "xena") == alone
        assert beside.outages() == []
    assert snapshot(lab, "xena") == before


def test_a_default_route_of_wg_quick_s_beside_a_connection(lab: Lab, side: str) -> None:
    """Both serve: what is routed to the connection goes there, all else into wg-quick's tunnel.

    The kernel puts a rule without a priority before all others; ours go before it again, those of
    the control plane, too, and back when it has gone.
    """
    xena = client(lab, "xena")
    before = snapshot(lab, "xena")
    xena.up("jacinth")
    up = snapshot(lab, "xena")
    everything = side + "0.0.0.0/0, ::/0"
    with wg_quick(lab, everything):
        for family in (4, 6):
            words = ("ip", "route", "get", LEAF[family])
            wait_until(
                lambda words=words: " dev wg0 " in lab.run("xena", *words).stdout,  # type: ignore[misc]
                2,
                f"IPv{family} leads to the house",
            )
            seen = page(lab, "xena", LEAF[family])
            assert seen == f"leaf, in the house\nyou are {XENA[family]}\n"
        assert lab.run("xena", "ping", "-nc1", "10.99.0.11").returncode == 0
        for address in ("192.0.2.77", "2001:db8:77::1"):
            way = lab.run("xena", "ip", "route", "get", address).stdout
            assert " dev side " in way, way
    wait_until(lambda: snapshot(lab, "xena") == up, 5, "all is where it was")
    for family in (4, 6):
        seen = page(lab, "xena", LEAF[family])
        assert seen == f"leaf, in the house\nyou are {XENA[family]}\n"
    with wg_quick(lab, everything):
        told = xena.down("jacinth")
        assert (told.result, told.warnings) == ("done", ())
    wait_until(lambda: snapshot(lab, "xena") == before, 5, "nothing is left")
