"""The authorized-peers file: entries, what must hold between them, and finding them."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.addresses import ControlAddresses, control_addresses
from anubis.errors import ConfigError, Location
from anubis.files.authorized_peers import (
    AuthorizedPeer,
    AuthorizedPeers,
    NamedEndpoint,
    OwnKeys,
    load_authorized_peers,
    load_configuration,
    load_host,
    overlaps,
    parse_authorized_peers,
)
from anubis.files.config import parse_config
from anubis.files.fields import public_key as parse_public_key
from anubis.files.ini import BadValue
from anubis.files.keyfile import GuardedFile
from anubis.files.setup_host import make_keys
from anubis.wireguard.errors import KeyFormatError
from anubis.wireguard.keys import PresharedKey, PrivateKey, PublicKey

PATH = Path("/etc/anubis/authorized_peers")


def key(number: int) -> PublicKey:
    """Return one of many keys."""
    return PublicKey(bytes([9]) + number.to_bytes(4, "big") + bytes(27))


def stanza(number: int, *lines: str) -> str:
    """Return a valid stanza with a name and key of its own, and further lines."""
    text = f"[Peer]\nPublicKey = {key(number)}\n"
    given = "".join(lines)
    if "Name" not in given:
        text += f"Name = peer{number}\n"
    if "AllowedIPs" not in given:
        text += f"AllowedIPs = 10.0.{number}.0/24\n"
    return text + "".join(f"{line}\n" for line in lines)


def read(*texts: str, own: OwnKeys | None = None, private: bool = True) -> AuthorizedPeers:
    """Parse the text of one or more stanzas as one file."""
    return parse_authorized_peers(
        [GuardedFile(PATH, "".join(texts).encode(), private=private)], own=own
    )


def one(*lines: str) -> AuthorizedPeer:
    """Return the entry of one stanza with further lines."""
    (entry,) = read(stanza(1, *lines))
    return entry


def problems_of(*texts: str, own: OwnKeys | None = None, private: bool = True) -> list[str]:
    """Return what is said about a file, without its path."""
    with pytest.raises(ConfigError) as caught:
        read(*texts, own=own, private=private)
    return [str(problem).replace(f"{PATH}:", "") for problem in caught.value.problems]


# One entry


def test_every_key_is_read() -> None:
    """Every key of a stanza arrives where it belongs."""
    secret = PresharedKey(bytes(range(32)))
    text = f"""
    # comment
    [Peer]
    Name = Jacinth.home
    PublicKey = {key(1)}
    ControlPublicKey = {key(2)}
    PresharedKey = {secret.base64()}
    AllowedIPs = 10.9.0.1/32, 10.1.2.3/16
    AllowedIPs = fd00:1::7/48
    AllowedIPs = 10.7.7.7
    Endpoint = Jacinth.example.org:51820
    ControlEndpoint = [2001:DB8:0::1]:4300
    PersistentKeepalive = 25
    Lease = 1h
    MaxLease = 1d
    IdleTimeout = OFF
    May = down, Status
    Group = Home
    OneShot = Yes
    Enabled = no
    """
    assert list(read(text)) == [
        AuthorizedPeer(
            name="jacinth.home",
            public_key=key(1),
            control_public_key=key(2),
            preshared_key=secret,
            allowed_ips=frozenset(
                map(ip_network, ("10.9.0.1/32", "10.1.0.0/16", "fd00:1::/48", "10.7.7.7/32"))
            ),
            endpoint=NamedEndpoint("Jacinth.example.org", 51820),
            control_endpoint=NamedEndpoint("2001:db8::1", 4300),
            persistent_keepalive=25,
            lease_seconds=3600,
            max_lease_seconds=86400,
            idle_timeout=0,
            may=frozenset({"down", "status"}),
            group="home",
            one_shot=True,
            enabled=False,
            location=Location(PATH, 3),
        )
    ]


def test_defaults_of_an_entry() -> None:
    """A phone has one key for both; without Endpoint there is nowhere to go."""
    entry = one()
    assert entry.control_public_key == entry.public_key
    assert entry.control == control_addresses(entry.public_key)
    assert (entry.endpoint, entry.control_endpoint, entry.preshared_key) == (None, None, None)
    assert (entry.lease_seconds, entry.max_lease_seconds, entry.group) == (None, None, None)
    assert entry.persistent_keepalive == 0
    assert entry.may == {"up", "down", "status"}


def test_control_endpoint_is_the_host_of_the_endpoint() -> None:
    """Where production is reached, the control plane is, on its own port."""
    assert one("Endpoint = [2001:db8::1]:51820").control_endpoint == NamedEndpoint(
        "2001:db8::1", 4297
    )


def test_endpoints_are_written_as_wg_writes_them() -> None:
    """The text of an endpoint can be given to `wg`, with brackets around IPv6."""
    for text in ("[2001:db8::1]:1", "192.0.2.1:65535", "a-b.example.org:4296", "[fe80::1%eth0]:9"):
        assert str(one(f"Endpoint = {text}").endpoint) == text


def test_stanza_of_wg_showconf_needs_only_a_name() -> None:
    """What `wg showconf` prints for a peer is an entry once it has a Name."""
    printed = f"""[Peer]
