"""The authorized-peers file read anew while connections are up, with real tunnels.

What WireGuard and the kernel have is read with `wg`, `ip` and `nft`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from anubis.errors import AnubisError, ConfigError
from anubis.events import Reloaded
from anubis.forecast import Difference
from anubis.lab.lab import Lab
from anubis.lab.observe import wait_until
from anubis.lab.slowness import stretched
from tests.lab.steps import (
    ANUBIS_CONF,
    AUTHORIZED_PEERS,
    LEAF,
    Edit,
    Ping,
    anubis,
    blocked,
    changes,
    client,
    configured,
    edited,
    end_all,
    left_over,
    page,
    seen,
    stanza_key,
    states,
    transaction,
)

CUT_SECONDS = 1.0  # from the call to the end of the tunnel


@pytest.fixture(scope="module")
def before(lab: Lab) -> dict[str, str]:
    """Return the state of every host that takes part, while nothing is up."""
    return states(lab)


@pytest.fixture(autouse=True)
def everything_as_before(lab: Lab, before: dict[str, str]) -> Iterator[None]:
    """See after each test that nothing is left of it, at either end."""
    yield
    end_all(lab)
    assert left_over(lab, before, seconds=8) == []


def stanza(lab: Lab, host: str, name: str) -> str:
    """Return the whole stanza that a host's file has for a peer."""
    parts = lab.path(host, AUTHORIZED_PEERS).read_text().split("[Peer]")
    return "[Peer]" + next(part for part in parts if f"Name = {name}\n" in part)


def without(lab: Lab, host: str, name: str) -> Edit:
    """Return the edit that removes a peer."""
    return Edit(host, AUTHORIZED_PEERS, stanza(lab, host, name), "")


def hang_up(lab: Lab, host: str) -> None:
    """Send a daemon the signal by which it reloads."""
    process = lab.daemon(host).process
    assert process is not None
    os.kill(process, signal.SIGHUP)


def is_up(lab: Lab, host: str, name: str) -> bool:
    """Return what a host's daemon says of a connection."""
    return client(lab, host).status(name)[0].state == "up"


def peers(lab: Lab, host: str) -> str:
    """Return the peers of all WireGuard interfaces of a host, with their AllowedIPs."""
    return lab.run(host, "wg", "show", "all", "allowed-ips", check=True).stdout


def sessions(lab: Lab, host: str) -> str:
    """Return when each production peer shook hands last."""
    return lab.run(host, "wg", "show", "wg0", "latest-handshakes", check=True).stdout


def test_a_removed_peer_is_cut_off_within_a_second_and_told(
    lab: Lab, before: dict[str, str]
) -> None:
    """Its live connection ends at both ends, its tunnel to the control plane too, nobody else's."""
    keys = {stanza_key(lab, "jacinth", "xena", k) for k in ("PublicKey", "ControlPublicKey")}
    anubis(lab, "xena", "up", "jacinth")
    assert all(key in peers(lab, "jacinth") for key in keys)
    with edited(lab, without(lab, "jacinth", "xena")):
        began = time.monotonic()
        done = anubis(lab, "jacinth", "reload")
        wait_until(
            lambda: not any(key in peers(lab, "jacinth") for key in keys),
            CUT_SECONDS - (time.monotonic() - began),
            "neither interface of jacinth has a peer xena",
        )
        assert "xena removed; xena cut off" in done.stdout
        wait_until(lambda: not is_up(lab, "xena", "jacinth"), 2, "xena was told")
        told = "asked=gone reason=revoked"
        wait_until(lambda: told in lab.daemon("xena").log, 2, "it was told why")
        assert left_over(lab, before, "xena") == []
        anubis(lab, "xena", "up", "jacinth", "--timeout", "1s", status=3)
        assert "dropped peer=xena" not in lab.daemon("jacinth").log[-2000:]
    anubis(lab, "xena", "up", "jacinth")


def test_who_expires_is_cut_off_within_a_second_and_told(lab: Lab, before: dict[str, str]) -> None:
    """As if it were removed in that moment, without any reload; who does not expire stays."""
    keys = {stanza_key(lab, "jacinth", "xena", k) for k in ("PublicKey", "ControlPublicKey")}
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=stretched(6))
    expires = f"Name = xena\nExpires = {end:%Y-%m-%dT%H:%M:%SZ}\n"
    with edited(lab, Edit("jacinth", AUTHORIZED_PEERS, "Name = xena\n", expires)):
        anubis(lab, "jacinth", "reload")
        anubis(lab, "xena", "up", "jacinth")
        assert 0 < (seen(lab).lease_seconds_left or 0) <= stretched(6)
        left = (end - datetime.now(UTC)).total_seconds()
        assert left > 0, "the test was too slow"
        assert all(key in peers(lab, "jacinth") for key in keys)
        wait_until(
            lambda: not any(key in peers(lab, "jacinth") for key in keys),
            left + CUT_SECONDS,
            "neither interface of jacinth has a peer xena",
        )
        assert datetime.now(UTC) >= end
        wait_until(lambda: not is_up(lab, "xena", "jacinth"), 2, "xena was told")
        assert left_over(lab, before, "xena") == []
        anubis(lab, "xena", "up", "jacinth", "--timeout", "1s", status=3)
    anubis(lab, "xena", "up", "jacinth")


