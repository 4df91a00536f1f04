"""The examples in etc/ and docs/configuration.md are true: they parse, and they are complete."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from anubis.errors import ConfigError
from anubis.files import config, peer_stanza
from anubis.files.authorized_peers import HostFiles, load_host, parse_authorized_peers
from anubis.files.config import parse_config
from anubis.files.keyfile import GuardedFile
from anubis.files.own_host import Host
from anubis.files.setup_host import default_address, make_keys, write_configuration

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/configuration.md").read_text()
ETC = Path("/etc/anubis")

KNOWN_KEYS = {
    (section.name, key.name)
    for grammar in (config.GRAMMAR, peer_stanza.GRAMMAR)
    for section in grammar.sections
    for key in section.keys
}

# In the examples a setting that is commented out has no blank after the #, and prose has one.
SETTING = re.compile(r"^#(?=\[|[A-Za-z]+ = )", re.MULTILINE)
FENCED = re.compile(r"<!-- (\w+)(?:: ([^>]*))? -->\n```\w*\n(.*?)```", re.DOTALL)


def uncommented(name: str) -> str:
    """Return an example with every setting in force."""
    return SETTING.sub("", (ROOT / "etc" / name).read_text())


def keys_in(text: str) -> set[tuple[str, str]]:
    """Return the (section, key) that occur in the text of a file, found without our parser."""
    found = set()
    section = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif setting := re.match(r"(\w+) = ", line):
            found.add((section, setting[1]))
    return found


def peers_of(text: str) -> list[peer_stanza.AuthorizedPeer]:
    """Parse the text of an authorized-peers file."""
    file = GuardedFile(ETC / "authorized_peers", text.encode(), private=True)
    return list(parse_authorized_peers([file]))


def documented_keys() -> dict[tuple[str, str], str]:
    """Return the rows of the reference's tables of keys."""
    rows = {}
    section = ""
    for line in REFERENCE.splitlines():
        if header := re.match(r"#+ `\[(\w+)\]`", line):
            section = header[1]
        elif line.startswith("#"):
            section = ""
        elif section and (row := re.match(r"\| `(\w+)` \|", line)):
            rows[section, row[1]] = line
    return rows


def test_example_configuration_as_installed_says_the_defaults() -> None:
    """The example that is installed unchanged configures what an empty file does."""
    path = ETC / "anubis.conf"
    installed = parse_config((ROOT / "etc/anubis.conf").read_bytes(), path)
    assert parse_config(b"", path) == installed
    assert installed.host == Host()


def test_example_configuration_tells_the_true_defaults() -> None:
    """With every setting in force, only those without a default differ from an empty file."""
    path = ETC / "anubis.conf"
    text = uncommented("anubis.conf")
    without_default = ("Address", "MTU", "Throw", "Listen = 127")
    text, _, of_host = text.partition("[Host]")
    kept = [line for line in text.splitlines() if not line.startswith(without_default)]
    assert parse_config("\n".join(kept).encode(), path) == parse_config(b"", path)
    host = parse_config(f"[Host]{of_host}".encode(), path).host
    assert None not in {host.name, host.endpoint, host.control_endpoint}
    assert host.networks
    assert host.dns
    whole = parse_config(text.encode(), path)
    full = whole.production
    assert whole.metrics_listen
    assert full.addresses
    assert full.mtu
    assert full.throw


def test_example_peers_authorize_nobody_until_uncommented() -> None:
    """The installed example opens no door, and its entries are valid."""
    assert peers_of((ROOT / "etc/authorized_peers").read_text()) == []
    assert [peer.name for peer in peers_of(uncommented("authorized_peers"))] == [
        "jacinth",
        "surya",
        "selen",
    ]


def test_examples_show_every_key() -> None:
    """A reader of the examples meets every key that there is, and no other."""
    shown = keys_in(uncommented("anubis.conf")) | keys_in(uncommented("authorized_peers"))
    assert shown == KNOWN_KEYS


def test_reference_has_every_key() -> None:
    """The tables of docs/configuration.md have every key that there is, and no other."""
    assert set(documented_keys()) == KNOWN_KEYS


@pytest.mark.parametrize("section", ["Control", "Production", "Authorization", "Host"])
def test_reference_examples_are_valid(section: str) -> None:
    """Every example in a table's last column is a line that the parser takes."""
    lines = [
        match[1]
        for (its_section, _), row in documented_keys().items()
        if its_section == section and (match := re.search(r"`(\w+ = [^`]*)` \|$", row))
    ]
    assert len(lines) == len([key for key in KNOWN_KEYS if key[0] == section])
    parse_config(f"[{section}]\n{chr(10).join(lines)}".encode(), ETC / "anubis.conf")


def test_reference_tells_the_true_defaults() -> None:
    """The defaults in the tables are those of the parser."""
    defaults = {
        (section, key): match[1]
        for (section, key), row in documented_keys().items()
        if section not in {"Peer", "Invitation"}
        and (match := re.match(r"`([^`]+)`$", row.split(" | ")[2]))
    }
    text = ""
    for wanted in ("Control", "Production", "Authorization"):
        text += f"[{wanted}]\n"
        text += "".join(f"{k} = {v}\n" for (s, k), v in defaults.items() if s == wanted)
    assert len(defaults) >= 11
    path = ETC / "anubis.conf"
    assert parse_config(text.encode(), path) == parse_config(b"", path)


def new_host(directory: Path) -> HostFiles:
    """Make a host with valid files."""
    configuration, _ = write_configuration(directory / "anubis.conf", [default_address()])
    make_keys(configuration)
    return load_host(directory / "anubis.conf")


def test_reference_complete_example_is_right(tmp_path: Path) -> None:
    """The pair of files at the top of the reference passes `anubis check`."""
    new_host(tmp_path)
    blocks = [(name, text) for kind, name, text in FENCED.findall(REFERENCE) if kind == "example"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    host = load_host(tmp_path / "anubis.conf")
    assert len(blocks) == 2
    assert host.peers.names() == ("jacinth",)
    assert len(host.config.production.addresses) == 2


def faulty_blocks() -> list[tuple[str, str, str]]:
    """Return (file, its text, the output told) for every faulty example of the reference."""
    blocks = FENCED.findall(REFERENCE)
    return [
        (name, text, output[2])
        for (kind, name, text), output in pairwise(blocks)
        if kind == "faulty"
    ]


def told(directory: Path) -> str:
    """Return what the command line prints for the files in `directory`, as if in /etc/anubis."""
    with pytest.raises(ConfigError) as caught:
        load_host(directory / "anubis.conf")
    lines = [f"anubis: error: {problem}\n" for problem in caught.value.problems]
    return "".join(lines).replace(str(directory), str(ETC))


@pytest.mark.parametrize(("name", "text", "output"), faulty_blocks())
def test_reference_errors_are_real(name: str, text: str, output: str, tmp_path: Path) -> None:
    """What the reference prints as the errors of a faulty file is what a reader would see."""
    new_host(tmp_path)
    (tmp_path / name).write_text(text)
    assert told(tmp_path) == output


def test_reference_error_of_a_readable_key_is_real(tmp_path: Path) -> None:
    """The same for the key file that others can read."""
    new_host(tmp_path)
    (tmp_path / "control.key").chmod(0o644)
    match = re.search(r"A key file that others can read:\n\n```\n(.*?)```", REFERENCE, re.DOTALL)
    assert match
    assert told(tmp_path) == match[1]
