"""`anubis peer add --phone`: an entry on this side, and on the other what the app imports.

What a QR code says is told by zbar, and what the configuration means by `wg-quick`; the private key
is looked for wherever it must not be.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anubis.addresses import control_addresses
from anubis.errors import AnubisError, ConfigError, LocalFailure
from anubis.files.authorized_peers import load_host
from anubis.files.tunnel import parse_tunnel
from anubis.web.tokens import token
from anubis.wireguard.keys import PrivateKey

HOST = """\
[Host]
Name = jacinth
Endpoint = house.example.org
Networks = 192.168.7.0/24, 2001:db8:7::/64
"""
WORDS = ("add", "Selen", "--phone")
ALL_OF_IT = (*WORDS, "--qr", "--png", "a.png", "--svg", "a.svg", "--output", "a.conf")
KEY = PrivateKey(bytes([7] * 32))


def call(config: Path, *arguments: str | Path) -> Result:
    """Run `anubis peer`; an AnubisError is left in `exception`."""
    command = importlib.import_module("anubis.cli.peer").command
    return CliRunner().invoke(command, ["--config", str(config), *map(str, arguments)])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the configuration of a gateway; files that are named are beside its directory."""
    init = importlib.import_module("anubis.cli.init").command
    words = ("--name", "jacinth", "--address", "10.9.0.1/24", "--address", "fd00:9::1/64")
    CliRunner().invoke(init, ["--config-dir", str(tmp_path / "etc"), *words])
    with (tmp_path / "etc/anubis.conf").open("a") as file:
        file.write(HOST)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "etc/anubis.conf"


def authorized(config: Path) -> str:
    """Return the text of the authorized-peers file."""
    return config.with_name("authorized_peers").read_text()


def private_key(text: str) -> str:
    """Return the private key of a configuration."""
    found = re.search(r"^PrivateKey ?= ?(\S{44})$", text, re.M)
    assert found
    return found[1]


