"""`anubis invite`, `anubis join` and the answer: two hosts that have never met before."""

from __future__ import annotations

import importlib
import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import blake2s
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from anubis.errors import BadRequest, ConfigError, UnknownConnection
from anubis.files.authorized_peers import load_host
from anubis.files.invitation import parse_answer, parse_invitation
from anubis.files.peer_checks import OwnKeys
from anubis.files.proofs import code, proof
from anubis.files.times import format_time
from anubis.wireguard.keys import PrivateKey
from tests.unit.test_cli_phone import decoded, without_comments

HOST = """\
[Host]
Name = jacinth
Endpoint = house.example.org
Networks = 192.168.7.0/24
"""
PATH = Path("answer")
NOW = datetime.now(UTC)


def call(name: str, *arguments: str | Path, text: str | None = None) -> Result:
    """Run a command; an AnubisError is left in `exception`."""
    command = importlib.import_module(f"anubis.cli.{name}").command
    return CliRunner().invoke(command, [str(each) for each in arguments], input=text)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the configuration of a gateway that knows one peer."""
    etc = tmp_path / "house"
    call("init", "--config-dir", etc, "--name", "jacinth", "--address", "10.9.0.1/24")
    with (etc / "anubis.conf").open("a") as file:
        file.write(HOST)
    key = PrivateKey(bytes([9] * 32)).public_key()
    call("peer", "--config", etc / "anubis.conf", "add", "selen", "--public-key", str(key),
         "--allowed-ips", "10.9.0.2")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    return etc / "anubis.conf"


def invite(house: Path, *words: str) -> str:
    """Invite xena, and return what is printed."""
    done = call("invite", "xena", "--config", house, *words)
    assert done.exception is None, done
    return done.stdout


def join(directory: Path, invitation: str) -> Result:
    """Join by an invitation that was sent."""
    return call("join", "--config-dir", directory, "-", text=invitation)


def answer(house: Path, text: str, *words: str) -> Result:
    """Give an answer to the gateway."""
    return call("peer", "--config", house, "add", *words, "--from", "-", text=text)


def peers_text(config: Path) -> str:
    """Return the text of the authorized-peers file."""
    return config.with_name("authorized_peers").read_text()


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file below a directory with its mode and content."""
    return {
        str(path): (path.stat().st_mode, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_two_hosts_know_each_other_afterwards(house: Path, tmp_path: Path) -> None:
    """By one file there and one text back: keys, addresses, networks and endpoints of both."""
    done = answer(house, join(tmp_path / "xena", invite(house)).stdout)
    assert done.stdout.startswith("xena is added to ")
    there, here = load_host(house), load_host(tmp_path / "xena/anubis.conf")
    xena, jacinth = there.peers.by_name("xena"), here.peers.by_name("jacinth")
    assert xena is not None
    assert jacinth is not None
    assert (xena.public_key, xena.control) == (
        here.own_keys().production,
        here.own_keys().control_addresses,
    )
    assert (jacinth.public_key, jacinth.control) == (
        there.own_keys().production,
        there.own_keys().control_addresses,
    )
    assert list(map(str, xena.allowed_ips)) == ["10.9.0.3/32"]
    assert list(map(str, here.config.production.addresses)) == ["10.9.0.3/32"]
    assert set(map(str, jacinth.allowed_ips)) == {"10.9.0.1/32", "192.168.7.0/24"}
    assert str(jacinth.endpoint) == "house.example.org:4296"
    assert str(jacinth.control_endpoint) == "house.example.org:4297"
    assert f"control address is {xena.control.routable}" in done.stdout


def test_nobody_is_authorized_before_the_answer(house: Path) -> None:
    """The name and the addresses are kept, and nothing more; the next guest gets others."""
    invite(house)
    assert load_host(house).peers.names() == ("selen",)
    assert "AllowedIPs = 10.9.0.3/32\n" in peers_text(house)
    assert "Address = 10.9.0.4/32\n" in call("invite", "luna", "--config", house).stdout
    line = call("peer", "--config", house, "list").stdout.splitlines()[1]
    assert re.match(r"xena   10\.9\.0\.3/32  invited until \d{4}-\d\d-\d\dT\d\d:\d\dZ  \(", line)
    shown = call("peer", "--config", house, "show", "xena").stdout
    assert "invited, not authorized yet" in shown
    listed = json.loads(call("peer", "--config", house, "list", "--json").stdout)
    assert [each["name"] for each in listed["invitations"]] == ["xena", "luna"]


def test_the_entry_stands_where_the_invitation_stood(house: Path, tmp_path: Path) -> None:
    """With the comments that a person wrote to it; all else is as it was."""
    invitation = invite(house)
    path = house.with_name("authorized_peers")
    before = path.read_text().replace("[Invitation]", "# Xena's laptop\n[Invitation]")
    path.write_text(f"{before}\n# Nobody's comment.\n")
    answer(house, join(tmp_path / "xena", invitation).stdout)
    keys = load_host(tmp_path / "xena/anubis.conf").own_keys()
    head, _, _ = before.partition("# Xena's laptop")
    assert path.read_text() == (
        f"{head}# Xena's laptop\n[Peer]\nName = xena\nAllowedIPs = 10.9.0.3/32\n"
        f"PublicKey = {keys.production}\nControlPublicKey = {keys.control}\n"
        "\n# Nobody's comment.\n"
    )


def test_an_invitation_is_answered_once(house: Path, tmp_path: Path) -> None:
    """Neither the same answer nor another host's counts again."""
    invitation = invite(house)
    first = join(tmp_path / "xena", invitation).stdout
    answer(house, first)
    before = peers_text(house)
    for text in (first, join(tmp_path / "other", invitation).stdout):
        error = answer(house, text).exception
        assert isinstance(error, BadRequest)
        assert error.message == ("no invitation of xena is open: it was answered, or withdrawn")
    assert peers_text(house) == before


def test_to_join_again_changes_nothing(house: Path, tmp_path: Path) -> None:
    """The same answer is printed, for whoever lost it."""
    invitation = invite(house)
    first = join(tmp_path / "xena", invitation).stdout
    before = snapshot(tmp_path / "xena")
    again = join(tmp_path / "xena", invitation).stdout
    assert snapshot(tmp_path / "xena") == before
    assert again[again.index("[Answer]") :] == first[first.index("[Answer]") :]


def test_a_new_invitation_makes_the_earlier_one_void(house: Path, tmp_path: Path) -> None:
    """The addresses stay; the answer to the earlier one is refused."""
    earlier = invite(house)
    done = call("invite", "Xena", "--config", house)
    assert "the earlier invitation of xena is void" in done.stderr
    assert peers_text(house).count("[Invitation]") == 1
    assert "Address = 10.9.0.3/32\n" in done.stdout
    error = answer(house, join(tmp_path / "xena", earlier).stdout).exception
    assert isinstance(error, BadRequest)
    assert "answers an earlier invitation" in error.message
    assert answer(house, join(tmp_path / "new", done.stdout).stdout).exception is None


def test_a_withdrawn_invitation_is_answered_in_vain(house: Path, tmp_path: Path) -> None:
    """Its section is removed like that of a peer."""
    before = peers_text(house)
    invitation = invite(house)
    assert call("peer", "--config", house, "remove", "xena").exception is None
    assert peers_text(house) == before
    error = answer(house, join(tmp_path / "xena", invitation).stdout).exception
    assert isinstance(error, BadRequest)


@pytest.mark.parametrize("part", ["PublicKey", "ControlPublicKey", "Proof"])
def test_an_answer_that_was_changed_is_noticed(house: Path, tmp_path: Path, part: str) -> None:
    """Whoever sees the answer on its way cannot put keys of his own into it."""
    text = join(tmp_path / "xena", invite(house)).stdout
    other = PrivateKey(bytes([8] * 32)).public_key().base64() if part != "Proof" else "a" * 24
    changed = re.sub(rf"^{part} = .*$", f"{part} = {other}", text, flags=re.M)
    before = peers_text(house)
    error = answer(house, changed).exception
    assert isinstance(error, BadRequest)
    assert "this answer was changed on its way" in error.message
    assert peers_text(house) == before


@pytest.mark.parametrize("part", ["PublicKey", "ControlPublicKey", "Code"])
def test_an_invitation_that_was_changed_is_noticed(house: Path, tmp_path: Path, part: str) -> None:
    """Where a stranger put himself in the gateway's place, the gateway refuses the answer."""
    other = PrivateKey(bytes([8] * 32)).public_key().base64() if part != "Code" else "a" * 24
    changed = re.sub(rf"^{part} = .*$", f"{part} = {other}", invite(house), flags=re.M)
    error = answer(house, join(tmp_path / "xena", changed).stdout).exception
    assert isinstance(error, BadRequest)


def test_neither_text_has_a_private_key(house: Path, tmp_path: Path) -> None:
    """They may be mailed."""
    invitation = invite(house)
    text = invitation + join(tmp_path / "xena", invitation).output
    keys = [path.read_text().strip() for path in tmp_path.rglob("*.key")]
    assert len(keys) == 4
    assert not [key for key in keys if key in text]


def test_the_code_is_kept_nowhere(house: Path, tmp_path: Path) -> None:
    """Who reads the gateway's authorized peers cannot make an answer."""
    secret = parse_invitation(invite(house).encode(), PATH).code
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_text()
    ]


def test_code_and_proof_are_recomputed_as_documented() -> None:
    """By hand, from the formulas in their docstrings."""
    from base64 import b32encode  # noqa: PLC0415  this test alone recomputes

    control = PrivateKey(bytes([1] * 32))
    keys = [PrivateKey(bytes([number] * 32)).public_key() for number in range(2, 6)]

    def digest(key: bytes, label: bytes, message: bytes) -> str:
        found = blake2s(message, digest_size=15, key=key, salt=label[:8], person=label[8:])
        return b32encode(found.digest()).decode().lower()

    secret = code(control, "00ff00ff00ff00ff", "xena")
    number = bytes.fromhex("00ff00ff00ff00ff")
    assert secret == digest(bytes(control), b"anubis invite v1", number + b"xena")
    laptop, gateway = (OwnKeys(*keys[:2]), OwnKeys(*keys[2:]))
    message = b"".join(map(bytes, keys)) + b"xena"
    expected = digest(secret.encode(), b"anubis answer v1", message)
    assert proof(secret, "xena", laptop, gateway) == expected


def test_an_expired_invitation_is_refused_at_both_ends(house: Path, tmp_path: Path) -> None:
    """There before anything is written; here by the gateway's own clock, whatever is said there."""
    invitation = invite(house)
    past = format_time(NOW - timedelta(hours=1))
    late = re.sub(r"Expires = .*", f"Expires = {past}", invitation)
    error = join(tmp_path / "late", late).exception
    assert isinstance(error, BadRequest)
    assert f"this invitation expired at {past}" in error.message
    assert not (tmp_path / "late").exists()
    path = house.with_name("authorized_peers")
    path.write_text(re.sub(r"Expires = .*", f"Expires = {past}", path.read_text()))
    error = answer(house, join(tmp_path / "xena", invitation).stdout).exception
    assert isinstance(error, BadRequest)
    assert error.hint == "invite it anew: anubis invite xena"


def test_it_expires_when_it_was_told_to(house: Path) -> None:
    """In seven days if nothing is said."""
    for words, days in (((), 7), (("--expires", "1d"), 1)):
        expires = parse_invitation(invite(house, *words).encode(), PATH).expires
        assert abs(expires - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=2)


def test_addresses_can_be_chosen(house: Path) -> None:
    """And a network is none."""
    text = invite(house, "--allowed-ips", "10.9.0.77,fd00:9::77")
    assert "Address = 10.9.0.77/32, fd00:9::77/128\n" in text
    done = call("invite", "luna", "--config", house, "--allowed-ips", "10.8.0.0/24")
    assert done.exit_code == 2


def test_a_host_that_is_set_up_keeps_its_files(house: Path, tmp_path: Path) -> None:
    """It needs the addresses that are kept for it, and is told so before anything is written."""
    etc = tmp_path / "xena"
    call("init", "--config-dir", etc, "--name", "xena", "--address", "10.8.0.2/24")
    before = snapshot(etc)
    invitation = invite(house)
    error = join(etc, invitation).exception
    assert isinstance(error, ConfigError)
    assert "this host does not have 10.9.0.3/32, which jacinth keeps for it" in error.message
    assert "Address = 10.9.0.3/32" in error.message
    assert snapshot(etc) == before
    with (etc / "anubis.conf").open("a") as file:
        file.write("Address = 10.9.0.3/24\n")
    changed = snapshot(etc)
    assert join(etc, invitation).exception is None
    names = {name for name, file in snapshot(etc).items() if file != changed[name]}
    assert names == {f"{etc}/authorized_peers"}


def test_another_gateway_of_that_name_is_not_replaced(house: Path, tmp_path: Path) -> None:
    """The laptop's own administrator decides whom a name means."""
    etc = tmp_path / "xena"
    call("init", "--config-dir", etc, "--name", "xena", "--address", "10.9.0.3/32")
    key = PrivateKey(bytes([8] * 32)).public_key()
    words = ("add", "jacinth", "--public-key", str(key), "--allowed-ips", "10.7.0.0/24")
    call("peer", "--config", etc / "anubis.conf", *words)
    before = snapshot(etc)
    assert isinstance(join(etc, invite(house)).exception, ConfigError)
    assert snapshot(etc) == before


def test_a_name_that_is_taken_is_not_invited(house: Path) -> None:
    """Nor is somebody else's address given away; no file is left."""
    before = peers_text(house)
    for words in (("selen",), ("xena", "--allowed-ips", "10.9.0.2")):
        done = call("invite", *words, "--config", house, "--output", "x")
        assert isinstance(done.exception, ConfigError)
        assert peers_text(house) == before
        assert not Path("x").exists()


def test_an_answer_of_somebody_else_is_refused(house: Path, tmp_path: Path) -> None:
    """Where the administrator says whose it is."""
    text = join(tmp_path / "xena", invite(house)).stdout
    error = answer(house, text, "luna").exception
    assert isinstance(error, BadRequest)
    assert "this is the answer of xena, not of 'luna'" in error.message
    assert answer(house, text, "XENA").exception is None


def test_what_was_said_already_is_not_said_again(house: Path) -> None:
    """With --from nothing else is given."""
    done = answer(house, "", "--public-key", "x")
    assert done.exit_code == 2
    assert "leave out --public-key" in re.sub(r"[\s│]+", " ", done.stderr)


def test_it_goes_into_a_code_and_a_file(house: Path, tmp_path: Path) -> None:
    """Both say the same, and a laptop joins by either."""
    invite(house, "--png", "x.png", "--output", "x.invitation")
    text = Path("x.invitation").read_text()
    assert Path("x.invitation").stat().st_mode & 0o777 == 0o600
    assert decoded(Path("x.png")) == without_comments(text)
    done = join(tmp_path / "xena", decoded(Path("x.png")))
    assert answer(house, done.stdout).exception is None


def test_an_invitation_gives_no_more_than_a_way(house: Path, tmp_path: Path) -> None:
    """What an invitation may say of its gateway is counted; nothing else gets into the files."""
    changed = f"{invite(house)}May = up\n"
    error = join(tmp_path / "xena", changed).exception
    assert isinstance(error, ConfigError)
    assert "May is no key of [Peer]" in error.message
    assert not (tmp_path / "xena").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Name of [Answer] is missing (take all of the text, as it was sent)"),
        ("[Answer]\nName = xena\n", "Proof of [Answer] is missing"),
        ("hello", "hello stands before any section"),
        ("[Invitation]\n", "[Invitation] is no section of this file"),
    ],
)
def test_what_is_no_answer_is_told(house: Path, text: str, told: str) -> None:
    """With its place."""
    error = answer(house, text).exception
    assert isinstance(error, ConfigError)
    assert told in error.message


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """As of every command: exit status 2."""
    assert call("join", tmp_path / "none").exit_code == 2


