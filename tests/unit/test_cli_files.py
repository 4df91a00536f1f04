"""`anubis check`, `anubis keygen` and `anubis init`, as somebody at a terminal meets them."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anubis.cli import app
from anubis.client import Client
from anubis.errors import ConfigError, LocalFailure, NotPermitted
from anubis.files.authorized_peers import load_host
from anubis.files.config import DEFAULT_CONFIG, parse_config
from anubis.files.setup_host import make_keys
from anubis.forecast import Difference


def call(name: str, *arguments: str | Path) -> Result:
    """Run one command; an AnubisError is left in `exception`, for the group to explain."""
    command = importlib.import_module(f"anubis.cli.{name}").command
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def snapshot(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return every file below a directory with its inode, mode and content."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mode, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


def secrets_in(directory: Path) -> list[str]:
    """Return the private keys below a directory, in the forms in which they could leak."""
    keys = [path.read_text().strip() for path in directory.rglob("*.key")]
    return [form for key in keys for form in (key, key[:20])]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Return the directory of a host that was set up by `anubis init`."""
    result = call("init", "--config-dir", tmp_path / "etc", "--name", "xena")
    assert result.exception is None
    return tmp_path / "etc"


@pytest.mark.parametrize(
    ("name", "path"),
    [("check", DEFAULT_CONFIG), ("keygen", DEFAULT_CONFIG), ("init", DEFAULT_CONFIG.parent)],
)
def test_defaults_are_the_paths_of_the_reference(name: str, path: Path) -> None:
    """What --help says is where the files are."""
    assert f"[default: {path}]" in re.sub(r"\s+", " ", call(name, "--help").output)


def test_what_init_writes_passes_check(etc: Path) -> None:
    """A new user who types `anubis init` and `anubis check` is told that all is right."""
    result = call("check", "--config", etc / "anubis.conf")
    assert result.exit_code == 0
    assert f"0 peers in {etc}/authorized_peers\n" in result.output
    own = load_host(etc / "anubis.conf").own_keys()
    for fact in (own.production, own.control, own.control_addresses.routable):
        assert str(fact) in result.output


def test_hosts_that_exchange_what_init_prints_know_each_other(tmp_path: Path) -> None:
    """The section that `init` prints, pasted as it is, is an entry of the other host's file."""
    hosts = {}
    for name in ("xena", "jacinth"):
        result = call("init", "--config-dir", tmp_path / name, "--name", name)
        hosts[name] = result.output[result.output.index("[Peer]") :].partition("\n\n")[0]
    for name, other in (("xena", "jacinth"), ("jacinth", "xena")):
        with (tmp_path / name / "authorized_peers").open("a") as file:
            file.write(hosts[other])
        result = call("check", "--config", tmp_path / name / "anubis.conf")
        assert f"1 peer in {tmp_path}/{name}/authorized_peers: {other}\n" in result.output
        (entry,) = load_host(tmp_path / name / "anubis.conf").peers
        there = load_host(tmp_path / other / "anubis.conf")
        assert entry.public_key == there.own_keys().production
        assert entry.control == there.own_keys().control_addresses
        (address,) = there.config.production.addresses
        assert [network.network_address for network in entry.allowed_ips] == [address.ip]


def test_init_takes_addresses(tmp_path: Path) -> None:
    """Addresses that are given are this host's, and the other host allows just those."""
    result = call(
        *("init", "--config-dir", tmp_path, "--name", "Xena"),
        *("--address", "10.9.0.2/24", "--address", "fd00:9::2/64"),
    )
    assert "Name = xena\n" in result.output
    assert "AllowedIPs = 10.9.0.2/32, fd00:9::2/128\n" in result.output
    addresses = load_host(tmp_path / "anubis.conf").config.production.addresses
    assert list(map(str, addresses)) == ["10.9.0.2/24", "fd00:9::2/64"]


def test_init_makes_up_an_address_of_its_own(tmp_path: Path) -> None:
    """Two hosts that were told nothing have different unique local addresses (RFC 4193)."""
    found = []
    for name in ("a", "b"):
        call("init", "--config-dir", tmp_path / name, "--name", name)
        (address,) = load_host(tmp_path / name / "anubis.conf").config.production.addresses
        assert address.ip.packed[0] == 0xFD
        found.append(address)
    assert found[0] != found[1]


def test_init_changes_nothing_that_exists(etc: Path) -> None:
    """A second init keeps every file, says so, and says that --address was of no use."""
    before = snapshot(etc)
    result = call("init", "--config-dir", etc, "--name", "xena", "--address", "10.9.0.9/24")
    assert snapshot(etc) == before
    assert result.output.count("which existed") == 4
    assert "--address was not used" in result.output
    assert "10.9.0.9" not in result.output