PublicKey = {key(1)}
PresharedKey = {base64.b64encode(bytes(range(32))).decode()}
AllowedIPs = 10.1.0.0/16, fd00:1::/48
Endpoint = 192.0.2.1:51820
PersistentKeepalive = 25
"""
    assert problems_of(printed) == [
        "1: this [Peer] has no Name (every entry needs one: Name = jacinth)"
    ]
    assert read(printed + "Name = a\n").names() == ("a",)


def test_pasted_interface_section_is_sent_where_it_belongs() -> None:
    """The other half of `wg showconf` gets an answer, and its key is not shown."""
    secret = PrivateKey.generate(secrets.token_bytes).base64()
    (problem,) = problems_of(f"[Interface]\nListenPort = 1\nPrivateKey = {secret}\n")
    assert problem.startswith("1: [Interface] does not belong here")
    assert "anubis.conf" in problem


@pytest.mark.parametrize(
    ("networks", "may"),
    [
        ("10.0.0.0/8, fc00::/7", {"up", "down", "status"}),
        ("0.0.0.0/0", {"down", "status"}),
        ("10.0.0.0/8, ::/0", {"down", "status"}),
        ("0.0.0.0/1, 128.0.0.0/1", {"down", "status"}),
        ("2000::/3", {"down", "status"}),
    ],
)
def test_nobody_becomes_our_gateway_unasked(networks: str, may: set[str]) -> None:
    """A peer with a default route, in one piece or several, may not bring it up by default."""
    assert one(f"AllowedIPs = {networks}").may == may
    assert "up" in one(f"AllowedIPs = {networks}", "May = up").may
    assert one(f"AllowedIPs = {networks}", "May = none").may == frozenset()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Name =", "Name = (nothing): not a name"),
        ("Name = -a", "not a name"),
        ("Name = a b", "not a name"),
        ("Name = é", "not a name"),
        (f"Name = {'a.' * 32}", "not a name"),
        (f"ControlPublicKey = {base64.b64encode(bytes(31)).decode()}", "not a public key"),
        ("ControlPublicKey = x", "not a public key: not base64 (44 characters, from `wg pubkey`)"),
        (f"ControlPublicKey = {'A' * 42}B=", "canonical"),
        (f"PresharedKey = {'A' * 43}=", "(not shown): all zeros"),
        ("PresharedKey = hunter2", "PresharedKey = (not shown): not a preshared key"),
        ("AllowedIPs =", "AllowedIPs = (nothing): not a network"),
        ("AllowedIPs = 10.0.0.0/33", "not a network"),
        ("AllowedIPs = 10.0.0.0/8,", "AllowedIPs = (nothing): not a network"),
        ("AllowedIPs = 10.0.0.0/255.0.0.0", "not a network"),
        ("AllowedIPs = 010.0.0.0/8", "not a network"),
        ("AllowedIPs = 10.0.0.0\u00a0/8", "AllowedIPs = 10.0.0.0\\xa0/8: not a network"),
        ("AllowedIPs = fe80::%eth0/64", "not a network"),
        ("AllowedIPs = +10.0.0.0/8", "a file says all networks"),
        ("AllowedIPs = fd61:6e75:6269:7300::7/128", "is the control plane"),
        ("AllowedIPs = fd61:6e75:6269:7300::/64", "is the control plane"),
        ("Endpoint = a.example", "no port"),
        ("Endpoint = [2001:db8::1]", "no port"),
        ("Endpoint = 2001:db8::1:4296", "without brackets"),
        ("Endpoint = a.example:0", "not a port"),
        ("Endpoint = a.example:http", "not a port"),
        ("Endpoint = 300.1.1.1:1", "not an IP address"),
        ("Endpoint = [192.0.2.1]:1", "not the address of a host"),
        ("Endpoint = 0.0.0.0:1", "not the address of a host"),
        ("Endpoint = [ff02::1]:1", "not the address of a host"),
        ("Endpoint = -a.example:1", "not a host name"),
        ("Endpoint = a..example:1", "not a host name"),
        ("Endpoint = é.example:1", "xn--"),
        ("Endpoint = :1", "not a host name"),
        ("Endpoint = a.example:4297", "cannot share a port"),
        ("PersistentKeepalive = 65536", "seconds from 1 to 65535, or off"),
        ("PersistentKeepalive = 25s", "seconds from 1 to 65535, or off"),
        ("Lease = 3", "needs a unit"),
        ("May = dwon", "did you mean down?"),
        ("May = none, up", "none stands alone"),
        ("May =", "not a verb"),
        ("Group = a/b", "not a name"),
        ("DNS = 10.0.0.1", "DNS is no key of [Peer]"),
    ],
)
def test_bad_values_are_told_with_line_and_remedy(line: str, expected: str) -> None:
    """A bad value is one problem, at its line, and says what would be right."""
    text = stanza(1, line)
    (problem,) = problems_of(text)
    assert problem.startswith(f"{text.splitlines().index(line) + 1}: ")
    assert expected in problem


def test_required_keys_are_all_named() -> None:
    """An empty stanza lacks three things, and all three are told."""
    found = problems_of("\n[Peer]\n")
    assert [problem.split(" (")[0] for problem in found] == [
        "2: this [Peer] has no AllowedIPs",
        "2: this [Peer] has no Name",
        "2: this [Peer] has no PublicKey",
    ]


@pytest.mark.parametrize("high_bit", [0, 1 << 255])
@pytest.mark.parametrize(
    "value",
    [
        *(0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18),
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    ],
)
def test_keys_of_low_order_are_refused(value: int, high_bit: int) -> None:
    """A key with which the key exchange itself fails does not get as far as the daemon."""
    weak = PublicKey((value | high_bit).to_bytes(32, "little"))
    with pytest.raises(KeyFormatError):
        PrivateKey.generate(secrets.token_bytes).exchange(weak)
    with pytest.raises(BadValue, match="low order"):
        parse_public_key(weak.base64())


def test_keepalive_and_numbers_take_the_forms_of_wg() -> None:
    """`off` is 0, in any case."""
    assert one("PersistentKeepalive = OFF").persistent_keepalive == 0
    assert one("PersistentKeepalive = 0").persistent_keepalive == 0


# What must hold between entries

A, B = stanza(1), stanza(2)  # of four lines each


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            stanza(2, "Name = PEER1"),
            "5: peer1 is the name of another entry too, at 1",
        ),
        (
            stanza(2).replace(str(key(2)), str(key(1))),
            f"5: the PublicKey of peer2, {key(1)}, is the PublicKey of peer1 too, at 1",
        ),
        (
            stanza(2, f"ControlPublicKey = {key(1)}"),
            f"5: the ControlPublicKey of peer2, {key(1)}, is the PublicKey of peer1 too, at 1",
        ),
        (
            stanza(2, "AllowedIPs = 10.0.1.0/24"),
            "5: AllowedIPs 10.0.1.0/24 of peer2 overlaps 10.0.1.0/24 of peer1, at 1",
        ),
        (
            stanza(2, "AllowedIPs = 10.0.0.0/16"),
            "5: AllowedIPs 10.0.0.0/16 of peer2 overlaps 10.0.1.0/24 of peer1, at 1",
        ),
        (
            stanza(2, "AllowedIPs = 10.0.1.7"),
            "5: AllowedIPs 10.0.1.7/32 of peer2 overlaps 10.0.1.0/24 of peer1, at 1",
        ),
    ],
)
def test_conflicts_name_both_places(text: str, expected: str) -> None:
    """Two entries that are right alone and wrong together are one problem with both places."""
    assert list(read(A))
    assert list(read(text))
    (problem,) = problems_of(A, text)
    assert problem.startswith(expected)


def test_shared_control_keys_are_refused() -> None:
    """Two entries with one control key could not be told apart."""
    both = [stanza(n, f"ControlPublicKey = {key(7)}") for n in (1, 2)]
    (problem,) = problems_of(*both)
    assert problem.startswith("6: the ControlPublicKey of peer2")


@pytest.mark.parametrize(("number", "whose"), [(1, "production"), (2, "control")])
def test_own_keys_are_refused(number: int, whose: str) -> None:
    """An entry with a key of this host is a mistake of copying, and is told as such."""
    own = OwnKeys(production=key(1), control=key(2))
    (problem,) = problems_of(stanza(number), own=own)
    assert f"is this host's own {whose} key" in problem
    assert list(read(stanza(3), own=own))


def collide(public_key: PublicKey) -> ControlAddresses:
    """Derive control addresses so badly that every two keys collide."""
    return control_addresses(PublicKey(bytes(32)))


def test_control_addresses_of_two_entries_do_not_collide() -> None:
    """Two keys with one derived address are told; that takes a derivation that collides."""
    file = GuardedFile(PATH, (A + B).encode(), private=True)
    address = collide(key(1)).routable
    with pytest.raises(ConfigError) as caught:
        parse_authorized_peers([file], derive=collide)
    (problem,) = caught.value.problems
    assert problem.location == Location(PATH, 5)
    assert f"the control address of peer2, {address}, is also that of peer1" in problem.message


def test_control_address_of_an_entry_is_not_our_own() -> None:
    """The same for this host's own address."""
    file = GuardedFile(PATH, A.encode(), private=True)
    with pytest.raises(ConfigError, match=r"is also that of this host"):
        parse_authorized_peers([file], derive=collide, own=OwnKeys(key(8), key(9)))


