"""Whatever goes wrong ends in one clear line, the right exit status, and nothing left behind.

After every test here both ends are byte for byte what they were before it.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from anubis.lab.lab import Lab
from anubis.lab.observe import snapshot, wait_until
from tests.lab.caller import Caller, inside
from tests.lab.hostile import (
    LogMark,
    anubis,
    differences,
    has_peer,
    nft_table,
    public_key,
    state,
)

CONF = "/etc/anubis/anubis.conf"
PEERS = "/etc/anubis/authorized_peers"
BLOCKED = "chain forward {{ type filter hook forward priority -10; policy accept; {} drop; }}"
STRANGER = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEI="  # a key that is nobody's


@pytest.fixture(scope="module")
def clean(lab: Lab) -> dict[str, str]:
    """Return what both ends are like while nothing was asked for."""
    return {host: state(lab, host) for host in ("xena", "jacinth")}


@pytest.fixture(autouse=True)
def _nothing_left_behind(lab: Lab, clean: dict[str, str]) -> Iterator[None]:
    """Demand that a test leaves both ends as they were, with nothing on wg0."""
    yield
    for host, text in clean.items():
        assert differences(text, state(lab, host)) == [], host
        assert lab.run(host, "wg", "show", "wg0", "peers", check=True).stdout == ""


def fails(lab: Lab, host: str, *argv: str, status: int, says: str) -> str:
    """See that a command fails as it should: status, one error line, at most one hint.

    `says` is a pattern that the whole text on standard error must contain; it is returned.
    """
    run = lab.run(host, *argv)
    assert (run.returncode, run.stdout) == (status, ""), run.stderr
    assert_clear(run.stderr, says)
    return run.stderr


def assert_clear(text: str, says: str) -> None:
    """See that a message has one line `anubis: error:`, perhaps a hint, and nothing else."""
    # What a daemon logs before it fails is not part of its message.
    lines = [line for line in text.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]
    assert lines, "failed in silence"
    assert lines[0].startswith("anubis: error: "), text
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("anubis: hint: ")), text
    assert re.search(says, text), text


@contextmanager
def stopped(lab: Lab, host: str) -> Iterator[None]:
    """Be without the daemon of a host; what fails to start meanwhile leaves nothing behind."""
    lab.daemon(host).stop()
    before = snapshot(lab, host)
    assert "anubis" not in before, "a stopped daemon has left something"
    try:
        yield
        assert differences(before, snapshot(lab, host)) == []
    finally:
        lab.daemon(host).start()


@contextmanager
def edited(lab: Lab, host: str, path: str, old: str, new: str) -> Iterator[None]:
    """Run a host's daemon with `old` replaced by `new` in a file."""
    file = lab.path(host, path)
    text = file.read_text()
    assert old in text
    try:
        lab.daemon(host).stop()
        file.write_text(text.replace(old, new))
        lab.daemon(host).start()
        yield
    finally:
        lab.daemon(host).stop()
        file.write_text(text)
        lab.daemon(host).start()


@contextmanager
def blocked(lab: Lab, what: str) -> Iterator[None]:
    """Let the hotel forward nothing that matches."""
    with nft_table(lab, "hotel", "inet blocked", BLOCKED.format(what)):
        yield


def both_ends_are_down(lab: Lab) -> bool:
    """Look whether neither end has the other on wg0."""
    return not has_peer(lab, "xena", public_key(lab, "jacinth")) and not has_peer(
        lab, "jacinth", public_key(lab, "xena")
    )


WRONG_COMMANDS = (
    ("frob", 2, "no such command: 'frob'"),
    ("upp jacinth", 2, r"did you mean up\?"),
    ("up", 2, "[Mm]issing argument"),
    ("up jacinth surya", 2, "unexpected extra argument"),
    ("up jacinth --lease 3parsecs", 2, "--lease.*not a duration"),
    ("up jacinth --tiemout 3s", 2, r"did you mean --timeout\?"),
    ("up jacint", 2, r"(?s)jacint.*hint: did you mean jacinth\?"),
    ("down leaf", 2, "leaf"),
    ("status xena", 2, "xena"),
    ("switch nobody", 2, "nobody"),
    ("up ../jacinth", 2, "jacinth"),
    ("daemon", 4, "another anubis daemon is running"),
)


def test_wrong_commands(lab: Lab) -> None:
    """Usage errors, unknown names with the nearest one, a second daemon."""
    for argv, status, says in WRONG_COMMANDS:
        fails(lab, "xena", "anubis", *argv.split(), status=status, says=says)