def decoded(picture: Path) -> str:
    """Return what zbar reads in a picture."""
    done = subprocess.run(
        ["zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", picture],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.removesuffix("\n")


def drawn(text: str, picture: Path) -> Path:
    """Make a picture of half blocks: what a terminal shows in white is white, all else black."""
    rows: list[str] = []
    for line in text.splitlines():
        rows.append("".join("1" if each in "█▀" else "0" for each in line))
        rows.append("".join("1" if each in "█▄" else "0" for each in line))
    scale = 4
    dots = ["".join(("255 " if dot == "1" else "0 ") * scale for dot in row) for row in rows]
    pixels = "\n".join(dots[at // scale] for at in range(scale * len(dots)))
    picture.write_text(f"P2\n{scale * len(rows[0])} {scale * len(rows)}\n255\n{pixels}\n")
    return picture


def without_comments(text: str) -> str:
    """Return a configuration without comments and blanks, as a code has it."""
    lines = [re.sub(r"\s|#.*", "", line) for line in text.splitlines()]
    return "\n".join(line for line in lines if line)


def test_the_configuration_is_that_of_one_tunnel_with_two_peers(config: Path) -> None:
    """To the letter, but for the keys; the next free addresses are its own."""
    done = call(config, *WORDS, "--dns", "192.168.7.1")
    host = load_host(config)
    key = PrivateKey.from_base64(private_key(done.stdout))
    own = control_addresses(key.public_key()).routable
    assert (
        done.stdout
        == f"""\
# selen, at jacinth
[Interface]
PrivateKey = {key.base64()}
Address = {own}/128, 10.9.0.2/32, fd00:9::2/128
DNS = 192.168.7.1

[Peer]
# Name = jacinth
PublicKey = {host.own_keys().control}
AllowedIPs = {host.own_keys().control_addresses.routable}/128
Endpoint = house.example.org:4297

[Peer]
# Name = jacinth
PublicKey = {host.own_keys().production}
AllowedIPs = 10.9.0.1/32, fd00:9::1/128, 192.168.7.0/24, 2001:db8:7::/64
Endpoint = house.example.org:4296
"""
    )


def test_it_is_what_a_request_reads(config: Path) -> None:
    """`anubis request --config` finds the gateway, its production key and its control plane."""
    done = call(config, *WORDS)
    own = load_host(config).own_keys()
    tunnel = parse_tunnel(done.stdout.encode(), Path("selen.conf"))
    (gateway,) = tunnel.gateways
    assert (gateway.name, gateway.public_key) == ("jacinth", own.production)
    assert gateway.control == own.control_addresses.routable
    (entry,) = load_host(config).peers
    assert tunnel.private_key.public_key() == entry.public_key
    assert tunnel.control == entry.control.routable


def test_its_entry_is_authorized(config: Path) -> None:
    """One key for both planes, its two addresses alone, and the page; all else is as it was."""
    before = authorized(config)
    done = call(config, *WORDS)
    (entry,) = load_host(config).peers
    assert authorized(config) == (
        f"{before}\n[Peer]\nName = selen\nPublicKey = {entry.public_key}\n"
        "AllowedIPs = 10.9.0.2/32, fd00:9::2/128\nOneShot = yes\n"
    )
    assert entry.one_shot
    assert entry.control_public_key == entry.public_key
    told = f"selen is added to {config.with_name('authorized_peers')}; the daemon takes it up by"
    assert done.stderr.startswith(told)


def test_its_page_is_told(config: Path) -> None:
    """At the gateway's control address, with the token that is this phone's."""
    done = call(config, *WORDS)
    host = load_host(config)
    (entry,) = host.peers
    address = host.own_keys().control_addresses.routable
    secret = token(host.control_key, entry.public_key)
    assert done.stderr.splitlines()[1].endswith(f": http://[{address}]:4298/{secret}")


def test_the_next_phone_gets_the_next_addresses(config: Path) -> None:
    """Also after an entry that is disabled."""
    call(config, *WORDS)
    call(config, "disable", "selen")
    done = call(config, "add", "luna", "--phone")
    assert "/128, 10.9.0.3/32, fd00:9::3/128\n" in done.stdout


def test_wg_quick_takes_it(config: Path, tmp_path: Path) -> None:
    """What wg-quick gives to `wg setconf` has the two peers, and their networks."""
    done = call(config, *WORDS, "--output", "anubis.conf")
    assert done.stdout == ""
    stripped = subprocess.run(
        ["wg-quick", "strip", tmp_path / "anubis.conf"], capture_output=True, text=True, check=True
    )
    assert stripped.stderr == ""
    lines = [line for line in stripped.stdout.splitlines() if line and not line.startswith("#")]
    assert [line.partition(" ")[0] for line in lines] == [
        *("[Interface]", "PrivateKey"),
        *("[Peer]", "PublicKey", "AllowedIPs", "Endpoint") * 2,
    ]


def test_every_form_says_the_same(config: Path, tmp_path: Path) -> None:
    """On the terminal, as PNG, as SVG, as a file: zbar reads in each what was printed."""
    done = call(config, *ALL_OF_IT)
    text, _, code = done.stdout.partition("\n\n█")
    text += "\n"
    expected = without_comments(text)
    assert (tmp_path / "a.conf").read_text() == text
    assert decoded(tmp_path / "a.png") == expected
    assert decoded(drawn("█" + code, tmp_path / "terminal.pgm")) == expected
    svg = (tmp_path / "a.svg").read_text()
    assert svg.startswith("<?xml")
    tunnels = [parse_tunnel(each.encode(), Path("jacinth.conf")) for each in (text, expected)]
    assert tunnels[0] == tunnels[1]


def test_a_svg_is_read_too(config: Path, tmp_path: Path) -> None:
    """Its dark modules, drawn again from its path, are the code."""
    done = call(config, *WORDS, "--svg", "a.svg", "--output", "a.conf")
    assert done.stdout == ""
    picture = drawn_from_svg((tmp_path / "a.svg").read_text(), tmp_path / "svg.pgm")
    assert decoded(picture) == without_comments((tmp_path / "a.conf").read_text())


def drawn_from_svg(svg: str, picture: Path) -> Path:
    """Make a picture of a path of horizontal strokes, which is all that such a file has."""
    size = re.search(r'viewBox="0 0 (\d+) \d+"', svg)
    width = int(size[1]) if size else int(re.findall(r'width="(\d+)"', svg)[0]) // 8
    rows = [["255"] * width for _ in range(width)]
    x, y = 0.0, 0.0
    path = re.findall(r' d="([^"]*)"', svg)[-1]
    for kind, numbers in re.findall(r"([Mmhz])([-\d. ]*)", path):
        values = [float(each) for each in re.findall(r"-?[\d.]+", numbers)]
        if kind == "M":
            x, y = values
        elif kind == "m":
            x, y = x + values[0], y + values[1]
        elif kind == "h":
            rows[int(y)][int(x) : int(x + values[0])] = ["0"] * int(values[0])
            x += values[0]
    scale = 4
    lines = [" ".join(dot for dot in row for _ in range(scale)) for row in rows]
    pixels = "\n".join(lines[at // scale] for at in range(scale * width))
    picture.write_text(f"P2\n{scale * width} {scale * width}\n255\n{pixels}\n")
    return picture


def test_files_are_private_and_show_nothing(config: Path, tmp_path: Path) -> None:
    """Mode 600, and what is in them is not on the terminal as well."""
    done = call(config, *WORDS, "--png", "a.png", "--svg", "a.svg", "--output", "a.conf")
    assert done.stdout == ""
    for name in ("a.png", "a.svg", "a.conf"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert f"wrote {name}\n" in done.stderr


def test_the_private_key_is_nowhere_else(config: Path, tmp_path: Path) -> None:
    """Not in the files of this host, not in what is told beside."""
    done = call(config, *WORDS)
    secret = private_key(done.stdout)
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_text()
    ]
    assert secret not in done.stderr
    again = call(config, "show", "selen").output + call(config, "list", "--json").output
    assert secret not in again


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.conf"])
def test_a_file_that_is_there_stays(config: Path, tmp_path: Path, name: str) -> None:
    """Nobody is authorized then, and no other file is left."""
    (tmp_path / name).write_text("mine")
    before = authorized(config)
    done = call(config, *WORDS, "--png", "a.png", "--svg", "a.svg", "--output", "a.conf")
    assert isinstance(done.exception, LocalFailure)
    assert f"{name} exists, and is kept as it is" in done.exception.message
    assert (tmp_path / name).read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["etc", name])
    assert (authorized(config), done.stdout) == (before, "")


def test_who_is_not_added_leaves_no_file(config: Path, tmp_path: Path) -> None:
    """A name that is taken: no file, no key on the terminal."""
    call(config, *WORDS)
    before = authorized(config)
    done = call(config, *ALL_OF_IT)
    assert isinstance(done.exception, ConfigError)
    assert [path.name for path in tmp_path.iterdir()] == ["etc"]
    assert (authorized(config), done.stdout) == (before, "")


def test_who_has_a_key_keeps_it(config: Path) -> None:
    """A line says where to put it, and `anubis request` says what is wrong until then."""
    public = KEY.public_key()
    done = call(config, *WORDS, "--public-key", str(public))
    assert "\nPrivateKey = PUT-THE-PRIVATE-KEY-HERE\n" in done.stdout
    assert f"Address = {control_addresses(public).routable}/128, 10.9.0.2/32" in done.stdout
    assert load_host(config).peers.by_public_key(public) is not None
    with pytest.raises(ConfigError, match="PrivateKey"):
        parse_tunnel(done.stdout.encode(), Path("x.conf"))
    whole = done.stdout.replace("PUT-THE-PRIVATE-KEY-HERE", KEY.base64())
    assert parse_tunnel(whole.encode(), Path("x.conf")).private_key == KEY


def test_everything_through_the_tunnel(config: Path) -> None:
    """The production peer gets both default routes, and the gateway's control plane stays one."""
    text = call(config, *WORDS, "--full-tunnel").stdout
    assert "\nAllowedIPs = 0.0.0.0/0, ::/0\n" in text
    assert text.count("AllowedIPs = fd61:6e75:6269:7300:") == 1


def test_what_the_command_line_says_goes_first(config: Path) -> None:
    """Name, place, networks and addresses; the rest of the file's [Host] is not used."""
    words = ("--gateway-name", "House", "--gateway-endpoint", "203.0.113.1")
    more = ("--networks", "10.1.0.0/16,fd00:1::/48", "--allowed-ips", "10.9.0.77, 10.2.0.0/16")
    text = call(config, *WORDS, *words, *more).stdout
    assert text.count("# Name = house\n") == 2
    assert "\nEndpoint = 203.0.113.1:4297\n" in text
    assert "\nEndpoint = 203.0.113.1:4296\n" in text
    assert "AllowedIPs = 10.9.0.1/32, fd00:9::1/128, 10.1.0.0/16, fd00:1::/48\n" in text
    assert "/128, 10.9.0.77/32\n" in text
    assert "AllowedIPs = 10.9.0.77/32, 10.2.0.0/16\n" in authorized(config)


def test_an_mtu_of_the_gateway_is_the_phone_s(config: Path) -> None:
    """Where the administrator had a reason to name one."""
    assert "MTU" not in call(config, *WORDS).stdout
    config.write_text(config.read_text().replace("[Production]", "[Production]\nMTU = 1380"))
    assert "\nMTU = 1380\n" in call(config, "add", "luna", "--phone").stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*WORDS, "--endpoint", "a:1"), "a phone has no --endpoint"),
        ((*WORDS, "--control-public-key", "x"), "a phone has no --control-public-key"),
        ((*WORDS, "--public-key", str(KEY.public_key()), "--qr"), "needs the private key"),
        ((*WORDS, "--public-key", "x"), "not a public key"),
        ((*WORDS, "--allowed-ips", "10.2.0.0/16"), "the phone has no address"),
        ((*WORDS, "--networks", "10.2.0.0/33"), "not a network"),
        ((*WORDS, "--gateway-endpoint", "a..b"), "not a host name"),
        ((*WORDS, "--dns", "1.1.1.1:53"), "not a name server"),
        (("add", "a b", "--phone"), "not a name"),
        (("add", "--phone"), "missing argument 'NAME'"),
        (("add", "x", "--qr"), "only with --phone: --qr"),
        (("add", "x", "--output", "f"), "only with --phone: --output"),
        (("add", "x", "--allowed-ips", "10.9.0.9"), "missing option '--public-key'"),
        (("add", "x", "--public-key", str(KEY.public_key())), "missing option '--allowed-ips'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    config: Path, words: tuple[str, ...], told: str
) -> None:
    """With exit status 2, before anything is made."""
    before = authorized(config)
    done = call(config, *words)
    assert done.exit_code == 2
    assert told in re.sub(r"[\s│]+", " ", done.stderr)
    assert (authorized(config), done.stdout) == (before, "")


@pytest.mark.parametrize(
    ("old", "told"),
    [
        ("Endpoint = house.example.org\n", "write it under [Host]: Endpoint = "),
        ("Address = 10.9.0.1/24, fd00:9::1/64\n", "give --allowed-ips, or the network of the"),
    ],
)
def test_what_the_files_do_not_say_is_asked_for(config: Path, old: str, told: str) -> None:
    """With the file and the line to write, and nothing is made."""
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, ""))
    before = authorized(config)
    error = call(config, *WORDS).exception
    assert isinstance(error, AnubisError)
    assert told in error.message
    assert error.message.startswith(f"{config}: ")
    assert authorized(config) == before


