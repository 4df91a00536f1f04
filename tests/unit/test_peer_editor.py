"""`anubis peer` edits the files as a person would, and never leaves one that is not right."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anubis.errors import AnubisError, ConfigError, UnknownConnection
from anubis.files.authorized_peers import load_host
from anubis.files.peer_stanza import GRAMMAR
from anubis.wireguard.keys import PrivateKey

KEYS = [PrivateKey(bytes([number] * 32)).public_key().base64() for number in range(1, 6)]
TEXT = f"""\
# Who may ask this house.

# Xena's laptop
[Peer]
Name = xena
PublicKey = {KEYS[0]}
AllowedIPs = 10.0.0.1/32  # her only address

[Peer]
Name = surya
PublicKey = {KEYS[1]}
AllowedIPs = 10.0.0.2/32
"""


def call(*arguments: str | Path, config: Path) -> Result:
    """Run `anubis peer`; an AnubisError is left in `exception`."""
    command = importlib.import_module("anubis.cli.peer").command
    return CliRunner().invoke(command, ["--config", str(config), *map(str, arguments)])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return the configuration of a host that knows two peers, and one more in a further file."""
    init = importlib.import_module("anubis.cli.init").command
    CliRunner().invoke(init, ["--config-dir", str(tmp_path / "etc"), "--name", "house"])
    (tmp_path / "etc/authorized_peers").write_text(TEXT)
    parts = tmp_path / "etc/authorized_peers.d"
    parts.mkdir()
    part = parts / "phones.conf"
    part.write_text(f"[Peer]\nName = selen\nPublicKey = {KEYS[2]}\nAllowedIPs = 10.0.0.3/32\n")
    return tmp_path / "etc/anubis.conf"


def peers_file(config: Path) -> Path:
    """Return the authorized-peers file beside a configuration."""
    return config.with_name("authorized_peers")


def test_list_tells_where_each_stands(config: Path) -> None:
    """In the order of the files; as JSON with keys and all."""
    found = call("list", config=config)
    assert found.output.splitlines() == [
        f"xena   10.0.0.1/32  ({peers_file(config)}:4)",
        f"surya  10.0.0.2/32  ({peers_file(config)}:9)",
        f"selen  10.0.0.3/32  ({peers_file(config)}.d/phones.conf:1)",
    ]
    (peer, *_) = json.loads(call("list", "--json", config=config).output)["peers"]
    assert (peer["name"], peer["public_key"], peer["line"]) == ("xena", KEYS[0], 4)


def test_add_appends_a_section(config: Path) -> None:
    """Nothing before it is touched."""
    words = ("add", "leaf", "--public-key", KEYS[3], "--allowed-ips", "10.0.0.4/32")
    more = ("--allowed-ips", "fd00::4/128", "--endpoint", "leaf.example.org:4296")
    done = call(*words, *more, config=config)
    assert done.output.startswith(
        f"leaf is added to {peers_file(config)}; the daemon takes it up by itself"
    )
    assert peers_file(config).read_text() == (
        f"{TEXT}\n[Peer]\nName = leaf\nPublicKey = {KEYS[3]}\n"
        "AllowedIPs = 10.0.0.4/32, fd00::4/128\nEndpoint = leaf.example.org:4296\n"
    )
    entry = load_host(config).peers.by_name("leaf")
    assert entry is not None
    assert len(entry.allowed_ips) == 2


def test_rename_changes_one_word(config: Path) -> None:
    """In the file where the entry stands."""
    assert call("rename", "Xena", "Xenia", config=config).output.startswith("xena is called xenia")
    assert peers_file(config).read_text() == TEXT.replace("Name = xena", "Name = Xenia")
    call("rename", "selen", "luna", config=config)
    part = config.with_name("authorized_peers.d") / "phones.conf"
    assert part.read_text().startswith("[Peer]\nName = luna\n")


def test_remove_takes_a_section_and_its_comment(config: Path) -> None:
    """The rest stays to the letter."""
    call("remove", "xena", config=config)
    lines = TEXT.splitlines(keepends=True)
    assert peers_file(config).read_text() == "".join(lines[:2] + lines[8:])


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (("remove", "xen"), UnknownConnection, "no peer is called 'xen'"),
        (("rename", "xena", "surya"), ConfigError, "is the name of another entry too"),
        (("rename", "xena", "x y"), ConfigError, "not a name"),
        (("add", "leaf", "--public-key", KEYS[0], "--allowed-ips", "10.9.0.0/16"), ConfigError, ""),
        (("add", "leaf", "--public-key", KEYS[3], "--allowed-ips", "10.0.0.0/24"), ConfigError, ""),
        (("add", "leaf", "--public-key", "x", "--allowed-ips", "10.9.0.0/16"), ConfigError, "key"),
    ],
)
def test_what_would_not_be_right_is_not_written(
    config: Path, words: tuple[str, ...], error: type[AnubisError], told: str
) -> None:
    """The reason is told, and every file is as it was."""
    done = call(*words, config=config)
    assert isinstance(done.exception, error)
    assert told in str(done.exception)
    assert peers_file(config).read_text() == TEXT


def test_a_host_s_own_key_is_refused(config: Path) -> None:
    """Nobody becomes his own peer."""
    own = str(load_host(config).own_keys().production)
    words = ("add", "me", "--public-key", own, "--allowed-ips", "10.9.0.0/16")
    assert isinstance(call(*words, config=config).exception, ConfigError)
    assert peers_file(config).read_text() == TEXT


