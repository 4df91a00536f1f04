"""The man pages have everything that the program has, and man(1) and mandoc(1) can show them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import click
import pytest

from anubis import errors
from anubis.cli.app import anubis_group
from anubis.files import config, peer_stanza
from anubis.files.ini import Grammar
from tools.manual import ROOT, roff

PAGES = ("anubis.1", "anubisd.8", "anubis.conf.5", "authorized_peers.5")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Give every page as roff."""
    return {page: roff(page) for page in PAGES}


def mandoc(page: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Have mandoc read a page."""
    return subprocess.run(
        ["mandoc", *options], input=page, capture_output=True, text=True, check=False
    )


def shown(page: str) -> str:
    """Return a page as it is read on a wide terminal."""
    return re.sub(".\b", "", mandoc(page, "-Tutf8", "-Owidth=200").stdout)


def commands(
    group: click.Group, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield all commands below a group."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, context, info_name=name)
        yield command, inner
        if isinstance(command, click.Group):
            yield from commands(command, inner)


def test_these_are_the_pages() -> None:
    """Each source in man/ is one of them."""
    assert {path.stem for path in (ROOT / "man").iterdir()} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_finds_nothing_wrong(pages: dict[str, str], page: str) -> None:
    """No warning; lines that are long are a matter of style."""
    done = mandoc(pages[page], "-Tlint", "-Wwarning")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_a_name_that_apropos_finds(pages: dict[str, str], page: str) -> None:
    """What man-db and mandoc index is the section NAME, in this form."""
    title, section = page.rsplit(".", 1)
    assert pages[page].splitlines()[2].startswith(f'.TH "{title.upper()}" "{section}" "20')
    assert re.search(rf'^\.SH "NAME"\n{re.escape(title)} - \w', pages[page], re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_nothing_of_markdown_is_left(pages: dict[str, str], page: str) -> None:
    """No comment, link, table or emphasis is shown as it is written in the sources."""
    assert not re.search(r"<!--|\]\(|\*\*|^\s*\| |\|$|`", shown(pages[page]), re.MULTILINE)


def test_anubis_1_has_every_command_and_option(pages: dict[str, str]) -> None:
    """Each command has a heading, and below it each of its options, with what it means."""
    text = shown(pages["anubis.1"])
    sections = dict(re.findall(r"^   (\S.*)\n((?:       .*\n|\n)*)", text, re.MULTILINE))
    found = list(commands(anubis_group, click.Context(anubis_group, info_name="anubis")))
    assert len(found) > 15
    for command, context in found:
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        assert usage in sections
        below = " ".join(sections[usage].split())
        options = [each for each in command.params if isinstance(each, click.Option)]
        for option in options:
            assert option.help is not None
            words = (*option.opts, " ".join(option.help.replace("`", "").split()))
            assert [word for word in words if word not in below] == []


def test_anubis_1_has_every_exit_status(pages: dict[str, str]) -> None:
    """Those of all errors, and no other but those of success and Ctrl-C."""
    part = shown(pages["anubis.1"]).partition("EXIT STATUS")[2].partition("ENVIRONMENT")[0]
    told = {int(number) for number in re.findall(r"^       (\d+)\s", part, re.MULTILINE)}
    known = {getattr(errors, name) for name in errors.__all__ if name != "nearest"}
    raised = {each.exit_status for each in known if issubclass(each, errors.AnubisError)}
    assert told == raised | {0, 130}


def test_anubisd_8_has_every_option(pages: dict[str, str]) -> None:
    """`anubisd` is `anubis daemon`."""
    daemon = anubis_group.get_command(click.Context(anubis_group), "daemon")
    assert daemon is not None
    options = shown(pages["anubisd.8"]).partition("OPTIONS")[2].partition("SIGNALS")[0]
    for parameter in daemon.params:
        assert parameter.opts[0] in options


@pytest.mark.parametrize(
    ("page", "grammar"),
    [("anubis.conf.5", config.GRAMMAR), ("authorized_peers.5", peer_stanza.GRAMMAR)],
)
def test_every_key_is_in_its_page(pages: dict[str, str], page: str, grammar: Grammar) -> None:
    """Below the heading of its section, each with its type and default, and no other."""
    text = shown(pages[page])
    for section in grammar.sections:
        part = text.partition(f"\n   [{section.name}]\n")[2]
        part = re.split(r"^(?:   )?\S", part, maxsplit=1, flags=re.MULTILINE)[0]
        keys = re.findall(r"^       (\w+) \([^;]+; (?:default: |required)", part, re.MULTILINE)
        assert keys == [key.name for key in section.keys]