def test_a_removed_peer_that_is_dead_is_cut_off_as_fast(lab: Lab, before: dict[str, str]) -> None:
    """The tunnel ends at once; only the way to tell it stays for the 2 s in which that is tried."""
    key = stanza_key(lab, "jacinth", "xena")
    control = stanza_key(lab, "jacinth", "xena", "ControlPublicKey")
    anubis(lab, "xena", "up", "jacinth")
    lab.daemon("xena").kill()
    with edited(lab, without(lab, "jacinth", "xena")):
        began = time.monotonic()
        reloaded = client(lab, "jacinth").reload()
        assert key not in peers(lab, "jacinth")
        assert time.monotonic() - began < CUT_SECONDS
        assert reloaded.ended == ("xena",)
        wait_until(lambda: control not in peers(lab, "jacinth"), 3, "the last word was said")
        rules = lab.run("jacinth", "ip", "route", "show", "table", "214", check=True).stdout
        assert "wg0" not in rules
    lab.daemon("xena").start()


def test_who_is_not_touched_notices_nothing(lab: Lab) -> None:
    """While peers come and go, a connection loses no packet and shakes no hands anew."""
    anubis(lab, "xena", "up", "jacinth")
    with Ping(lab, "xena", LEAF[4]) as ping:
        shaken = sessions(lab, "jacinth")
        with edited(lab, without(lab, "jacinth", "selen")):
            assert client(lab, "jacinth").reload().removed == ("selen",)
        assert client(lab, "jacinth").reload() == Reloaded(len(client(lab, "jacinth").status()))
        assert ping.outages() == []
        assert sessions(lab, "jacinth") == shaken


def test_one_mistake_and_everything_stays_as_it_is(lab: Lab) -> None:
    """A file with a removed peer and a misspelt key removes nobody; each problem is told."""
    text = stanza(lab, "jacinth", "selen")
    anubis(lab, "xena", "up", "jacinth")
    up = states(lab, "jacinth", "xena")
    with edited(
        lab,
        without(lab, "jacinth", "xena"),
        Edit("jacinth", AUTHORIZED_PEERS, text, text.replace("AllowedIPs", "AlowedIPs")),
    ):
        done = lab.run("jacinth", "anubis", "reload")
        assert (done.returncode, done.stdout) == (78, "")
        assert f"anubis: error: {AUTHORIZED_PEERS}:" in done.stderr
        assert "did you mean AllowedIPs?" in done.stderr
        assert "not_reloaded" in lab.daemon("jacinth").log
        with pytest.raises(ConfigError) as caught:
            client(lab, "jacinth").reload()
        assert caught.value.problems[0].location.line > 0
        assert page(lab, "xena", LEAF[4]).startswith("leaf, in the house")
        assert changes(lab, up) == []
        lab.path("jacinth", AUTHORIZED_PEERS).write_text("")  # so that the edit can be undone


def test_what_is_foretold_is_what_is_done(lab: Lab) -> None:
    """`check --diff` changes nothing and tells no secret; then the reload does just that."""
    secret = lab.run("jacinth", "wg", "genpsk", check=True).stdout.strip()
    other = lab.run("jacinth", "sh", "-c", "wg genkey | wg pubkey", check=True).stdout.strip()
    selen = stanza(lab, "jacinth", "selen")
    new = selen.replace("Name = selen\n", f"Name = selen\nPresharedKey = {secret}\nMaxLease = 1h\n")
    new += f"[Peer]\nName = guest\nPublicKey = {other}\nAllowedIPs = 10.66.0.77\n"
    readable = f"chgrp anubisd {AUTHORIZED_PEERS}; chmod 640 {AUTHORIZED_PEERS}"
    anubis(lab, "xena", "up", "jacinth")
    with (
        transaction(lab, "jacinth", readable, f"chmod 644 {AUTHORIZED_PEERS}"),
        edited(lab, Edit("jacinth", AUTHORIZED_PEERS, selen, new), without(lab, "jacinth", "xena")),
    ):
        now = states(lab)
        foretold = json.loads(anubis(lab, "jacinth", "check", "--diff", "--json").stdout)
        assert secret not in anubis(lab, "jacinth", "check", "--diff").stdout
        assert changes(lab, now) == []
        assert foretold["changed"] == [{"name": "selen", "keys": ["PresharedKey", "MaxLease"]}]
        assert secret not in str(foretold)
        done = client(lab, "jacinth").reload()
        assert done.to_json() == {
            **foretold,
            "changed": ("selen",),
            **{key: tuple(foretold[key]) for key in ("added", "removed", "ended", "warnings")},
        }
        assert (done.added, done.removed, done.ended) == (("guest",), ("xena",), ("xena",))
        assert client(lab, "jacinth").foresee_reload() == Difference(done.peers)