@pytest.mark.parametrize("value", ["a\nPublicKey = b", "a # b", "a\x1b[31m"])
def test_a_value_is_one_line(config: Path, value: str) -> None:
    """Nothing that is given becomes another line, or a comment."""
    words = ("add", value, "--public-key", KEYS[3], "--allowed-ips", "10.9.0.0/16")
    assert call(*words, config=config).exit_code == 2
    assert call("rename", "xena", value, config=config).exit_code == 2
    assert peers_file(config).read_text() == TEXT


SHOWN = f"""\
Name                 xena
Enabled              yes
PublicKey            {KEYS[0]}
ControlPublicKey     {KEYS[0]}
control address      CONTROL
PresharedKey         set
AllowedIPs           10.0.0.1/32
Endpoint             xena.example.org:4296
ControlEndpoint      xena.example.org:4297
PersistentKeepalive  off
Lease                1h
MaxLease             1d (of [Production])
IdleTimeout          off (of [Production])
May                  down, status
Group                home
Hours                always
Expires              never
Approve              nobody
OneShot              no
PostUp               none
PreDown              none
stands in            FILE:4
"""
SECRET = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="


def test_show_tells_everything_but_secrets(config: Path) -> None:
    """What counts where the entry says nothing, too; as JSON the same."""
    more = (
        f"PresharedKey = {SECRET}\nEndpoint = xena.example.org:4296\nLease = 1h\n"
        "May = status, down\nGroup = home\n"
    )
    peers_file(config).write_text(TEXT.replace("# her only address\n", f"\n{more}"))
    (peer, *_) = load_host(config).peers
    shown = SHOWN.replace("CONTROL", str(peer.control.routable))
    found = call("show", "XENA", config=config).output
    assert found == shown.replace("FILE", str(peers_file(config)))
    facts = json.loads(call("show", "xena", "--json", config=config).output)
    assert facts == {
        "name": "xena",
        "enabled": True,
        "public_key": KEYS[0],
        "control_public_key": KEYS[0],
        "control_address": str(peer.control.routable),
        "preshared_key": "set",
        "allowed_ips": ["10.0.0.1/32"],
        "endpoint": "xena.example.org:4296",
        "control_endpoint": "xena.example.org:4297",
        "persistent_keepalive": 0,
        "lease_seconds": 3600,
        "max_lease_seconds": 86400,
        "idle_timeout": 0,
        "may": ["down", "status"],
        "group": "home",
        "hours": None,
        "expires": None,
        "approve": None,
        "one_shot": False,
        "post_up": [],
        "pre_down": [],
        "file": str(peers_file(config)),
        "line": 4,
    }


def test_show_has_every_key_of_an_entry(config: Path) -> None:
    """Whatever may stand in the file is shown, in its own word."""
    rows = {line.split()[0] for line in call("show", "xena", config=config).output.splitlines()}
    assert {key.name for key in GRAMMAR.sections[0].keys} <= rows


def test_disable_and_enable_change_one_line(config: Path) -> None:
    """The entry stays where it is; enabled again, the file is as it was."""
    assert call("disable", "Xena", config=config).output.startswith("xena is disabled; the daemon")
    written = TEXT.replace("# her only address\n", "# her only address\nEnabled = no\n")
    assert peers_file(config).read_text() == written
    assert load_host(config).peers.names() == ("surya", "selen")
    line = call("list", config=config).output.splitlines()[0]
    assert line == f"xena   10.0.0.1/32  disabled  ({peers_file(config)}:4)"
    assert "Enabled              no\n" in call("show", "xena", config=config).output
    call("disable", "xena", config=config)
    assert peers_file(config).read_text() == written
    assert call("enable", "xena", config=config).output.startswith("xena is enabled; the daemon")
    assert peers_file(config).read_text() == TEXT


def test_an_approver_keeps_its_task_under_another_name(config: Path) -> None:
    """In the same file; from another file it is not taken away unawares, and neither if removed."""
    text = TEXT.replace("# her only address\n", "# her only address\nApprove = surya  # or me\n")
    peers_file(config).write_text(text)
    call("rename", "surya", "Helios", config=config)
    renamed = text.replace("Name = surya", "Name = Helios").replace("= surya  #", "= Helios  #")
    assert peers_file(config).read_text() == renamed
    assert "Approve              helios\n" in call("show", "xena", config=config).output
    assert isinstance(call("remove", "helios", config=config).exception, ConfigError)
    peers_file(config).write_text(text.replace("surya  #", "selen  #"))
    error = call("rename", "selen", "luna", config=config).exception
    assert isinstance(error, ConfigError)
    assert "Approve = selen of xena: no entry is called that" in error.message
    assert load_host(config).peers.names() == ("xena", "surya", "selen")


@pytest.mark.parametrize("verb", ["show", "disable", "enable"])
def test_who_is_not_there_is_told(config: Path, verb: str) -> None:
    """With the name that was meant, perhaps."""
    error = call(verb, "xen", config=config).exception
    assert isinstance(error, UnknownConnection)
    assert error.hint == "did you mean xena?"


def test_without_watch_a_reload_is_named(config: Path) -> None:
    """Who has to do something more is told what."""
    config.write_text(config.read_text() + "\n[Authorization]\nWatch = no\n")
    told = "it counts from the next: anubis reload\n"
    assert call("disable", "xena", config=config).output == f"xena is disabled; {told}"
    assert call("remove", "xena", config=config).output.endswith(told)