def test_who_may_not(lab: Lab) -> None:
    """Somebody who is neither root nor in group anubis changes nothing."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
              "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")  # fmt: skip
    for verb in ("up", "down", "switch"):
        fails(lab, "xena", *nobody, "anubis", verb, "jacinth", status=77, says="group 'anubis'")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_no_daemon(lab: Lab, end: str) -> None:
    """Every command says that the daemon does not run, and how to start it."""
    getattr(lab.daemon("xena"), end)()
    for argv in ("up jacinth", "down jacinth", "switch jacinth", "status"):
        fails(lab, "xena", "anubis", *argv.split(), status=69, says="hint: .*start anubis")
    lab.daemon("xena").start()


def test_a_stranger_holds_the_networks(lab: Lab) -> None:
    """AllowedIPs of a peer made by hand are not taken from it, at either end."""
    peer = ("wg", "set", "wg0", "peer", STRANGER)
    for host, networks, status, says in (
        ("xena", "192.168.7.0/24", 4, "192.168.7.0/24.*belongs to.*" + re.escape(STRANGER)),
        ("jacinth", "10.66.0.10/32", 1, "jacinth refused"),
    ):
        lab.run(host, *peer, "allowed-ips", networks, check=True)
        before = {each: snapshot(lab, each) for each in ("xena", "jacinth")}
        fails(lab, "xena", "anubis", "up", "jacinth", status=status, says=says)
        for each, text in before.items():
            assert differences(text, snapshot(lab, each)) == []
        lab.run(host, *peer, "remove", check=True)


def test_another_connection_holds_the_networks(lab: Lab) -> None:
    """Two gateways to one house: the second is refused, with the command that moves over."""
    assert anubis(lab, "xena", "up", "surya").status == 0
    says = "(?s)surya.*hint: anubis switch jacinth"
    fails(lab, "xena", "anubis", "up", "jacinth", status=4, says=says)
    assert has_peer(lab, "xena", public_key(lab, "surya"))
    assert anubis(lab, "xena", "down", "surya").status == 0


@pytest.mark.parametrize("host", ["xena", "jacinth"])
def test_wg0_was_deleted(lab: Lab, host: str) -> None:
    """An interface that somebody deleted behind the daemon's back is made anew."""
    lab.run(host, "ip", "link", "delete", "wg0", check=True)
    run = anubis(lab, "xena", "up", "jacinth")
    assert run.status == 0, run.stderr
    assert lab.run("xena", "curl", "-sS", "--max-time", "3", "http://192.168.7.2/").returncode == 0
    assert anubis(lab, "xena", "down", "jacinth", "--json").result == "done"


UNSAFE = (
    ("/etc/anubis/production.key", 0o644),
    ("/etc/anubis/control.key", 0o640),
    (PEERS, 0o666),
    ("/etc/anubis", 0o777),
    ("/etc/anubis/control.key", 0o000),
)


@contextmanager
def unsafe(path: Path, mode: int) -> Iterator[None]:
    """Give a file another mode; 0 takes it away."""
    old, aside = path.stat().st_mode & 0o777, path.with_name("aside")
    if mode:
        path.chmod(mode)
    else:
        path.rename(aside)
    try:
        yield
    finally:
        if mode:
            path.chmod(old)
        else:
            aside.rename(path)


def test_unsafe_files(lab: Lab) -> None:
    """A key or a file that others could read or write, or that is missing, is refused."""
    with stopped(lab, "xena"):
        for path, mode in UNSAFE:
            with unsafe(lab.path("xena", path), mode):
                for command in ("daemon", "check"):
                    done = lab.run("xena", "anubis", command)
                    assert (done.returncode, done.stdout) == (78, "")
                    lines = done.stderr.splitlines()
                    assert lines
                    for line in lines:
                        assert line.startswith("anubis: error: "), done.stderr
                        assert path in line


def test_a_bad_configuration_is_told_in_full(lab: Lab) -> None:
    """All problems of all files, each with file and line, and nothing is started."""
    conf, peers = lab.path("xena", CONF), lab.path("xena", PEERS)
    good = (conf.read_text(), peers.read_text())
    with stopped(lab, "xena"):
        conf.write_text(good[0] + "ListenPrt = 1\nAddress = 10.66.0.300/32\n")
        peers.write_text(good[1].replace("Name = surya", "Name = jacinth") + "\n[Pier]\n")
        try:
            for command in ("daemon", "check"):
                done = lab.run("xena", "anubis", command)
                assert (done.returncode, done.stdout) == (78, "")
                lines = done.stderr.splitlines()
                assert all(line.startswith("anubis: error: /etc/anubis/") for line in lines)
                for place, says in (
                    (CONF, "ListenPrt.*ListenPort"),
                    (CONF, "10.66.0.300"),
                    (PEERS, "jacinth"),
                    (PEERS, "Pier.*Peer"),
                ):
                    wanted = re.compile(rf"{place}:\d+: .*{says}")
                    assert any(wanted.search(line) for line in lines), (says, lines)
        finally:
            conf.write_text(good[0])
            peers.write_text(good[1])