def test_networks_that_a_stranger_has_are_foreseen(lab: Lab) -> None:
    """Whose entry asks for what another peer of the interface has is foretold to be cut off."""
    other = lab.run("xena", "sh", "-c", "wg genkey | wg pubkey", check=True).stdout.strip()
    anubis(lab, "xena", "up", "jacinth")
    old = stanza(lab, "xena", "jacinth")
    given = old.replace("AllowedIPs = ", "AllowedIPs = 198.51.100.0/24, ")
    taken = f"wg set wg0 peer {other} allowed-ips 198.51.100.0/24"
    with (
        transaction(lab, "xena", taken, f"wg set wg0 peer {other} remove"),
        edited(lab, Edit("xena", AUTHORIZED_PEERS, old, given)),
    ):
        foretold = client(lab, "xena").foresee_reload()
        assert foretold.ended == ("jacinth",)
        assert client(lab, "xena").reload().ended == foretold.ended


def test_a_signal_reloads_too(lab: Lab) -> None:
    """SIGHUP does what `anubis reload` does, and what it finds wrong is in the log."""
    daemon = lab.daemon("jacinth")
    with edited(lab, without(lab, "jacinth", "selen")):
        known = len(daemon.log)
        hang_up(lab, "jacinth")
        wait_until(lambda: "reloaded peers=" in daemon.log[known:], 5, "it is reloaded")
        assert "selen" not in {each.name for each in client(lab, "jacinth").status()}
        lab.path("jacinth", AUTHORIZED_PEERS).write_text("[Peer]\nName = nobody\n")
        hang_up(lab, "jacinth")
        wait_until(lambda: "not_reloaded" in daemon.log[known:], 5, "the mistake is in the log")


def test_a_live_connection_gets_other_networks(lab: Lab) -> None:
    """Networks come to it and go from it, with their routes, over the session that it has."""
    anubis(lab, "xena", "up", "jacinth")
    old = stanza(lab, "xena", "jacinth")
    given = old.replace("AllowedIPs = ", "AllowedIPs = 198.51.100.0/24, ")
    with Ping(lab, "xena", LEAF[4]) as ping:
        shaken = sessions(lab, "xena")
        with edited(lab, Edit("xena", AUTHORIZED_PEERS, old, given)):
            reloaded = client(lab, "xena").reload()
            assert (reloaded.changed, reloaded.ended) == (("jacinth",), ())
            assert "198.51.100.0/24" in peers(lab, "xena")
            way = lab.run("xena", "ip", "route", "get", "198.51.100.1").stdout
            assert " dev wg0 " in way
        assert "198.51.100.0/24" not in peers(lab, "xena")
        way = lab.run("xena", "ip", "route", "get", "198.51.100.1").stdout
        assert " dev wg0 " not in way
        assert ping.outages() == []
        assert sessions(lab, "xena") == shaken


def test_live_connections_exchange_their_networks(lab: Lab) -> None:
    """In one reload each gives up what the other gets, whichever stands first in the file."""
    old = {name: stanza(lab, "xena", name) for name in ("jacinth", "surya")}
    one, two = (
        {
            name: re.sub("AllowedIPs = .*", f"AllowedIPs = {network}", old[name])
            for name, network in zip(old, networks, strict=True)
        }
        for networks in (
            ("198.51.100.0/25", "198.51.100.128/25"),
            ("198.51.100.128/25", "198.51.100.0/25"),
        )
    )
    with configured(lab, *(Edit("xena", AUTHORIZED_PEERS, old[name], one[name]) for name in old)):
        for name in old:
            anubis(lab, "xena", "up", name)
        with edited(lab, *(Edit("xena", AUTHORIZED_PEERS, one[name], two[name]) for name in old)):
            reloaded = client(lab, "xena").reload()
            assert (reloaded.changed, reloaded.ended) == (("jacinth", "surya"), ())
            for name, network in zip(old, ("198.51.100.128/25", "198.51.100.0/25"), strict=True):
                assert f"{stanza_key(lab, 'xena', name)}\t{network}" in peers(lab, "xena")


