"""Editing the text of an authorized-peers file as a careful person would. Pure: text to text.

Owns which lines belong to a stanza, comments included, and changes no other line: order, comments,
blanks and line ends stay as they were. Refuses to know what the keys mean (`peer_stanza`) and how a
file is replaced (`writing`). The text is one that `ini.parse` has found right.

A comment belongs to the stanza whose `[Peer]` follows it without a blank line, else to the one
whose keys it follows without a blank line, else to nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anubis.files.ini import squeeze

__all__ = ["append", "remove", "retitle", "set_key"]


@dataclass(frozen=True, slots=True)
class _Line:
    """A line with its line end; `content` is what is left without comment and blanks."""

    text: str

    @property
    def content(self) -> str:
        return self.text.partition("#")[0].strip()

    @property
    def is_blank(self) -> bool:
        return not self.text.strip()

    @property
    def is_comment(self) -> bool:
        return not self.is_blank and not self.content

    @property
    def is_header(self) -> bool:
        return self.content.startswith("[")

    @property
    def key(self) -> str:
        """The key that the line gives, in lower case; nothing if it gives none."""
        written, equals, _ = self.content.partition("=")
        return squeeze(written).lower() if equals and not self.is_header else ""

    def with_value(self, value: str) -> str:
        """Return the line with another value; how it is written otherwise stays."""
        before, _, after = self.text.partition("=")
        given = after.partition("#")[0]
        lead = given[: len(given) - len(given.lstrip(" \t"))]
        rest = after[len(given.rstrip()) :]
        return f"{before}={lead}{value}{rest}"


def append(text: str, stanza: str) -> str:
    """Return the text with a stanza at its end, a blank line before it."""
    end = _line_end(text)
    if text and not text.endswith("\n"):
        text += end
    if text and not text.endswith(end + end):
        text += end
    return text + stanza.rstrip("\n").replace("\n", end) + end


def remove(text: str, line: int) -> str:
    """Return the text without the stanza whose `[Peer]` stands in this line, counted from 1."""
    lines = _lines(text)
    begin, end = _span(lines, line - 1)
    while end < len(lines) and lines[end].is_blank:
        end += 1
    if end == len(lines):
        while begin > 0 and lines[begin - 1].is_blank:
            begin -= 1
    return _joined(lines[:begin] + lines[end:])


def retitle(text: str, line: int, title: str) -> str:
    """Return the text with another name for the section that begins in this line."""
    lines = _lines(text)
    _span(lines, line - 1)
    before, _, after = lines[line - 1].text.partition("[")
    lines[line - 1] = _Line(f"{before}[{title}]{after.partition(']')[2]}")
    return _joined(lines)


def set_key(text: str, line: int, key: str, value: str | None) -> str:
    """Return the text with a key of the stanza at this line set to a value, or without the key.

    Where the key is given, it stays there; a list that is given in several lines becomes one.
    """
    lines = _lines(text)
    header = line - 1
    _, end = _span(lines, header)
    given = [at for at in range(header + 1, end) if lines[at].key == key.lower()]
    if value is not None and given:
        lines[given[0]] = _Line(lines[given[0]].with_value(value))
        del given[0]
    elif value is not None:
        last = max((at for at in range(header + 1, end) if lines[at].key), default=header)
        if not lines[last].text.endswith("\n"):
            lines[last] = _Line(lines[last].text + _line_end(text))
        indent = _indent(lines[last]) if last != header else ""
        lines.insert(last + 1, _Line(f"{indent}{key} = {value}{_line_end(text)}"))
    for at in reversed(given):
        del lines[at]
    return _joined(lines)


def _span(lines: list[_Line], header: int) -> tuple[int, int]:
    """Return the first line of a stanza and the one after its last."""
    if not 0 <= header < len(lines) or not lines[header].is_header:
        raise ValueError(f"no section begins in line {header + 1}")
    begin = _back(lines, header, lambda line: line.is_comment)
    following = header + 1
    while following < len(lines) and not lines[following].is_header:
        following += 1
    if following < len(lines):
        following = _back(lines, following, lambda line: line.is_comment)
    last = max((at for at in range(header, following) if lines[at].content), default=header)
    end = last + 1
    while end < following and lines[end].is_comment:
        end += 1
    return begin, end


def _back(lines: list[_Line], at: int, belongs: Callable[[_Line], bool]) -> int:
    while at > 0 and belongs(lines[at - 1]):
        at -= 1
    return at


def _lines(text: str) -> list[_Line]:
    # Not splitlines(), for which more characters end a line than for the grammar.
    parts = text.split("\n")
    return [_Line(part + "\n") for part in parts[:-1]] + ([_Line(parts[-1])] if parts[-1] else [])


def _joined(lines: list[_Line]) -> str:
    return "".join(line.text for line in lines)


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _indent(line: _Line) -> str:
    return line.text[: len(line.text) - len(line.text.lstrip(" \t"))]
