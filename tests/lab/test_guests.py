"""A phone and a laptop that the house knows by nothing but what its administrator typed.

What `anubis peer add --phone` and `anubis invite` print is all that the other host gets. What comes
of it is seen with `wg`, ping and curl.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.steps import (
    ANUBIS_CONF,
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    anubis,
    client,
    configured,
    end_all,
    page,
    stanza_key,
    transaction,
)

TUNNEL = "/etc/wireguard/anubis.conf"
HOST = Edit(
    "jacinth",
    ANUBIS_CONF,
    "Address = 10.66.0.1/32, fd66::1/128\n",
    "Address = 10.66.0.1/32, fd66::1/128, 10.67.0.1/24, fd67::1/64\n\n"
    "[Host]\nName = house\nEndpoint = jacinth\nNetworks = 192.168.7.0/24, 2001:db8:7::/64\n",
)
# What the tests write into it is gone afterwards.
PEERS = Edit("jacinth", AUTHORIZED_PEERS, "Name = selen\n", "Name = selen\n")
IN_THE_HOUSE = "leaf, in the house"


@dataclass(frozen=True)
class Phone:
    """What the administrator was shown: the configuration, and the address of the page."""

    text: str
    page: str


@pytest.fixture(scope="module", autouse=True)
def house(lab: Lab) -> Iterator[None]:
    """Have a house that knows where it is reached and what is behind it, and no phone."""
    with configured(lab, HOST, PEERS):
        anubis(lab, "jacinth", "peer", "remove", "selen")
        yield
    end_all(lab)


@pytest.fixture(scope="module")
def phone(lab: Lab, house: None) -> Iterator[Phone]:
    """Add the phone, import what was printed into its app, and turn its tunnel on."""
    done = lab.run("jacinth", "anubis", "peer", "add", "selen", "--phone", check=True)
    found = re.search(r"its page, while its tunnel is on: (http://\S+)\n", done.stderr)
    assert found is not None
    anubis(lab, "jacinth", "reload")
    with imported(lab, done.stdout):
        yield Phone(done.stdout, found[1])


@contextmanager
def imported(lab: Lab, text: str) -> Iterator[None]:
    """Have this configuration in the phone's app, and its tunnel on."""
    path = lab.path("selen", TUNNEL)
    before = path.read_text()
    path.write_text(text)
    try:
        with transaction(lab, "selen", "wg-quick up anubis", "wg-quick down anubis"):
            yield
    finally:
        path.write_text(before)


def is_up(lab: Lab, peer: str) -> bool:
    """Tell whether the house's WireGuard has a host as a production peer."""
    key = stanza_key(lab, "jacinth", peer)
    return key in lab.run("jacinth", "wg", "show", "wg0", "peers").stdout


def post(lab: Lab, phone: Phone, verb: str) -> str:
    """Call the gateway from the phone as docs/phone.md has it, and return what it says."""
    origin, _, token = phone.page.rpartition("/")
    bearer = f"Authorization: Bearer {token}"
    words = ("curl", "-gsS", "--max-time", "10", "-X", "POST", "-H", bearer)
    return lab.run("selen", *words, f"{origin}/v1/{verb}").stdout


def test_the_app_has_what_was_printed(lab: Lab, phone: Phone) -> None:
    """Both peers with their endpoints and networks, and the key that the house knows."""
    shown = lab.run("selen", "wg", "show", "anubis", "dump").stdout.splitlines()
    assert shown[0].split("\t")[1] == stanza_key(lab, "jacinth", "selen")
    keys = re.findall(r"^PublicKey = (\S+)$", phone.text, re.M)
    networks = re.findall(r"^AllowedIPs = (.+)$", phone.text, re.M)
    peers = {line.split("\t")[0]: line.split("\t") for line in shown[1:]}
    assert [peers[key][3].replace(",", ", ") for key in keys] == networks
    assert [peers[key][2].rpartition(":")[2] for key in keys] == ["4297", "4296"]
    for interface, key in (("anubis0", keys[0]), ("wg0", keys[1])):
        own = lab.run("jacinth", "wg", "show", interface, "public-key").stdout.strip()
        # The house's production interface is there only while a connection is up.
        assert own in {key, ""}


def test_one_call_brings_the_phone_into_the_house(lab: Lab, phone: Phone) -> None:
    """With the address that was told; a second one takes it out again."""
    assert page(lab, "selen", LEAF[4]) == ""
    assert post(lab, phone, "up").startswith("house is up")
    assert is_up(lab, "selen")
    assert page(lab, "selen", LEAF[4]).startswith(IN_THE_HOUSE)
    assert page(lab, "selen", LEAF[6]).startswith(IN_THE_HOUSE)
    assert post(lab, phone, "down") == "house is down\n"
    assert not is_up(lab, "selen")


