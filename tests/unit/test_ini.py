"""WireGuard's INI dialect, as `anubis.files.ini` reads it, and durations."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.durations import MAX_DURATION, format_duration, parse_duration
from anubis.errors import Problem
from anubis.files.ini import Grammar, Key, Section, SectionGrammar, parse, shown

PATH = Path("/etc/anubis/test")
GRAMMAR = Grammar(
    sections=(
        SectionGrammar("Host", (Key("Name"), Key("Secret", secret=True), Key("Port"))),
        SectionGrammar("Peer", (Key("Name"), Key("AllowedIPs", is_list=True)), repeatable=True),
    ),
    elsewhere={"interface": "see over there"},
)
SECRET = base64.b64encode(bytes(range(200, 232))).decode()


def read(data: bytes | str) -> tuple[list[Section], list[Problem]]:
    """Parse with the grammar above."""
    problems: list[Problem] = []
    data = data.encode() if isinstance(data, str) else data
    return list(parse(data, PATH, GRAMMAR, problems)), problems


def the_problem(data: bytes | str) -> Problem:
    """Return the only problem of a file."""
    _, problems = read(data)
    assert len(problems) == 1
    return problems[0]


def test_comments_blanks_and_case_as_in_wg() -> None:
    """A `#` begins a comment anywhere; case and blanks of sections and keys do not count."""
    text = "# first\r\n [ peer ] # a\n\n\tname=a # Name = b\n allowed IPs = 1, 2#3\nALLOWEDIPS=4"
    (section,), problems = read(text)
    assert problems == []
    assert section.values == {"Name": [(4, "a")], "AllowedIPs": [(5, "1, 2"), (6, "4")]}
    assert section.many("AllowedIPs", int) == [1, 2, 4]


def test_byte_order_mark_is_no_part_of_the_text() -> None:
    """An editor that begins UTF-8 with a mark does no harm."""
    assert len(read("\ufeff[Peer]\n")[0]) == 1


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("Name = a", 1, "Name stands before any section", "put [Host] or [Peer] above it"),
        ("\n[Per]", 2, "[Per] is no section of this file", "did you mean Peer?"),
        ("[Zzz]\nany = 1", 1, "[Zzz] is no section of this file", "this file has: Host, Peer"),
        ("[Interface]\nx = 1", 1, "[Interface] does not belong here", "see over there"),
        ("[Peer", 1, "[Peer is not a section", "a section is a name in brackets: [Peer]"),
        ("[]", 1, "[] is not a section", "a section is a name in brackets: [Peer]"),
        ("[Peer]\nNam = a", 2, "Nam is no key of [Peer]", "did you mean Name?"),
        ("[Peer]\nPort = 1", 2, "Port is no key of [Peer]", "its keys are: Name, AllowedIPs"),
        ("[Peer]\nName a", 2, "Name has no =", "a line reads Key = value"),
        (
            "[Peer]\nName = a\nname = b",
            3,
            "Name was given in line 2 already",
            "delete one of the two lines",
        ),
        (
            "[Host]\n[Peer]\n[Peer]\n[HOST]",
            4,
            "a second [Host]; the first is in line 1",
            "put all its keys into one section",
        ),
    ],
)
def test_faulty_lines_are_told_with_line_and_remedy(
    text: str, line: int, message: str, hint: str
) -> None:
    """Each fault is one problem: its place, what stands there, and what would be right."""
    problem = the_problem(text)
    assert problem.location.path == PATH
    assert problem.location.line == line
    assert (problem.message, problem.hint) == (message, hint)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"Name = \xff", "byte 0xff in column 8 is not UTF-8"),
        (b"Name = a\0b", "control character 0x00 in column 9"),
        (b"# \x1b[31m", "control character 0x1b in column 3"),
        (b"#" * 4097, "a line of 4097 bytes"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(line: bytes, message: str) -> None:
    """Bytes that an editor would hide, or that hide something from the reader, are faults."""
    problem = the_problem(b"[Peer]\n" + line + b"\nName = a\n")
    assert problem.location.line == 2
    assert problem.message == message


def test_longest_line_is_read() -> None:
    """A line of 4096 bytes is a line."""
    assert read(b"[Peer]\n#" + b"x" * 4095 + b"\n")[1] == []


def test_all_faults_are_told() -> None:
    """A fault does not hide the next one."""
    _, problems = read("a\n[Peer]\nb = 1\nName\n[x]\nignored\n[Peer]\nName = 1\nName = 2\n")
    assert [problem.location.line for problem in problems] == [1, 3, 4, 5, 9]


@pytest.mark.parametrize(
    "line",
    [
        f"Secret {SECRET}",
        f"Secret: {SECRET}",
        f"Secrets = {SECRET}",
        f"Sekret {SECRET} = x",
        f"{SECRET}",
        f"[{SECRET}]",
        f"Name = {SECRET}",
        f"Port = {bytes(range(200, 232)).hex()}",
        f"Secret = {SECRET[:20]}",
    ],
)
def test_secrets_are_never_shown(line: str) -> None:
    """A secret in its place, in a wrong one, or in a line that is no line, is not echoed."""

    def refuse(text: str) -> str:
        from anubis.files.ini import BadValue  # noqa: PLC0415  to have the test beside its parser

        raise BadValue("bad", "worse")

    sections, problems = read(f"[Host]\n{line}\n")
    for section in sections:
        for key in section.values:
            section.one(key, refuse, None)
    said = "".join(map(str, problems))
    assert problems
    assert SECRET[:12] not in said
    assert bytes(range(200, 232)).hex()[:12] not in said


def test_shown_text_is_printable_and_short() -> None:
    """What a file says cannot move the cursor of the terminal or fill it."""
    assert shown("a\x1b[31m\u202eb") == "a\\x1b[31m\\x202eb"
    assert shown("") == "(nothing)"
    assert len(shown("x " * 5000)) < 100


@given(st.binary(max_size=300))
def test_any_bytes_give_sections_and_problems(data: bytes) -> None:
    """No file, whatever its bytes, raises anything here."""
    read(data)
    read(b"[Peer]\n" + data)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("8h", 28800), ("1d12h", 129600), ("90m", 5400), ("1D", 86400)],
)
def test_durations_are_read(text: str, seconds: int) -> None:
    """The notations of the reference mean what it says."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "8", "h", "-1s", "1.5h", "1h1d", "1h 30m", "8x", "٣h", "99999999999s", "50000d"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Nothing is guessed: no missing unit, no fraction, no wrong order, no overflow."""
    with pytest.raises(ValueError, match=r"unit|not a duration|too long"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=MAX_DURATION))
def test_formatted_durations_are_read_back(seconds: int) -> None:
    """`format_duration` and `parse_duration` are inverse."""
    assert parse_duration(format_duration(seconds)) == seconds


def test_negative_durations_are_not_formatted() -> None:
    """A negative duration is a bug of the caller, not "0s"."""
    with pytest.raises(ValueError, match="negative"):
        format_duration(-1)