def test_who_may_no_longer_ask_is_let_go(lab: Lab, before: dict[str, str]) -> None:
    """`May` without `up` ends what the peer had asked for, and tells it; its entry stays."""
    anubis(lab, "xena", "up", "jacinth", "--pin")
    with edited(
        lab, Edit("jacinth", AUTHORIZED_PEERS, "Name = xena\n", "Name = xena\nMay = none\n")
    ):
        assert client(lab, "jacinth").reload().ended == ("xena",)
        wait_until(lambda: not is_up(lab, "xena", "jacinth"), 2, "xena was told")
        told = "asked=gone reason=not_permitted"
        wait_until(lambda: told in lab.daemon("xena").log, 2, "it was told why")
        done = lab.run("xena", "anubis", "up", "jacinth")
        assert done.returncode == 1
        assert "not_permitted" in done.stderr
        anubis(lab, "xena", "down", "jacinth")  # the pin, too


def test_other_keys_are_another_host(lab: Lab) -> None:
    """An entry with a new key ends the connection of the old one, and lets the new one in."""
    anubis(lab, "xena", "up", "jacinth")
    old = stanza_key(lab, "jacinth", "xena")
    new = lab.run("jacinth", "sh", "-c", "wg genkey | wg pubkey", check=True).stdout.strip()
    with edited(lab, Edit("jacinth", AUTHORIZED_PEERS, old, new)):
        reloaded = client(lab, "jacinth").reload()
        assert (reloaded.changed, reloaded.ended) == (("xena",), ("xena",))
        assert old not in peers(lab, "jacinth")
        # The control key is the same: whoever has it stays in the control plane.
        assert stanza_key(lab, "jacinth", "xena", "ControlPublicKey") in peers(lab, "jacinth")
        wait_until(lambda: not is_up(lab, "xena", "jacinth"), 2, "xena was told")


def test_an_up_under_way_to_a_removed_peer_leaves_nothing(lab: Lab, before: dict[str, str]) -> None:
    """It fails, says why, and brings nobody back who was removed."""
    key = stanza_key(lab, "xena", "jacinth", "ControlPublicKey")
    with blocked(lab, "udp dport 4296"), ThreadPoolExecutor(1) as pool:
        known = len(lab.daemon("jacinth").log)
        call = pool.submit(client(lab, "xena").up, "jacinth", None, 10.0)
        wait_until(
            lambda: "up connection=xena" in lab.daemon("jacinth").log[known:], 5, "it is agreed"
        )
        with edited(lab, without(lab, "xena", "jacinth")):
            began = time.monotonic()
            client(lab, "xena").reload()
            with pytest.raises(AnubisError, match=r"jacinth was removed in .* meanwhile"):
                call.result(10)
            assert time.monotonic() - began < 4
            assert key not in peers(lab, "xena")
            assert changes(lab, before, "xena") != []  # a peer less on anubis0, and nothing else
            assert all(key in line for line in changes(lab, before, "xena") if "[Peer]" in line)


def test_what_only_a_start_takes_up_is_said(lab: Lab) -> None:
    """A changed anubis.conf is no mistake, and no surprise either."""
    with edited(
        lab, Edit("jacinth", ANUBIS_CONF, "[Production]\n", "[Production]\nMaxLease = 1h\n")
    ):
        done = lab.run("jacinth", "anubis", "reload")
        assert done.returncode == 0
        assert "anubis.conf has changed: systemctl restart anubis" in done.stderr


def test_a_restart_cuts_off_and_tells_as_a_reload_does(lab: Lab, before: dict[str, str]) -> None:
    """An entry that was removed while the daemon was not there is one that was removed."""
    anubis(lab, "xena", "up", "jacinth")
    keys = {stanza_key(lab, "jacinth", "xena", k) for k in ("PublicKey", "ControlPublicKey")}
    daemon = lab.daemon("jacinth")
    with edited(lab, without(lab, "jacinth", "xena")):
        daemon.let_go()
        daemon.start()
        wait_until(lambda: not any(key in peers(lab, "jacinth") for key in keys), 5, "xena is gone")
        told = "asked=gone reason=revoked"
        wait_until(lambda: told in lab.daemon("xena").log, 2, "it was told why")
        assert left_over(lab, before, "xena") == []