def test_entries_of_a_group_share_networks() -> None:
    """Two gateways to one house are no conflict; a third peer that is no part of it is."""
    home = [stanza(n, "AllowedIPs = 10.1.0.0/16", "Group = home") for n in (1, 2, 3)]
    assert len(read(*home)) == 3
    alone = stanza(4, "AllowedIPs = 10.1.7.0/24")
    other = stanza(4, "AllowedIPs = 10.1.7.0/24", "Group = work")
    for fourth in (alone, other):
        assert len(problems_of(*home, fourth)) == 1
        assert len(problems_of(fourth, *home)) == 1


def test_default_routes_overlap_only_each_other() -> None:
    """A default route beside every other network is the nature of a default route."""
    assert len(read(stanza(1, "AllowedIPs = 0.0.0.0/0, ::/0"), B)) == 2
    both = [stanza(n, "AllowedIPs = ::/0") for n in (1, 2)]
    assert len(problems_of(*both)) == 1
    assert len(read(stanza(1, "AllowedIPs = ::/0"), stanza(2, "AllowedIPs = 0.0.0.0/0"))) == 2


SMALL = st.builds(
    lambda address, length: IPv4Network((address << 24, length), strict=False),
    st.integers(0, 15),
    st.integers(0, 8).map(lambda n: n if n == 0 else n + 1),
) | st.sampled_from([ip_network("::/0"), ip_network("fd00::/16"), ip_network("fd00:1::/32")])
OWNERS = st.lists(
    st.tuples(st.frozensets(SMALL, max_size=4), st.sampled_from([None, "g", "h"])), max_size=6
)