@pytest.mark.parametrize(
    ("directory", "says"),
    [("/usr/bin", "wireguard-go is not installed"), ("/usr/sbin", "nft.*not installed")],
)
def test_a_program_is_missing(lab: Lab, directory: str, says: str) -> None:
    """Without wireguard-go or nft the daemon does not start, names it, and leaves nothing."""
    conf = lab.path("xena", CONF)
    text = conf.read_text()
    with stopped(lab, "xena"):
        # Also where the kernel has WireGuard.
        conf.write_text(text.replace("[Control]\n", "[Control]\nBackend = userspace\n"))
        # In a mount namespace in which the directory is empty.
        hide = 'mount -t tmpfs none "$0"; exec "$@"'
        daemon = (sys.executable, str(Path(sys.executable).parent / "anubis"), "daemon")
        command = ("unshare", "--mount", "/bin/sh", "-ec", hide, directory, *daemon)
        try:
            fails(lab, "xena", *command, status=4, says=says)
        finally:
            conf.write_text(text)


def test_a_port_is_in_use(lab: Lab) -> None:
    """Production's, the control plane's and the service's port: the daemon says which it is."""
    with stopped(lab, "xena"):
        for port in (4296, 4297, 4298):
            with (
                inside(lab, "xena"),
                socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
            ):
                six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                six.bind(("::", port))
                four.bind(("", port))
                says = f"(?s){port}.*hint: .*ss -lunp"
                fails(lab, "xena", "anubis", "daemon", status=4, says=says)


def test_the_far_end_is_down(lab: Lab) -> None:
    """No packet comes back: no answer from the control plane, where it was looked for."""
    with blocked(lab, "ip daddr 203.0.113.1"):
        says = "no answer from the control plane of jacinth at 203.0.113.1:4297"
        fails(lab, "xena", "anubis", "up", "jacinth", "--timeout", "2s", status=3, says=says)


def test_the_far_daemon_is_dead(lab: Lab) -> None:
    """The far tunnel stands and its daemon does not answer: that is what is said."""
    assert anubis(lab, "xena", "up", "jacinth").status == 0
    assert anubis(lab, "xena", "down", "jacinth").status == 0
    lab.daemon("jacinth").kill()
    says = "jacinth is reached at 203.0.113.1:4297, but its Anubis does not answer"
    fails(lab, "xena", "anubis", "up", "jacinth", "--timeout", "2s", status=3, says=says)
    lab.daemon("jacinth").start()


def test_the_far_end_refuses(lab: Lab) -> None:
    """What the far administrator does not permit is refused with that reason."""
    with edited(lab, "jacinth", PEERS, "Name = xena\n", "Name = xena\nMay = status\n"):
        says = "jacinth refused.*administrator does not let you ask for UP"
        fails(lab, "xena", "anubis", "up", "jacinth", status=1, says=says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("control", "(?s)no answer from the control plane.*hint: .*control key"),
        ("production", "(?s)is reached.*does not answer.*hint: .*both of this host's public keys"),
    ],
)
def test_the_far_end_knows_another_key(lab: Lab, name: str, says: str) -> None:
    """A key that the far end does not know meets silence there, and is named here."""
    with edited(lab, "jacinth", PEERS, public_key(lab, "xena", name), STRANGER):
        fails(lab, "xena", "anubis", "up", "jacinth", "--timeout", "2s", status=3, says=says)


def test_production_is_blocked(lab: Lab) -> None:
    """The far end agrees and production is filtered: both ends roll back; it says production."""
    mark = LogMark(lab, "jacinth")
    with blocked(lab, "udp dport 4296"):
        says = r"(?s)no handshake on production.*203\.0\.113\.1:4296.*hint: .*UDP port 4296"
        fails(lab, "xena", "anubis", "up", "jacinth", "--timeout", "2s", status=3, says=says)
        assert both_ends_are_down(lab)
    assert (len(mark.matching("up")), len(mark.matching("down"))) == (1, 1)


