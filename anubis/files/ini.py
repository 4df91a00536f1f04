"""WireGuard's INI dialect: bytes become sections of keys and values, each with its place.

Owns the lines: encoding, comments, sections, which keys may stand where and how often, and how a
value is shown in an error without giving a secret away. Refuses to know what any value means.
Nothing here raises for bad input: every fault becomes a Problem, so that all are reported at once.

As in wg(8): `#` begins a comment anywhere in a line, the case of sections and keys does not count,
nor do blanks around or within them. Unlike wg(8): a key that is given twice is an error unless it
is a list, because the reader cannot know which one the writer meant.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from anubis.errors import Location, Problem

__all__ = [
    "MAX_LINE",
    "BadValue",
    "Grammar",
    "Key",
    "Section",
    "SectionGrammar",
    "parse",
    "shown",
    "squeeze",
    "suggestion",
]

MAX_LINE = 4096  # bytes, without the line feed

_BLANKS = " \t\v\f\r"  # wg's char_is_space, without the line feed
_WITHOUT_BLANKS = dict.fromkeys(map(ord, _BLANKS))
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
# 32 characters of base64 or hex in a row may be a good part of a key that stands in a wrong place.
_KEY_LIKE = re.compile(r"[A-Za-z0-9+/]{32,}={0,2}")
_SHOWN_LENGTH = 80  # characters
_HIDDEN = "(not shown)"

Value = TypeVar("Value")
Default = TypeVar("Default")


class BadValue(ValueError):
    """A value is not what its key asks for; `hint` says what would be right."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Key:
    """A key that may stand in a section. A list takes commas and may be given several times."""

    name: str
    is_list: bool = False
    secret: bool = False


@dataclass(frozen=True, slots=True)
class SectionGrammar:
    """A section that may stand in a file, and its keys."""

    name: str
    keys: tuple[Key, ...]
    repeatable: bool = False

    def key(self, name: str) -> Key | None:
        """Return the key of this name, whatever its case."""
        folded = name.lower()
        return next((key for key in self.keys if key.name.lower() == folded), None)


@dataclass(frozen=True, slots=True)
class Grammar:
    """What may stand in a file; `elsewhere` says where sections of other files belong."""

    sections: tuple[SectionGrammar, ...]
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # by lower-case section name


@dataclass(slots=True)
class Section:
    """One section as it was written, and the problems found while reading it."""

    path: Path
    line: int
    grammar: SectionGrammar
    problems: list[Problem]
    values: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # key: (line, text)

    def location(self, key: str | None = None) -> Location:
        """Return where `key` was given first, or else where the section begins."""
        given = self.values.get(key) if key else None
        return Location(self.path, given[0][0] if given else self.line)

    def complain(self, key: str | None, message: str, hint: str | None = None) -> None:
        """Record a problem at the place of `key`, or of the whole section."""
        self.problems.append(Problem(self.location(key), message, hint))

    def one(
        self, key: str, parse_value: Callable[[str], Value], default: Default
    ) -> Value | Default:
        """Return the parsed value of `key`; the default if it is absent or bad."""
        for line, text in self.values.get(key, ()):
            try:
                return parse_value(text)
            except BadValue as error:
                self._bad_value(line, key, text, error)
        return default

    def many(self, key: str, parse_value: Callable[[str], Value]) -> list[Value]:
        """Return the parsed items of a comma-separated list, over all lines that give `key`."""
        result = []
        for line, text in self.values.get(key, ()):
            for item in text.split(","):
                try:
                    result.append(parse_value(item.strip(_BLANKS)))
                except BadValue as error:
                    self._bad_value(line, key, item.strip(_BLANKS), error)
        return result

    def _bad_value(self, line: int, key: str, text: str, error: BadValue) -> None:
        known = self.grammar.key(key)
        value = _HIDDEN if known is None or known.secret else shown(text)
        message = f"{key} = {value}: {error.message}"
        self.problems.append(Problem(Location(self.path, line), message, error.hint))


def squeeze(text: str) -> str:
    """Return `text` without any blanks, as wg reads every line."""
    return text.translate(_WITHOUT_BLANKS)


