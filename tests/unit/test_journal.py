"""Entries of the journal, as its own socket would get them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anubis.daemon.journal import encode, leads_to_journal
from anubis.daemon.log import event, set_up


def decode(datagram: bytes) -> dict[str, bytes]:
    """Read an entry as the protocol has it: NAME=value, or NAME, a size, and the value."""
    found, rest = {}, datagram
    while rest:
        line, _, after = rest.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            rest = after
        else:
            name, size = line, int.from_bytes(after[:8], "little")
            value, rest = after[8 : 8 + size], after[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        found[name.decode()] = value
    return found


@pytest.fixture
def journal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Be the journal, to which standard error leads."""
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "socket"))
        receiver.settimeout(5)
        set_up(debug=False, journal=tmp_path / "socket")
        yield receiver
    monkeypatch.delenv("JOURNAL_STREAM")
    set_up(debug=False)


def test_an_entry_has_fields(journal: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    """One can ask for a peer or a verb, however the line names them; the line is the message."""
    event(logging.WARNING, "call-failed", call="up", connection="xena", message="no way", uid=0)
    assert decode(journal.recv(65536)) == {
        "MESSAGE": b'call-failed call=up connection=xena message="no way" uid=0',
        "PRIORITY": b"4",
        "SYSLOG_IDENTIFIER": b"anubisd",
        "ANUBIS_EVENT": b"call-failed",
        "ANUBIS_VERB": b"up",
        "ANUBIS_PEER": b"xena",
        "ANUBIS_MESSAGE": b"no way",
        "ANUBIS_UID": b"0",
    }
    event(logging.INFO, "down", peer="xena", verb="down")
    entry = decode(journal.recv(65536))
    assert (entry["ANUBIS_PEER"], entry["ANUBIS_VERB"]) == (b"xena", b"down")
    assert capsys.readouterr().err == ""


def test_a_value_cannot_forge_a_field(journal: socket.socket) -> None:
    """A line break in what a stranger said stays in its field."""
    reason = "bye\nANUBIS_PEER=jacinth\n"
    event(logging.INFO, "down", connection="xena", reason=reason)
    entry = decode(journal.recv(65536))
    assert (entry["ANUBIS_PEER"], entry["ANUBIS_REASON"]) == (b"xena", reason.encode())


def test_what_other_modules_log_is_an_entry_too(journal: socket.socket) -> None:
    """With the traceback of a bug in the message."""
    try:
        int("a bug")
    except ValueError:
        logging.getLogger("anubis.daemon.api").exception("internal-error")
    entry = decode(journal.recv(65536))
    assert entry["MESSAGE"].startswith(b"internal-error\nTraceback")
    assert entry["PRIORITY"] == b"3"


def test_what_the_journal_does_not_take_is_a_line(
    journal: socket.socket, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An entry that is too long, one of a flood, and any when the journal is gone: none waits."""
    set_up(debug=False, journal=tmp_path / "socket")
    event(logging.INFO, "long", reason="x" * 10_000_000)
    assert capsys.readouterr().err.startswith("<6>long reason=xxx")
    for number in range(10_000):
        event(logging.INFO, "flood", number=number)
    assert "<6>flood number=9999\n" in capsys.readouterr().err
    journal.close()
    event(logging.INFO, "gone")
    assert capsys.readouterr().err == "<6>gone\n"


def test_whether_standard_error_leads_there() -> None:
    """What counts is the file that the descriptor is, not that the variable is set."""
    reading, writing = os.pipe()
    status = os.fstat(writing)
    name = f"{status.st_dev}:{status.st_ino}"
    try:
        assert leads_to_journal({"JOURNAL_STREAM": name}, writing)
        assert not leads_to_journal({"JOURNAL_STREAM": name + "1"}, writing)
        assert not leads_to_journal({}, writing)
    finally:
        os.close(reading)
        os.close(writing)
    assert not leads_to_journal({"JOURNAL_STREAM": name}, writing)


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text()))
def test_any_text_comes_through(fields: dict[str, str]) -> None:
    """No text gets into another field."""
    wanted = {name: text.encode(errors="backslashreplace") for name, text in fields.items()}
    assert decode(encode(fields)) == wanted