@pytest.fixture
def half_up(lab: Lab) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Begin an `up` that hangs when jacinth has installed xena: production is blocked."""
    mark = LogMark(lab, "jacinth")
    with blocked(lab, "udp dport 4296"), ExitStack() as stack:

        def begin(timeout: str) -> subprocess.Popen[str]:
            up = lab.popen("xena", "anubis", "up", "jacinth", "--timeout", timeout)
            stack.enter_context(up)
            stack.callback(up.kill)
            wait_until(lambda: bool(mark.matching("up")), 10, "jacinth has installed xena")
            return up

        yield begin


def test_ctrl_c_in_mid_up(lab: Lab, half_up: Callable[[str], subprocess.Popen[str]]) -> None:
    """An interrupted `up` ends with 130, and both ends roll back."""
    up = half_up("60s")
    up.send_signal(signal.SIGINT)
    output, errors = up.communicate(timeout=5)
    assert (up.returncode, output, errors) == (130, "", "anubis: error: interrupted\n")
    wait_until(lambda: both_ends_are_down(lab), 5, "both ends have rolled back")


def test_the_caller_is_killed_in_mid_up(
    lab: Lab, half_up: Callable[[str], subprocess.Popen[str]]
) -> None:
    """Who is gone needs no connection: both ends roll back."""
    half_up("60s").kill()
    wait_until(lambda: both_ends_are_down(lab), 5, "both ends have rolled back")


def test_the_network_is_cut_in_mid_up(
    lab: Lab, half_up: Callable[[str], subprocess.Popen[str]]
) -> None:
    """This end rolls back in time; the far end, which could not be told, when next asked."""
    up = half_up("1s")
    with nft_table(lab, "jacinth", "inet cut", _CUT):
        output, errors = up.communicate(timeout=10)
        assert (up.returncode, output) == (3, "")
        assert_clear(errors, "no handshake on production")
        assert not has_peer(lab, "xena", public_key(lab, "jacinth"))
        shown = json.loads(anubis(lab, "xena", "status", "jacinth", "--json").stdout)
        assert [each["state"] for each in shown["connections"]] == ["down"]
    fails(lab, "xena", "anubis", "up", "jacinth", "--timeout", "2s", status=3, says="production")
    assert both_ends_are_down(lab)


_CUT = """
    chain cut {
        type filter hook prerouting priority -450; policy accept;
        iifname "internet" ip saddr 203.0.113.9 drop
    }
"""


@pytest.mark.parametrize("again", ["before", "after"])
def test_the_far_daemon_is_killed_in_mid_up(
    lab: Lab, half_up: Callable[[str], subprocess.Popen[str]], again: str
) -> None:
    """This end rolls back; the far end too, as soon as its daemon is there and is told."""
    up = half_up("4s" if again == "before" else "2s")
    daemon = lab.daemon("jacinth")
    daemon.kill()
    try:
        if again == "before":
            daemon.start()
        output, errors = up.communicate(timeout=10)
    finally:
        if again == "after":
            daemon.start()
    assert (up.returncode, output) == (3, "")
    # As far as it had come: jacinth had agreed, or was about to.
    assert_clear(errors, "no handshake on production|does not answer|no answer")
    assert not has_peer(lab, "xena", public_key(lab, "jacinth"))
    if again == "after":
        # It knows no better than that the connection is up, until it is told, or its lease ends.
        assert has_peer(lab, "jacinth", public_key(lab, "xena"))
        fails(lab, "xena", "anubis", "up", "jacinth", "--timeout", "2s", status=3, says="product")
    assert both_ends_are_down(lab)


@pytest.mark.parametrize("host", ["xena", "jacinth"])
def test_a_killed_daemon_loses_no_tunnel(lab: Lab, host: str) -> None:
    """After kill -9 traffic flows on, a new daemon takes the connection up, and ends it."""
    page = ("curl", "-sS", "--max-time", "3", "http://192.168.7.2/")
    assert anubis(lab, "xena", "up", "jacinth").status == 0
    before = snapshot(lab, host)
    daemon = lab.daemon(host)
    daemon.kill()
    assert lab.run("xena", *page).returncode == 0
    assert differences(before, snapshot(lab, host)) == []
    daemon.start()
    assert differences(before, snapshot(lab, host)) == []
    assert lab.run("xena", *page).returncode == 0
    shown = json.loads(anubis(lab, host, "status", "--json").stdout)["connections"]
    peer = "jacinth" if host == "xena" else "xena"
    assert {each["name"]: each["state"] for each in shown}[peer] == "up"
    assert anubis(lab, "xena", "down", "jacinth", "--json").result == "done"


def test_plain_wireguard_is_heard_again_at_once(lab: Lab) -> None:
    """A phone that has taken its connection down can bring it up again at once.

    Nothing but WireGuard runs there: nobody repairs its tunnel if this end has forgotten it.
    """
    lab.run("selen", "wg-quick", "up", "anubis", check=True)
    try:
        with Caller(lab, "selen", patient=True) as phone:
            for verb in ("up", "down", "up", "down"):
                assert phone.ask(verb, seconds=5).result == "done"
                # As long as it takes somebody to see that it is done, and to change their mind.
                assert anubis(lab, "jacinth", "status").status == 0
    finally:
        lab.run("selen", "wg-quick", "down", "anubis", check=True)