def test_the_page_has_a_button(lab: Lab, phone: Phone) -> None:
    """At the address that was told, and none without the token."""
    whole = lab.run("selen", "curl", "-gsS", phone.page).stdout
    assert '<button class="up">Connect</button>' in whole
    bare = lab.run("selen", "curl", "-gsS", phone.page.rpartition("/")[0] + "/").stdout
    assert "<button" not in bare


def test_a_script_asks_with_the_same_file(lab: Lab, phone: Phone) -> None:
    """`anubis request` finds the house in it by the name that the house gave itself."""
    for verb, expected in (("up", True), ("down", False)):
        anubis(lab, "selen", "request", verb, "house", "--config", TUNNEL)
        assert is_up(lab, "selen") is expected


def test_a_phone_that_is_disabled_is_cut_off(lab: Lab, phone: Phone) -> None:
    """Live connection and page; enabled again, it is served again."""
    post(lab, phone, "up")
    anubis(lab, "jacinth", "peer", "disable", "selen")
    told = anubis(lab, "jacinth", "reload").stdout
    assert "peers authorized" in told or "peer authorized" in told
    key = stanza_key(lab, "jacinth", "selen")

    def is_known() -> bool:
        return key in lab.run("jacinth", "wg", "show", "all", "peers").stdout

    wait_until(lambda: not is_known(), 3, "the phone is no peer of the house")
    assert not re.search("Traceback|not_taken_away", lab.daemon("jacinth").log)
    assert page(lab, "selen", LEAF[4]) == ""
    assert "selen" not in {each.name for each in client(lab, "jacinth").status()}
    anubis(lab, "jacinth", "peer", "enable", "selen")
    anubis(lab, "jacinth", "reload")
    # The phone's WireGuard goes by its old session until it has missed an answer for 15 s.
    wait_until(lambda: post(lab, phone, "up").startswith("house is up"), 40, "it is served again")
    post(lab, phone, "down")


def test_the_code_brings_another_phone_up(lab: Lab, phone: Phone) -> None:
    """What zbar reads in the picture, imported as it is, is a tunnel for everything."""
    words = ("peer", "add", "luna", "--phone", "--png", "/run/luna.png", "--full-tunnel")
    lab.run("jacinth", "anubis", *words, check=True)
    anubis(lab, "jacinth", "reload")
    picture = lab.path("jacinth", "/run/luna.png")
    assert picture.stat().st_mode & 0o777 == 0o600
    done = subprocess.run(
        ["zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", "-"],
        input=picture.read_bytes(),
        capture_output=True,
        check=True,
    )
    text = done.stdout.decode()
    assert "AllowedIPs=0.0.0.0/0,::/0\n" in text
    lab.path("selen", "/run/house.conf").write_text(text)
    lab.path("selen", "/run/house.conf").chmod(0o600)
    with (
        transaction(lab, "selen", "wg-quick down anubis", "wg-quick up anubis"),
        imported(lab, text),
    ):
        anubis(lab, "selen", "request", "up", "house", "--config", "/run/house.conf")
        assert page(lab, "selen", LEAF[6]).startswith(IN_THE_HOUSE)
        anubis(lab, "selen", "request", "down", "house", "--config", "/run/house.conf")


def test_a_laptop_joins(lab: Lab) -> None:
    """By one text there and one text back; then it reaches the house like any other."""
    anubis(lab, "jacinth", "peer", "remove", "xena")
    words = ("invite", "xena", "--output", "/run/xena.invitation")
    lab.run("jacinth", "anubis", *words, check=True)
    lab.daemon("xena").stop()
    aside = "mv /etc/anubis /etc/anubis.aside"
    back = "rm -r /etc/anubis; mv /etc/anubis.aside /etc/anubis"
    with transaction(lab, "xena", aside, back):
        invitation = lab.path("jacinth", "/run/xena.invitation").read_text()
        joined = lab.run("xena", "anubis", "join", "-", input=invitation, check=True)
        lab.daemon("xena").start()
        try:
            assert anubis(lab, "xena", "up", "house", "--timeout", "1s", status=3).stdout == ""
            lab.run("jacinth", "anubis", "peer", "add", "--from", "-", input=joined.stdout,
                    check=True)  # fmt: skip
            anubis(lab, "jacinth", "reload")
            anubis(lab, "xena", "up", "house")
            assert is_up(lab, "xena")
            assert page(lab, "xena", LEAF[4]).startswith(IN_THE_HOUSE)
            anubis(lab, "xena", "down", "house")
        finally:
            lab.daemon("xena").stop()
    lab.daemon("xena").start()
