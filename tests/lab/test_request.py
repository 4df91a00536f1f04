"""A host with nothing but WireGuard asks its gateway by one command: no daemon, no root."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from tests.lab.steps import (
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    anubis,
    client,
    edited,
    end_all,
    page,
    stanza_key,
    transaction,
)

CONFIG = "/etc/wireguard/anubis.conf"
WORDS = ("--config", CONFIG)


@pytest.fixture(scope="module", autouse=True)
def tunnel(lab: Lab) -> Iterator[None]:
    """Have the phone's tunnel up, as its app would; in the end nothing is up."""
    with transaction(lab, "selen", "wg-quick up anubis", "wg-quick down anubis"):
        yield
    end_all(lab)


@pytest.fixture
def is_down(lab: Lab) -> Iterator[None]:
    """Take the connection down afterwards, from the phone, so that its tunnel lives on."""
    yield
    anubis(lab, "selen", "request", "down", "jacinth", *WORDS)


def is_up(lab: Lab) -> bool:
    """Return what the gateway says of the phone's connection."""
    return client(lab, "jacinth").status("selen")[0].state == "up"


def test_up_status_down(lab: Lab) -> None:
    """The house is reached after the one and not after the other; asked twice, nothing changes."""
    assert page(lab, "selen", LEAF[4]) == ""
    done = anubis(lab, "selen", "request", "up", "jacinth", *WORDS, "--lease", "1h")
    assert done.stdout.startswith("jacinth is up (")
    assert "lease 1h)" in done.stdout
    assert page(lab, "selen", LEAF[4]).startswith("leaf, in the house")
    assert is_up(lab)
    again = anubis(lab, "selen", "request", "up", "jacinth", *WORDS)
    assert again.stdout.startswith("jacinth was up already (")
    seen = json.loads(anubis(lab, "selen", "request", "status", "jacinth", *WORDS, "--json").stdout)
    assert (seen["connection"], seen["state"]) == ("jacinth", "up")
    gone = anubis(lab, "selen", "request", "down", "jacinth", *WORDS)
    assert gone.stdout.startswith("jacinth is down (")
    assert not is_up(lab)
    assert page(lab, "selen", LEAF[4]) == ""
    again = anubis(lab, "selen", "request", "down", "jacinth", *WORDS)
    assert again.stdout.startswith("jacinth was down already (")


def refused_for_a_while(lab: Lab) -> None:
    """Take the phone's permission away, and give it back."""
    edit = Edit("jacinth", AUTHORIZED_PEERS, "Name = selen\n", "Name = selen\nMay = status\n")
    with edited(lab, edit):
        client(lab, "jacinth").reload()


@pytest.mark.parametrize(
    "end",
    [lambda lab: anubis(lab, "jacinth", "down", "selen"), refused_for_a_while],
    ids=["an order", "a reload"],
)
def test_what_the_gateway_ends_can_be_asked_for_again_at_once(
    lab: Lab, end: Callable[[Lab], object], is_down: None
) -> None:
    """The phone's session on the control plane outlives it: nobody there would begin another."""
    key = stanza_key(lab, "jacinth", "selen")

    def handshakes() -> list[str]:
        shown = lab.run("jacinth", "wg", "show", "anubis0", "latest-handshakes").stdout
        return [line for line in shown.splitlines() if line.startswith(key)]

    anubis(lab, "selen", "request", "up", "jacinth", *WORDS)
    before = handshakes()
    end(lab)
    wait_until(lambda: not is_up(lab), 2, "it has ended")
    assert page(lab, "selen", LEAF[4]) == ""
    assert handshakes() == before
    assert before
    anubis(lab, "selen", "request", "up", "jacinth", *WORDS, "--timeout", "2s")
    assert is_up(lab)


def test_a_restarted_gateway_still_knows_who_has_no_daemon(lab: Lab, is_down: None) -> None:
    """It ends the connection of a phone without a word after it, too."""
    anubis(lab, "selen", "request", "up", "jacinth", *WORDS)
    lab.daemon("jacinth").kill()
    lab.daemon("jacinth").start()
    anubis(lab, "jacinth", "down", "selen")
    anubis(lab, "selen", "request", "up", "jacinth", *WORDS, "--timeout", "2s")


def test_it_needs_no_root(lab: Lab, is_down: None) -> None:
    """A user without any privilege asks with a copy of the configuration that is its own."""
    lab.run("selen", "install", "-o", "nobody", "-m", "600", CONFIG, "/run/phone.conf", check=True)
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all")
    words = ("anubis", "request", "up", "jacinth", "--config", "/run/phone.conf")
    done = lab.run("selen", *nobody, *words)
    assert done.returncode == 0, done.stderr
    assert is_up(lab)


def test_a_refusal_says_why(lab: Lab) -> None:
    """The exit status is that of `anubis up`, and the gateway's reason is told."""
    edit = Edit("jacinth", AUTHORIZED_PEERS, "Name = selen\n", "Name = selen\nMay = status\n")
    with edited(lab, edit):
        client(lab, "jacinth").reload()  # a restart would forget the phone's session
        done = lab.run("selen", "anubis", "request", "up", "jacinth", *WORDS)
        assert done.returncode == 1
        assert "jacinth refused (not_permitted): the administrator does not let you" in done.stderr


def test_a_gateway_that_does_not_answer(lab: Lab) -> None:
    """It is told after the timeout, with what to look at."""
    lab.daemon("jacinth").stop()
    done = lab.run("selen", "anubis", "request", "up", "jacinth", *WORDS, "--timeout", "0.6s")
    assert done.returncode == 3
    assert "jacinth did not answer within 0.6 s (2 requests sent)" in done.stderr
    lab.daemon("jacinth").start()


def test_a_daemon_that_comes_meanwhile_is_heard(lab: Lab) -> None:
    """The same request is sent again until its time is up."""
    lab.daemon("jacinth").stop()
    words = ("anubis", "request", "up", "jacinth", *WORDS, "--timeout", "20s")
    with lab.popen("selen", *words) as asking:
        lab.daemon("jacinth").start()
        output, errors = asking.communicate(timeout=30)
    assert (asking.returncode, errors) == (0, ""), output
    wait_until(lambda: is_up(lab), 1, "it is up")


def test_without_the_tunnel_there_is_no_way(lab: Lab) -> None:
    """That is told at once, and what to do now."""
    with transaction(lab, "selen", "wg-quick down anubis", "wg-quick up anubis"):
        done = lab.run("selen", "anubis", "request", "up", "jacinth", *WORDS)
        assert done.returncode == 4
        assert "there is no way to the control plane of jacinth" in done.stderr
        assert "bring the tunnel up first" in done.stderr


def test_what_is_wrong_on_this_side(lab: Lab) -> None:
    """A name that the file does not have, and a file that others can read."""
    done = lab.run("selen", "anubis", "request", "up", "jacint", *WORDS)
    assert done.returncode == 2
    assert "hint: did you mean jacinth?" in done.stderr
    lab.run("selen", "install", "-m", "644", CONFIG, "/run/open.conf", check=True)
    words = ("anubis", "request", "up", "jacinth", "--config", "/run/open.conf")
    done = lab.run("selen", *words)
    assert done.returncode == 78
    assert "others can read the private key in it (chmod 600 /run/open.conf)" in done.stderr