def test_init_completes_what_is_missing(etc: Path) -> None:
    """With one file lost, init writes that one and no other."""
    before = snapshot(etc)
    (etc / "control.key").unlink()
    result = call("init", "--config-dir", etc, "--name", "xena")
    assert result.exit_code == 0
    after = snapshot(etc)
    assert {name for name in after if after[name] != before[name]} == {f"{etc}/control.key"}


def test_init_over_a_bad_configuration_adds_no_keys(etc: Path) -> None:
    """Where the configuration cannot be understood, nobody knows where its keys belong."""
    for path in etc.glob("*.key"):
        path.unlink()
    (etc / "anubis.conf").write_text("[Producktion]\n")
    before = snapshot(etc)
    assert isinstance(call("init", "--config-dir", etc, "--name", "a").exception, ConfigError)
    assert snapshot(etc) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--name", "a b"], "not a name"), (["--address", "10.9.0.2/33"], "not an address")],
)
def test_init_refuses_bad_arguments_before_it_writes(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    """A mistake in the command line is exit status 2 and leaves no file."""
    result = call("init", "--config-dir", tmp_path / "etc", *arguments)
    assert result.exit_code == 2
    assert expected in re.sub(r"[\s│]+", " ", result.output)
    assert list(tmp_path.iterdir()) == []


def test_keygen_makes_both_keys_where_the_configuration_says(tmp_path: Path) -> None:
    """The paths of the file count; without a file, those beside where it would be."""
    (tmp_path / "anubis.conf").write_text("[Control]\nPrivateKeyFile = deep/er/c.key\n")
    result = call("keygen", "--config", tmp_path / "anubis.conf")
    assert result.exit_code == 0
    made = ["production.key", "deep/er/c.key"]
    assert result.output.splitlines()[:2] == [f"made {tmp_path}/{name}" for name in made]
    for name in made:
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert call("keygen", "--config", tmp_path / "new/anubis.conf").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "control.key",
        "production.key",
    ]


def test_keygen_prints_what_wg_pubkey_prints(tmp_path: Path) -> None:
    """The public keys shown are those of the private keys written, by the word of `wg`."""
    output = call("keygen", "--config", tmp_path / "anubis.conf").output
    for name in ("production", "control"):
        private = (tmp_path / f"{name}.key").read_bytes()
        public = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, check=True)
        assert re.search(rf"^{name} public key +{re.escape(public.stdout.decode())}", output, re.M)


def test_keygen_keeps_the_keys_that_exist(etc: Path) -> None:
    """However often it runs, a key stays what it was."""
    before = snapshot(etc)
    result = call("keygen", "--config", etc / "anubis.conf")
    assert result.exit_code == 0
    assert result.output.count("which existed") == 2
    assert snapshot(etc) == before


def test_keygen_explains_a_key_that_it_cannot_use(etc: Path) -> None:
    """A bad key file is told and kept: it may be somebody's only copy."""
    (etc / "control.key").write_text("x")
    before = snapshot(etc)
    result = call("keygen", "--config", etc / "anubis.conf")
    assert isinstance(result.exception, ConfigError)
    assert snapshot(etc) == before


def test_no_command_shows_a_private_key(etc: Path) -> None:
    """Whatever is printed may be mailed to the other administrator."""
    conf = etc / "anubis.conf"
    output = call("init", "--config-dir", etc, "--name", "a").output
    for arguments in (("keygen",), ("check",), ("check", "--json")):
        output += call(arguments[0], "--config", conf, *arguments[1:]).output
    assert "PublicKey" in output
    assert not [secret for secret in secrets_in(etc) if secret in output]
    assert len(secrets_in(etc)) == 4


def test_check_lists_the_peers_and_not_a_million(etc: Path) -> None:
    """Names are listed in the order of the file, up to as many as can be read."""
    (etc / "authorized_peers").write_text(
        "".join(
            f"[Peer]\nName = p{n}\nPublicKey = {'A' * 40}{n:02}A=\nAllowedIPs = 10.0.0.{n}\n"
            for n in range(10, 35)
        )
    )
    result = call("check", "--config", etc / "anubis.conf")
    assert f"25 peers in {etc}/authorized_peers: p10, p11, " in result.output
    assert "p29 and 5 more\n" in result.output


def test_check_tells_who_is_not_authorized(etc: Path) -> None:
    """Apart from those who are: the entries that are disabled, and who is invited."""
    (etc / "authorized_peers").write_text(
        f"[Peer]\nName = xena\nPublicKey = {'A' * 41}CA=\nAllowedIPs = 10.0.0.2\nEnabled = no\n"
        f"[Peer]\nName = selen\nPublicKey = {'A' * 41}EA=\nAllowedIPs = 10.0.0.3\n"
        f"[Peer]\nName = sol\nPublicKey = {'A' * 41}GA=\nAllowedIPs = 10.0.0.5\n"
        "Expires = 2001-01-31\n"
        "[Invitation]\nName = luna\nAllowedIPs = 10.0.0.4\nNumber = 00ff00ff00ff00ff\n"
        "Expires = 2027-01-31T18:00Z\n"
    )
    output = call("check", "--config", etc / "anubis.conf").output
    assert f"1 peer in {etc}/authorized_peers: selen\n" in output
    assert "besides, disabled: xena; expired: sol; invited: luna\n" in output
    facts = json.loads(call("check", "--config", etc / "anubis.conf", "--json").output)
    assert facts["peers"] == ["selen"]
    assert [facts[why] for why in ("disabled", "expired", "invited")] == [
        ["xena"],
        ["sol"],
        ["luna"],
    ]


