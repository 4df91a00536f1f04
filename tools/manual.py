"""`python -m tools.manual DIRECTORY`: write the man pages, as roff, into a directory.

Each has a source in `man/`, in Markdown, which takes over what stands elsewhere already: the help
of the commands, and sections of `docs/`. So a new option, a new key and a new word about it are in
the man pages by themselves. Owns that taking over; lowdown(1) knows Markdown and roff.
A source has lines that stand for something else:

    <!-- commands -->                   every command, with its help and its options
    <!-- options of daemon -->          the options of one command
    <!-- section of FILE: HEADING -->   that section of docs/FILE, and those below it
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from anubis import __version__
from anubis.cli.app import anubis_group

__all__ = ["markdown", "roff", "write_all"]

ROOT = Path(__file__).parents[1]
_VOLUMES = {"1": "User commands", "5": "File formats", "8": "System administration"}
_STANDS_FOR = re.compile(r"^<!-- (commands|options of|section of) ?(.*?) -->$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\([^)\s]*\)")
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
# A table of keys, and one of two columns: a terminal is too narrow for them, they become lists.
_TABLE = re.compile(r"^\| (.*) \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)
_KEY_COLUMNS = ["key", "type", "default", "meaning"]
# What lowdown writes is roff, but not what man(7) asks for; each pair makes it so.
_BEGUN = r"^\.LP\n(.*)\n\.if n .*\n\.sp -1v\n\.if t .*\n\.sp -0\.25v\n\.IP \"\" 5n$"
_MENDED = (
    (re.compile(_BEGUN, re.MULTILINE), r".TP\n\1"),
    (re.compile(r"^\.(SH|SS)\n(.*)\n(?:\.LP\n)?", re.MULTILINE), r'.\1 "\2"\n'),
    (re.compile(r"\\fC"), r"\\fB"),
)


def write_all(directory: Path) -> None:
    """Write every page where man(1) looks: DIRECTORY/man5/anubis.conf.5 and so on."""
    for source in sorted((ROOT / "man").glob("*.md")):
        page = source.stem
        path = directory / f"man{page[-1]}" / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(roff(page))


def roff(page: str) -> str:
    """Return a page, such as `anubis.conf.5`. Raises CalledProcessError if lowdown does not."""
    name, _, section = page.rpartition(".")
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    facts = {
        "title": name.upper(),
        "section": section,
        "date": time.strftime("%Y-%m-%d", time.gmtime(seconds)),
        "source": f"Anubis {__version__}",
        "volume": _VOLUMES[section],
    }
    words = [word for key, value in facts.items() for word in ("-M", f"{key}={value}")]
    command = ["lowdown", "-s", "-t", "man", "--out-no-smarty", "--parse-no-ext-attrs", *words]
    done = subprocess.run(
        command, input=markdown(page), stdout=subprocess.PIPE, text=True, check=True
    )
    text = done.stdout
    for pattern, replacement in _MENDED:
        text = pattern.sub(replacement, text)
    return f"'\\\" t\n{text}"  # has man(1) set tables


def markdown(page: str) -> str:
    """Return the source of a page with everything that it takes over."""
    text = (ROOT / "man" / f"{page}.md").read_text()
    return _STANDS_FOR.sub(_substance, text)


def _substance(line: re.Match[str]) -> str:
    match line[1]:
        case "commands":
            context = click.Context(anubis_group, info_name="anubis")
            return "\n".join(_commands(anubis_group, context))
        case "options of":
            command = anubis_group.get_command(click.Context(anubis_group), line[2])
            if command is None:
                raise LookupError(f"there is no command {line[2]}")
            return "\n".join(_options(command, click.Context(command)))
        case _:
            file, _, heading = line[2].partition(": ")
            return _section((ROOT / "docs" / file).read_text(), heading)


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    """Describe the commands of a group, in its order, and those below them."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, context, info_name=name)
        usage = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
        yield f"## {_plain(usage)}\n"
        yield f"{_plain(inspect.cleandoc(command.help or ''))}\n"
        yield from _options(command, inner)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            words, meaning = record
            yield f"`{words}`\n\n: {_plain(meaning)}\n"


def _plain(text: str) -> str:
    """Return text that Markdown leaves as it is, but for what stands between backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_\[\]<>|])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _section(text: str, heading: str) -> str:
    """Return what stands below a heading, with the headings below it, as the page has them."""
    begin = re.search(rf"^(#+) {re.escape(heading)}\n", text, re.MULTILINE)
    if begin is None:
        raise LookupError(f"there is no heading {heading!r}")
    level = len(begin[1])
    end = re.compile(rf"^#{{1,{level}}} ", re.MULTILINE).search(text, begin.end())
    text = text[begin.end() : end.start() if end else None]
    text = re.sub(r"^#{3,} ", "## ", text, flags=re.MULTILINE)
    return _TABLE.sub(_list, _LINK.sub(r"\1", _COMMENT.sub("", text)))


def _list(table: re.Match[str]) -> str:
    columns = table[1].split(" | ")
    rows = [[cell.strip() for cell in line[1:-1].split(" |")] for line in table[2].splitlines()]
    if columns[:4] == _KEY_COLUMNS:
        return "\n".join(_key(*row[:4]) for row in rows)
    if len(columns) == 2:
        return "\n".join(f"{term}\n\n: {meaning}\n" for term, meaning in rows)
    return table[0]


def _key(name: str, kind: str, default: str, meaning: str) -> str:
    usual = default if default == "required" else f"default: {default}"
    return f"{name} ({kind}; {usual})\n\n: {meaning}\n"


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