def shown(text: str) -> str:
    """Return `text` fit for a message: printable, short, and without anything like a key."""
    if not text:
        return "(nothing)"
    text = _KEY_LIKE.sub(_HIDDEN, text)
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[: _SHOWN_LENGTH + 1])
    return text if len(text) <= _SHOWN_LENGTH else text[:_SHOWN_LENGTH] + "..."


def suggestion(word: str, known: list[str], what: str) -> str:
    """Return a hint: the known word nearest to `word`, or all of them if none is near."""
    by_folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower()[:64], by_folded, n=1)
    if close:
        return f"did you mean {by_folded[close[0]]}?"
    return f"{what}: {', '.join(known)}"


def parse(data: bytes, path: Path, grammar: Grammar, problems: list[Problem]) -> Iterator[Section]:
    """Yield the sections of a file one by one, adding to `problems` what is wrong with its lines.

    A section that the grammar does not know is one problem and is skipped as a whole.
    """
    section: Section | None = None
    seen: dict[str, int] = {}
    before_any_section = True
    for number, raw in enumerate(io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")), start=1):
        try:
            text = _line_text(raw)
            if text.startswith("["):
                if section is not None:
                    yield section
                section, before_any_section = None, False
                found = _section_grammar(text, grammar, seen, number)
                section = Section(path, number, found, problems)
            elif text and before_any_section:
                _refuse_homeless(text, grammar)
            elif text and section is not None:
                _add_value(section, text, number)
        except BadValue as error:
            problems.append(Problem(Location(path, number), error.message, error.hint))
    if section is not None:
        yield section


def _line_text(raw: bytes) -> str:
    """Return a line as text without comment and surrounding blanks."""
    raw = raw.rstrip(b"\n")
    if len(raw) > MAX_LINE:
        raise BadValue(
            f"a line of {len(raw)} bytes",
            f"at most {MAX_LINE}; a list may be given in several lines with the same key",
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"0x{raw[error.start]:02x}"
        raise BadValue(
            f"byte {byte} in column {error.start + 1} is not UTF-8", "save the file as UTF-8"
        ) from None
    control = _CONTROL.search(text)
    if control is not None:
        code = f"0x{ord(control.group()):02x}"
        raise BadValue(
            f"control character {code} in column {control.start() + 1}", "these are text files"
        )
    return text.partition("#")[0].strip(_BLANKS)


def _refuse_homeless(text: str, grammar: Grammar) -> None:
    names = " or ".join(f"[{known.name}]" for known in grammar.sections)
    raise BadValue(f"{_key_of(text)} stands before any section", f"put {names} above it")


def _section_grammar(
    text: str, grammar: Grammar, seen: dict[str, int], number: int
) -> SectionGrammar:
    name = squeeze(text[1:-1])
    if not text.endswith("]") or not name:
        raise BadValue(f"{shown(text)} is not a section", "a section is a name in brackets: [Peer]")
    folded = name.lower()
    if folded in grammar.elsewhere:
        raise BadValue(f"[{shown(name)}] does not belong here", grammar.elsewhere[folded])
    for known in grammar.sections:
        if known.name.lower() == folded:
            if folded in seen and not known.repeatable:
                raise BadValue(
                    f"a second [{known.name}]; the first is in line {seen[folded]}",
                    "put all its keys into one section",
                )
            seen[folded] = number
            return known
    names = [known.name for known in grammar.sections]
    hint = suggestion(name, names, "this file has")
    raise BadValue(f"[{shown(name)}] is no section of this file", hint)


def _add_value(section: Section, text: str, number: int) -> None:
    written, equals, value = text.partition("=")
    if not equals:
        raise BadValue(f"{_key_of(text)} has no =", "a line reads Key = value")
    key = section.grammar.key(squeeze(written))
    if key is None:
        names = [known.name for known in section.grammar.keys]
        raise BadValue(
            f"{shown(written.strip(_BLANKS))} is no key of [{section.grammar.name}]",
            suggestion(squeeze(written), names, "its keys are"),
        )
    given = section.values.setdefault(key.name, [])
    if given and not key.is_list:
        raise BadValue(
            f"{key.name} was given in line {given[0][0]} already", "delete one of the two lines"
        )
    given.append((number, value.strip(_BLANKS)))


def _key_of(text: str) -> str:
    """Return the first word of a line: what follows may be a secret in a place unforeseen."""
    return shown(re.split(r"[\s=:]", text, maxsplit=1)[0])