def entries_of(owners: list[tuple[frozenset[IPv4Network], str | None]]) -> list[AuthorizedPeer]:
    """Make entries with these networks and groups."""
    return [
        AuthorizedPeer(
            name=f"peer{number}",
            public_key=key(number),
            control_public_key=key(number),
            allowed_ips=networks,
            group=group,
            location=Location(PATH, number + 1),
        )
        for number, (networks, group) in enumerate(owners)
    ]


def overlap_by_definition(a: AuthorizedPeer, b: AuthorizedPeer) -> set[tuple[object, object]]:
    """Compare every pair of networks: slow, and plainly the definition."""
    return {
        (x, y)
        for x in a.allowed_ips
        for y in b.allowed_ips
        if x.version == y.version and x.overlaps(y) and (x.prefixlen == 0) == (y.prefixlen == 0)
    }


@given(OWNERS)
def test_overlaps_are_those_of_the_definition(
    owners: list[tuple[frozenset[IPv4Network], str | None]],
) -> None:
    """The sweep over sorted networks finds what comparing every pair finds."""
    entries = entries_of(owners)
    for a in entries:
        for b in entries:
            if a is not b:
                assert overlaps(a, b) == overlap_by_definition(a, b)


@given(OWNERS)
def test_a_file_is_refused_if_and_only_if_networks_overlap(
    owners: list[tuple[frozenset[IPv4Network], str | None]],
) -> None:
    """The check of a whole file finds a conflict exactly where two entries have one."""
    from anubis.files.peer_checks import check_entries  # noqa: PLC0415  it is not for callers

    entries = entries_of(owners)
    conflicting = {
        b.location
        for number, b in enumerate(entries)
        for a in entries[:number]
        if (a.group is None or a.group != b.group) and overlap_by_definition(a, b)
    }
    found = check_entries(entries, None, control_addresses)
    assert bool(found) == bool(conflicting)
    assert {problem.location for problem in found} <= conflicting