def test_a_configuration_too_long_for_a_code_is_told(config: Path) -> None:
    """And is to be had as a file."""
    many = ",".join(f"10.{number}.0.0/16" for number in range(10, 250))
    before = authorized(config)
    done = call(config, *WORDS, "--qr", "--networks", many)
    assert isinstance(done.exception, AnubisError)
    assert done.exception.hint == "use --output FILE"
    assert authorized(config) == before


def test_a_narrow_terminal_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code is black on white whatever the colours are, and too wide for some."""
    handover = importlib.import_module("anubis.cli.handover")
    monkeypatch.setattr(handover, "is_terminal", lambda _stream: True)
    monkeypatch.setenv("COLUMNS", "60")
    done = call(config, *WORDS, "--qr")
    assert re.search(r"warning: the code needs \d\d columns, and this terminal has 60", done.stderr)
    code = done.stdout[done.stdout.index("\x1b") :].splitlines()
    assert all(re.fullmatch(r"\x1b\[97;40m[█▀▄ ]+\x1b\[0m", line) for line in code)
    monkeypatch.setenv("COLUMNS", "80")
    done = call(config, "add", "luna", "--phone", "--qr")
    assert "warning" not in done.stderr
    assert max(len(line) for line in done.stdout.splitlines() if "█" in line) <= 80 + len(
        "\x1b[97;40m\x1b[0m"
    )


def test_adding_a_host_needs_no_segno(config: Path) -> None:
    """Nor do the other commands: it is imported where a code is made."""
    code = (
        "import sys, anubis.cli.app, anubis.cli.peer, anubis.cli.invite, anubis.cli.join\n"
        "print([name for name in ('segno', 'nacl', 'anubis.files') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