def test_nobody_who_was_not_invited_is_renamed(house: Path) -> None:
    """The name is part of what makes an answer: withdraw the invitation, and make another."""
    invite(house)
    error = call("peer", "--config", house, "rename", "xena", "luna").exception
    assert isinstance(error, UnknownConnection)


INVITATION = """\
[Invitation]
Name = xena
Address = 10.9.0.3/32
Code = aaaaaaaaaaaaaaaaaaaaaaaa
Expires = 2027-01-31T18:00Z
[Peer]
Name = jacinth
PublicKey = qyrXKGofpGcIkq9G+dIlgE0pFRjIRtX38s7mXHn9MXY=
ControlPublicKey = NUjHx8nuhkR8hTUpQkrr5qjOB005NEf09DgTr1ecwwA=
AllowedIPs = 10.9.0.1/32
Endpoint = house.example.org:4296
ControlEndpoint = house.example.org:4297
[Answer]
Proof = aaaaaaaaaaaaaaaaaaaaaaaa
"""


@given(st.data())
def test_any_bytes_are_understood_or_refused(data: st.DataObject) -> None:
    """Cut, changed and doubled lines raise nothing else."""
    lines = INVITATION.encode().split(b"\n")
    noise = st.one_of(st.binary(max_size=40), st.sampled_from(lines))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines)))
        lines[at : at + data.draw(st.integers(0, 3))] = data.draw(st.lists(noise, max_size=2))
    for read in (parse_invitation, parse_answer):
        with suppress(ConfigError):
            read(b"\n".join(lines), PATH)
