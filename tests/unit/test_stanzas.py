"""A file is edited as a careful person would: what is not meant stays to the letter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.errors import ConfigError
from anubis.files.authorized_peers import AuthorizedPeers, parse_authorized_peers
from anubis.files.keyfile import GuardedFile
from anubis.files.stanzas import append, remove, retitle, set_key
from anubis.wireguard.keys import PrivateKey

PATH = Path("/etc/anubis/authorized_peers")

TEXT = """\
# Who may ask this house.

# Xena's laptop,
# bought in May
[Peer]
Name = xena   # short for Xenophon
PublicKey = A
  AllowedIPs = 10.0.0.1/32
  AllowedIPs = 10.0.0.2/32
# she is asked first

# Nobody's comment.

[peer]
name=surya
publickey=B
allowedips=10.0.0.3/32
# Selen's phone
[Peer]
Name = selen
PublicKey = C
AllowedIPs = 10.0.0.4/32
"""
XENA, SURYA, SELEN = 5, 14, 19


def lines(text: str) -> list[str]:
    """Return the lines of a text, without their ends."""
    return text.split("\n")


def without(text: str, first: int, last: int) -> str:
    """Return a text without these lines, counted from 1."""
    kept = lines(text)
    return "\n".join(kept[: first - 1] + kept[last:])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # Its own comments go with it, above and below, and one of two blank lines.
        (XENA, without(TEXT, 3, 11)),
        # The comment of the next one stays, though no blank line parts them.
        (SURYA, without(TEXT, 14, 17)),
        (SELEN, without(TEXT, 18, 22)),
    ],
)
def test_a_stanza_is_removed_with_what_belongs_to_it(line: int, expected: str) -> None:
    """Nobody else's line is touched."""
    assert lines(remove(TEXT, line)) == lines(expected)


def test_the_last_one_takes_the_blank_line_before_it_along() -> None:
    """A file does not end in ever more blank lines."""
    assert remove("# a\n\n[Peer]\nName = x\n\n\n", 3) == "# a\n"


@pytest.mark.parametrize(
    ("line", "key", "value", "old", "new"),
    [
        (XENA, "Name", "xenia", "Name = xena   #", "Name = xenia   #"),
        (SURYA, "Name", "sol", "name=surya", "name=sol"),
        (SELEN, "Lease", "8h", "10.0.0.4/32\n", "10.0.0.4/32\nLease = 8h\n"),
        (
            XENA,
            "AllowedIPs",
            "10.1.0.0/16",
            "  AllowedIPs = 10.0.0.1/32\n  AllowedIPs = 10.0.0.2/32\n",
            "  AllowedIPs = 10.1.0.0/16\n",
        ),
        (XENA, "Lease", "1h", "0.2/32\n#", "0.2/32\n  Lease = 1h\n#"),
        (SURYA, "publickey", None, "publickey=B\n", ""),
        (SURYA, "Lease", None, "", ""),
    ],
)
def test_a_key_is_set_where_it_stands(
    line: int, key: str, value: str | None, old: str, new: str
) -> None:
    """Spelling, blanks and a comment behind the value stay; a new key follows the last one."""
    assert lines(set_key(TEXT, line, key, value)) == lines(TEXT.replace(old, new, 1))


def test_a_file_without_a_last_line_end_stays_readable() -> None:
    """What is added stands on a line of its own."""
    assert set_key("[Peer]\nName = x", 1, "Lease", "1h") == "[Peer]\nName = x\nLease = 1h\n"
    assert append("[Peer]\nName = x", "[Peer]\nName = y\n").endswith("= x\n\n[Peer]\nName = y\n")


def test_line_ends_of_windows_stay() -> None:
    """An editor there would show one long line otherwise."""
    text = TEXT.replace("\n", "\r\n")
    for done in (
        append(text, "[Peer]\nName = y\n"),
        set_key(text, XENA, "Lease", "1h"),
        set_key(text, XENA, "Name", "y"),
        remove(text, SURYA),
    ):
        assert done.count("\n") == done.count("\r\n")


@pytest.mark.parametrize("line", [0, 1, 6, 99])
def test_a_line_where_no_stanza_begins(line: int) -> None:
    """Is a mistake of the caller, never a stanza nearby."""
    with pytest.raises(ValueError, match=f"no section begins in line {line}"):
        remove(TEXT, line)


def key(number: int) -> str:
    """Return a public key."""
    return PrivateKey(bytes([number] * 32)).public_key().base64()


def parsed(text: str) -> AuthorizedPeers:
    """Return what a text says, which must be right."""
    return parse_authorized_peers([GuardedFile(PATH, text.encode(), private=True)])


_COMMENTS = st.lists(st.sampled_from(["", "# a comment", "  # [Peer] = 1", "#"]), max_size=3)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Draw a file with comments and blank lines wherever they can be."""
    found = list(draw(_COMMENTS))
    for number in range(1, draw(st.integers(1, 4)) + 1):
        found.append(draw(st.sampled_from(["[Peer]", " [ peer ] # one", "[PEER]"])))
        for line in (
            f"Name = peer-{number}",
            f" public key={key(number)}",
            f"AllowedIPs = 10.0.{number}.1/32 # his",
            f"\tAllowedIPs = 10.0.{number}.2/32",
        ):
            found += [*draw(_COMMENTS), line]
        found += draw(_COMMENTS)
    return draw(st.sampled_from(["\n", "\r\n"])).join([*found, ""])


@given(texts(), st.data())
def test_what_the_file_says_changes_as_it_was_meant(text: str, data: st.DataObject) -> None:
    """After any edit the parser finds what was meant, and all else as before."""
    before = list(parsed(text))
    chosen = data.draw(st.sampled_from(before))
    others = [entry for entry in before if entry is not chosen]
    line = chosen.location.line
    assert list(parsed(remove(text, line))) == others
    renamed = {e.name: e for e in parsed(set_key(text, line, "Name", "other"))}
    assert renamed.pop("other") == replace(chosen, name="other")
    assert list(renamed.values()) == others
    leased = {e.name: e for e in parsed(set_key(text, line, "Lease", "1h"))}
    assert leased[chosen.name] == replace(chosen, lease_seconds=3600)
    added = f"[Peer]\nName = new\nPublicKey = {key(9)}\nAllowedIPs = 10.9.0.0/16\n"
    longer = parsed(append(text, added))
    assert list(longer)[:-1] == before
    assert longer.by_name("new") is not None
    with pytest.raises(ConfigError, match="has no PublicKey"):
        parsed(set_key(text, line, "PublicKey", None))


@pytest.mark.parametrize(
    ("header", "expected"), [("[Peer]", "[Other]"), ("  [ Peer ]  # hers", "  [Other]  # hers")]
)
def test_retitle_changes_the_name_of_a_section_alone(header: str, expected: str) -> None:
    """Blanks and comments around it stay, and every other line."""
    text = TEXT.replace("[Peer]\nName = xena", f"{header}\nName = xena")
    assert retitle(text, XENA, "Other") == text.replace(f"{header}\nName = xena",
                                                        f"{expected}\nName = xena")  # fmt: skip


def test_retitle_refuses_what_is_no_section() -> None:
    """Rather than to damage another line."""
    with pytest.raises(ValueError, match="no section begins in line 6"):
        retitle(TEXT, XENA + 1, "Other")