def test_many_entries_are_checked_in_linear_time() -> None:
    """Twice as many entries of one group and network take about twice the comparisons."""
    counts = []
    for size in (500, 1000):
        counter = Counting()
        networks = frozenset({ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16")})
        entries = entries_of([(networks, counter)] * size)  # type: ignore[list-item]
        from anubis.files.peer_checks import check_entries  # noqa: PLC0415  it is not for callers

        assert check_entries(entries, None, control_addresses) == []
        counts.append(counter.compared)
    assert counts[1] < 2.5 * counts[0]


class Counting(str):
    """A group that counts how often it is compared."""

    __slots__ = ("compared",)

    def __init__(self) -> None:
        self.compared = 0

    def __eq__(self, other: object) -> bool:
        self.compared += 1
        return self is other

    def __ne__(self, other: object) -> bool:
        self.compared += 1
        return self is not other

    def __hash__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        return True


# Finding entries


def test_entries_are_found_by_name_key_and_address() -> None:
    """Every look-up finds its entry and no other, in the order of the file."""
    peers = read(A, B)
    first, second = peers
    assert (len(peers), peers.names()) == (2, ("peer1", "peer2"))
    assert peers.by_name("Peer2") is second
    assert peers.by_name("peer3") is None
    assert peers.by_public_key(key(1)) is first
    assert peers.by_public_key(key(3)) is None
    assert peers.by_control_address(second.control.routable) is second
    assert peers.by_control_address(second.control.link_local) is second
    assert peers.by_control_address(IPv6Address(f"{second.control.link_local}%anubis0")) is second
    elsewhere = IPv6Address(int(second.control.routable) ^ 1 << 64)
    assert peers.by_control_address(elsewhere) is None
    assert peers.by_control_address(control_addresses(key(3)).routable) is None


# Files


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Return a directory with a minimal, valid set of files."""
    config = parse_config(b"", tmp_path / "anubis.conf")
    make_keys(config)
    for name in ("anubis.conf", "authorized_peers"):
        (tmp_path / name).touch(mode=0o600)
    return tmp_path


def said(etc: Path) -> str:
    """Return everything that is wrong with the files, one problem a line."""
    with pytest.raises(ConfigError) as caught:
        load_host(etc / "anubis.conf")
    return str(caught.value).replace(f"{etc}/", "")


def test_directory_is_read_after_the_file_in_the_order_of_names(etc: Path) -> None:
    """`authorized_peers.d/*.conf` follow; what an editor leaves behind does not."""
    (etc / "authorized_peers").write_text(stanza(9))
    directory = etc / "authorized_peers.d"
    directory.mkdir()
    for name, number in (("b.conf", 2), ("a.conf", 1), ("c.conf~", 3), (".d.conf", 4)):
        (directory / name).write_text(stanza(number))
    peers = load_authorized_peers(etc / "authorized_peers")
    assert peers.names() == ("peer9", "peer1", "peer2")
    (directory / "z.conf").write_text(stanza(9))
    assert "authorized_peers.d/z.conf:1: peer9 is the name of another entry too" in said(etc)


def test_problems_of_all_files_are_told_together(etc: Path) -> None:
    """One run tells what is wrong with both files, the directory and both keys."""
    (etc / "anubis.conf").write_text("[Control]\nLisenPort = 1\n[Production]\nPrivateKeyFile = p\n")
    (etc / "authorized_peers").write_text("[Peer]\n")
    (etc / "authorized_peers.d").mkdir()
    (etc / "authorized_peers.d/a.conf").write_text("[Pear]\n")
    (etc / "control.key").chmod(0o644)
    text = said(etc)
    for expected in (
        "anubis.conf:2: LisenPort is no key of [Control] (did you mean ListenPort?)",
        "authorized_peers:1: this [Peer] has no Name",
        "authorized_peers.d/a.conf:1: [Pear] is no section",
        "control.key: others can read this private key",
        "p: there is no such file",
    ):
        assert expected in text
    with pytest.raises(ConfigError) as caught:
        load_configuration(etc / "anubis.conf")
    both = str(caught.value)
    assert "anubis.conf:2" in both
    assert "authorized_peers:1" in both
    assert "control.key" not in both


def test_good_files_are_loaded_with_their_keys(etc: Path) -> None:
    """What is right is returned whole."""
    (etc / "authorized_peers").write_text(stanza(1))
    host = load_host(etc / "anubis.conf")
    assert host.peers.names() == ("peer1",)
    assert host.own_keys().production == host.production_key.public_key()
    assert load_configuration(etc / "anubis.conf")[0] == host.config


def test_own_keys_are_compared_when_files_are_loaded(etc: Path) -> None:
    """An entry that is this host itself is found without being told who that is."""
    own = load_host(etc / "anubis.conf").own_keys()
    (etc / "authorized_peers").write_text(
        f"[Peer]\nName = me\nPublicKey = {own.control}\nAllowedIPs = 10.0.0.1\n"
    )
    assert "is this host's own control key" in said(etc)


def test_one_key_for_both_interfaces_is_refused(etc: Path) -> None:
    """A copied key file is not another key."""
    (etc / "control.key").write_bytes((etc / "production.key").read_bytes())
    assert "control.key: the same key as production.key" in said(etc)


def test_missing_peers_file_is_an_error_and_not_an_empty_one(etc: Path) -> None:
    """A lost file is told; it does not quietly cut off everybody."""
    (etc / "authorized_peers").unlink()
    assert "authorized_peers: there is no such file" in said(etc)


def test_preshared_keys_are_not_for_everybody_to_read(etc: Path) -> None:
    """A file with a preshared key must be private, and is told how; one without need not."""
    path = etc / "authorized_peers"
    path.chmod(0o644)
    path.write_text(stanza(1))
    assert len(load_authorized_peers(path)) == 1
    secret = base64.b64encode(secrets.token_bytes(32)).decode()
    path.write_text(stanza(1, f"PresharedKey = {secret}"))
    text = said(etc)
    assert "authorized_peers:5: PresharedKey = (not shown): others can read this file" in text
    assert f"chmod 600 {path}" in text.replace("(chmod 600 ", f"(chmod 600 {etc}/")
    assert secret not in text
    path.chmod(0o600)
    assert len(load_authorized_peers(path)) == 1


def test_preshared_keys_are_for_the_service_to_read(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the service is installed, the remedy is one with which it can still read the file."""
    monkeypatch.setattr("anubis.files.keyfile.service_group", lambda: 4298)
    path = etc / "authorized_peers"
    path.chmod(0o644)
    secret = base64.b64encode(secrets.token_bytes(32)).decode()
    path.write_text(stanza(1, f"PresharedKey = {secret}"))
    assert "(chgrp anubisd authorized_peers && chmod 640 authorized_peers)" in said(etc)
    os.chown(path, -1, 4298)
    path.chmod(0o640)
    assert len(load_authorized_peers(path)) == 1


def test_unreadable_directory_is_an_error_and_not_an_empty_one(etc: Path) -> None:
    """What cannot be listed is told, since it may hold entries."""
    (etc / "authorized_peers.d").touch()
    assert "authorized_peers.d: cannot be read: Not a directory" in said(etc)


def test_wg_takes_what_we_take(tmp_path: Path) -> None:
    """`wg` itself reads the networks that we read, to the same effect, host bits and all."""
    texts = ("10.1.2.3/16", "fd00:1::7/48", "10.7.7.7", "0.0.0.0/0", "::/0", "::ffff:1.2.3.4/128")
    ours = one(f"AllowedIPs = {', '.join(texts)}").allowed_ips
    assert len(ours) == 6
    # Without an interface of that name wg parses, then fails; what it cannot parse it says first.
    for text in (*texts, "10.0.0.0/33"):
        path = tmp_path / "wg.conf"
        path.write_text(f"[Peer]\nPublicKey = {key(1)}\nAllowedIPs = {text}\n")
        result = subprocess.run(
            ["wg", "setconf", "no-such-if", str(path)], capture_output=True, text=True, check=False
        )
        parsed = "AllowedIP" not in result.stderr.replace("Warning: AllowedIP", "")
        assert parsed == (text in texts), result.stderr


LINES = st.sampled_from(
    [*stanza(1, "Endpoint = a.example:1", "May = up", "Group = g").splitlines(), *B.splitlines()]
)
JUNK = st.one_of(st.text(max_size=12), st.sampled_from(["/", ",", "[", "9" * 30, "::", "%", "="]))


@given(st.lists(st.one_of(LINES, st.tuples(LINES, JUNK).map("".join), JUNK), max_size=14))
def test_any_file_is_understood_or_refused(lines: list[str]) -> None:
    """No text raises anything but ConfigError, however near it is to a valid file."""
    with suppress(ConfigError):
        read("\n".join(lines))


@given(st.binary(max_size=200))
def test_any_bytes_are_understood_or_refused(data: bytes) -> None:
    """Nor do any bytes."""
    file = GuardedFile(PATH, A.encode() + data, private=False)
    with suppress(ConfigError):
        parse_authorized_peers([file])


# Entries that do not count, and what is kept for those who were invited


INVITATION = """\
[Invitation]
Name = Luna
AllowedIPs = 10.0.9.5, fd00::5
Number = 00000000000000FF
Expires = 2027-01-31T18:00Z
"""


def test_a_plain_entry_counts_and_has_no_page() -> None:
    """The defaults are those of the reference."""
    assert one().enabled
    assert not one().one_shot


@pytest.mark.parametrize("key", ["OneShot", "Enabled"])
def test_an_answer_is_yes_or_no(key: str) -> None:
    """No other word is taken for either."""
    (problem,) = problems_of(stanza(1, f"{key} = true"))
    assert problem.startswith(f"5: {key} = true: not an answer (one of: yes, no)")


def test_who_is_disabled_or_invited_is_not_authorized(tmp_path: Path) -> None:
    """The daemon's table has neither; the files' own has both."""
    config = parse_config(b"", tmp_path / "anubis.conf")
    make_keys(config)
    (tmp_path / "anubis.conf").touch()
    text = stanza(1) + stanza(2, "Enabled = no") + INVITATION
    (tmp_path / "authorized_peers").write_text(text)
    host = load_host(tmp_path / "anubis.conf")
    assert host.peers.names() == ("peer1",)
    assert host.peers.by_public_key(key(2)) is None
    assert host.peers.by_control_address(control_addresses(key(2)).routable) is None
    assert host.peers.reserved == ()
    assert host.entries.names() == ("peer1", "peer2")
    assert [kept.name for kept in host.entries.reserved] == ["luna"]


def test_an_invitation_is_read() -> None:
    """Every key of it arrives where it belongs."""
    (kept,) = read(stanza(1), INVITATION).reserved
    assert kept.name == "luna"
    assert kept.allowed_ips == (ip_network("10.0.9.5/32"), ip_network("fd00::5/128"))
    assert kept.number == "00000000000000ff"
    assert kept.expires == datetime(2027, 1, 31, 18, tzinfo=UTC)
    assert kept.location == Location(PATH, 5)
    assert read(INVITATION).reservation("LUNA") == kept
    assert read(INVITATION).reservation("selen") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (stanza(1, "Enabled = no", "AllowedIPs = 10.0.2.0/24") + stanza(2), "overlaps"),
        (stanza(1, "Enabled = no") + stanza(1, "Name = b", "AllowedIPs = 10.1.1.1"), "PublicKey"),
        (stanza(1, "Name = luna") + INVITATION, "luna is the name of another entry too"),
        (stanza(1, "AllowedIPs = fd00::/64") + INVITATION, "fd00::5/128 of luna overlaps"),
        (INVITATION + INVITATION.replace("fd00::5", "fd00::6"), "luna is the name of another"),
        (INVITATION + stanza(1, "AllowedIPs = 10.0.9.5", "Group = home"), "overlaps"),
    ],
)
def test_they_keep_what_is_theirs(text: str, told: str) -> None:
    """Names, keys and networks of an entry that is disabled, or of one that is to be."""
    assert any(told in problem for problem in problems_of(text))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Number = 00000000000000FF", "this [Invitation] has no Number"),
        ("Number = ff", "not the number of an invitation"),
        ("Expires = 2027-02-30T18:00Z", "not a time"),
        ("Expires = 2027-01-31", "not a time"),
        ("PublicKey = x", "PublicKey is no key of [Invitation]"),
    ],
)
def test_what_is_wrong_with_an_invitation_is_told(line: str, told: str) -> None:
    """At its line, as of an entry."""
    key_name = line.partition(" ")[0]
    lines = [each for each in INVITATION.splitlines() if not each.startswith(key_name)]
    text = "\n".join([*lines, "" if told.endswith("no Number") else line, ""])
    assert any(told in problem for problem in problems_of(text))


def test_whoever_approves_is_found() -> None:
    """In another entry, whatever the case of its name and whether it counts or not."""
    text = stanza(1, "Approve = PEER2") + stanza(2, "Approve = peer1", "Enabled = no")
    assert [peer.approve for peer in read(text)] == ["peer2", "peer1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (stanza(1, "Approve = peer1"), "peer1 cannot approve itself"),
        (stanza(1, "Approve = peer3") + stanza(2), "(did you mean peer2?)"),
        (stanza(1, "Approve = luna") + INVITATION, "Approve = luna of peer1: no entry is called"),
        (stanza(1, "Approve = x y") + stanza(2), "not a name"),
    ],
)
def test_nobody_else_can_approve(text: str, told: str) -> None:
    """Not the peer itself, and nobody without an entry: nobody could ever approve then."""
    assert any(told in problem for problem in problems_of(text))
