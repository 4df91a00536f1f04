"""What docs/phone.md and docs/administration.md tell somebody to type is what is taken."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from multidict import CIMultiDict

from anubis.addresses import CONTROL_PREFIX
from anubis.web.calls import Act, Form, Look, read_call

ROOT = Path(__file__).parents[2]
PHONE = (ROOT / "docs/phone.md").read_text()
ADMINISTRATION = (ROOT / "docs/administration.md").read_text()
GATEWAY = f"[{CONTROL_PREFIX[7]}]"
ORIGIN = f"http://{GATEWAY}:4298"
TOKEN = "abcdefghijklmnopqrstuvwx"


def blocks(document: str, kind: str) -> list[str]:
    """Return the fenced blocks of one kind."""
    return re.findall(rf"<!-- {kind} -->\n```\w*\n(.*?)```", document, re.DOTALL)


def ask(method: str, url: str, headers: dict[str, str]) -> Act | Look:
    """Ask the gateway as a recipe does."""
    url = url.replace("GATEWAY", GATEWAY)
    assert url.startswith(ORIGIN)
    given = CIMultiDict(
        {name: text.replace("TOKEN", TOKEN) for name, text in headers.items()}
        | {"Host": ORIGIN.removeprefix("http://")}
    )
    return read_call(method, url.removeprefix(ORIGIN), given, b"", ORIGIN)


def test_curl_asks_for_what_is_told() -> None:
    """Status as text and as JSON, up, down."""
    (block,) = blocks(PHONE, "curl")
    calls = []
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[:2] == ["curl", "-g"]
        named = [words[at + 1] for at, word in enumerate(words) if word == "-H"]
        headers = dict(each.split(": ", 1) for each in named)
        calls.append(ask("POST" if "POST" in words else "GET", words[-1], headers))
    assert calls == [
        Look(Form.LINE),
        Look(Form.JSON),
        Act("up", Form.LINE, TOKEN),
        Act("down", Form.LINE, TOKEN),
    ]


def test_the_recipes_bring_it_up() -> None:
    """Each of the three apps is given the method, the address and the header that are asked for."""
    found = re.findall(r"<!-- recipe -->\n((?:\|.*\n)+)", PHONE)
    assert len(found) == 3
    for table in found:
        rows = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", table, re.MULTILINE))
        header = next(text for name, text in rows.items() if "eader" in name).replace("`", "")
        name, _, value = header.partition(":")
        method, url = rows["Method"].strip("`"), rows["URL"].strip("`")
        assert ask(method, url, {name: value.strip()}) == Act("up", Form.LINE, TOKEN)


def commands() -> list[str]:
    """Return the command lines of both documents."""
    text = "".join([*blocks(PHONE, "commands"), *blocks(ADMINISTRATION, "commands")])
    return [re.sub(r"^\w+#\s+", "", line) for line in text.splitlines()]


@pytest.mark.parametrize("line", commands())
def test_commands_are_understood(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command, argument and option that is shown exists; nothing is done."""
    monkeypatch.chdir(tmp_path)
    program, name, *words = shlex.split(line)
    assert program == "anubis"
    command = importlib.import_module(f"anubis.cli.{name}").command
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    for file in {"xena.invitation", "answer"} - {"xena.invitation" if name == "invite" else ""}:
        Path(file).touch()
    assert isinstance(command, click.Command)
    assert command.make_context(name, words)


def test_the_example_is_what_is_printed(tmp_path: Path) -> None:
    """The files of the first step give the configuration that is shown, but for the keys."""
    init = importlib.import_module("anubis.cli.init").command
    CliRunner().invoke(init, ["--config-dir", str(tmp_path), "--name", "jacinth"])
    (host,) = blocks(PHONE, "host")
    (tmp_path / "anubis.conf").write_text(host)
    peer = importlib.import_module("anubis.cli.peer").command
    words = ["--config", str(tmp_path / "anubis.conf"), "add", "selen", "--phone"]
    printed = CliRunner().invoke(peer, words).stdout

    def keyless(text: str) -> str:
        text = re.sub(r"Key = .*", "Key = KEY", text)
        return re.sub(r"fd61:6e75:6269:7300:[\da-f:]+", "CONTROL", text)

    (shown,) = blocks(PHONE, "configuration")
    assert keyless(printed) == keyless(shown)