def test_a_difference_lists_many_and_not_a_million(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person is told how many more; --json has them all."""
    names = tuple(f"peer-{number:03}" for number in range(300))
    difference = Difference(300, added=names)
    monkeypatch.setattr(Client, "foresee_reload", lambda _client: difference)
    lines = call("check", "--diff").output.splitlines()
    assert lines[0] == "after a reload 300 peers would be authorized:"
    assert lines[1:201] == [f"+ {name}: would be authorized" for name in names[:200]]
    assert lines[201:] == ["and 100 more, which --json lists"]
    assert json.loads(call("check", "--diff", "--json").output)["added"] == list(names)
    monkeypatch.setattr(Client, "foresee_reload", lambda _client: Difference(1))
    assert call("check", "--diff").output == "a reload would change nothing: 1 peer authorized\n"


def test_check_in_json_has_the_facts(etc: Path) -> None:
    """A program gets the same facts as one object."""
    own = load_host(etc / "anubis.conf").own_keys()
    result = call("check", "--config", etc / "anubis.conf", "--json")
    assert json.loads(result.output) == {
        "config": f"{etc}/anubis.conf",
        "authorized_peers": f"{etc}/authorized_peers",
        "peers": [],
        "disabled": [],
        "expired": [],
        "invited": [],
        "control_address": str(own.control_addresses.routable),
        "production_public_key": str(own.production),
        "control_public_key": str(own.control),
        "problems": [],
    }


def test_check_in_json_has_every_problem(etc: Path) -> None:
    """A program gets the problems apart: file, line, message, hint."""
    (etc / "anubis.conf").write_text("[Production]\nMTU = 12\n")
    (etc / "control.key").unlink()
    result = call("check", "--config", etc / "anubis.conf", "--json")
    assert isinstance(result.exception, ConfigError)
    data = json.loads(result.output)
    assert data["error"]["kind"] == "bad_configuration"
    assert data["problems"] == [
        {
            "file": f"{etc}/anubis.conf",
            "line": 2,
            "message": "MTU = 12: not an MTU",
            "hint": "1280 to 65535 bytes; IPv6 needs 1280",
        },
        {
            "file": f"{etc}/control.key",
            "line": None,
            "message": "there is no such file",
            "hint": "`anubis keygen` makes it",
        },
    ]


def test_problems_are_printed_one_a_line_with_status_78(
    etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the real group: each problem on a line of standard error, nothing on output."""
    (etc / "authorized_peers").write_text("[Peer]\nFoo\nName = !\n")
    assert app.run(["check", "--config", str(etc / "anubis.conf")]) == 78
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 4
    assert all(re.match(rf"anubis: error: {etc}/authorized_peers:[123]: ", each) for each in lines)


def test_check_changes_nothing(etc: Path) -> None:
    """Looking is not touching."""
    before = snapshot(etc)
    call("check", "--config", etc / "anubis.conf")
    assert snapshot(etc) == before


def test_who_may_not_write_is_told_whom_to_become(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user gets exit status 77 and a hint, not a traceback."""

    def denied(*arguments: object, **keywords: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    result = call("keygen", "--config", tmp_path / "anubis.conf")
    assert isinstance(result.exception, NotPermitted)
    assert result.exception.exit_status == 77
    assert "production.key" in result.exception.message


def test_what_the_disk_refuses_is_a_local_failure(tmp_path: Path) -> None:
    """A path that cannot be made is told with the system's own reason."""
    (tmp_path / "file").touch()
    result = call("keygen", "--config", tmp_path / "file/anubis.conf")
    assert isinstance(result.exception, LocalFailure)
    assert "Not a directory" in result.exception.message


def test_commands_load_nothing_before_they_are_called() -> None:
    """Importing the commands brings neither keys nor files nor their libraries with it."""
    code = (
        "import sys, anubis.cli.check, anubis.cli.keygen, anubis.cli.init\n"
        "names = ('nacl', 'cryptography', 'pyroute2', 'aiohttp')\n"
        "names += ('anubis.files.config', 'anubis.files.ini')\n"
        "print([name for name in names if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_keys_made_twice_are_different(tmp_path: Path) -> None:
    """The random numbers are random: four keys of two hosts are four keys."""
    keys = set()
    for name in ("a", "b"):
        own, _ = make_keys(parse_config(b"", tmp_path / name / "anubis.conf"))
        keys |= {own.production, own.control}
    assert len(keys) == 4
