"""`anubis why`: tell which link of the chain to a far end is broken, and what mends it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from anubis.cli.options import json_option, name_argument
from anubis.cli.output import RED, json_errors, paint, printable, say, say_json
from anubis.client import Client
from anubis.diagnosis import BROKEN, OK, SKIPPED, UNKNOWN, Check, Diagnosis
from anubis.errors import ConfigError, DaemonNotRunning

__all__ = ["command"]

_CONFIG = Path("/etc/anubis/anubis.conf")
_MARKS = {OK: "✓", BROKEN: "✗", UNKNOWN: "?", SKIPPED: "-"}
_PLAIN_MARKS = {OK: "+", BROKEN: "x", UNKNOWN: "?", SKIPPED: "-"}
_LABELS = {"mtu": "MTU"}  # of links; others are their name with blanks


@click.command("why")
@name_argument
@json_option
def command(name: str, as_json: bool) -> None:
    """Tell which link of the chain to the far end of NAME is broken, and what mends it.

    This host is looked at first, then the way, then what both ends know together; the first broken
    link is the one to mend. Nothing that is up is changed. The exit status is 0 if nothing is
    broken, else what the first broken link stands for: 78 a mistake in the files, 69 no daemon, 4
    this host, 3 the way or the far end's silence, 1 the far end's no.
    """
    with json_errors(name, as_json=as_json):
        try:
            found = Client().why(name)
        except DaemonNotRunning as error:
            found = _without_daemon(name, error)
    if as_json:
        say_json(found.to_json())
    else:
        say("\n".join(_lines(found)))
    if found.broken:
        raise click.exceptions.Exit(found.exit_status)


def _without_daemon(name: str, error: DaemonNotRunning) -> Diagnosis:
    """Look at what there is of the chain while nobody answers: the files, and the daemon."""
    from anubis.files.authorized_peers import load_host  # noqa: PLC0415 (only without a daemon)

    try:
        load_host(_CONFIG)
        files = Check("files", OK, "the files are right")
    except ConfigError as wrong:
        files = _files(wrong)
    return Diagnosis(name, None, (files, Check("daemon", BROKEN, error.message, error.hint)))


def _files(wrong: ConfigError) -> Check:
    problem, more = wrong.problems[0], len(wrong.problems) - 1
    finding = f"{problem}{f', and {more} more' if more else ''}"
    if "Permission denied" in problem.message:
        return Check("files", UNKNOWN, finding, "sudo anubis check")
    return Check("files", BROKEN, finding, "sudo anubis check tells all that is wrong")


def _lines(found: Diagnosis) -> list[str]:
    name, first = printable(found.connection), found.broken
    state = f"{name} is {found.state}" if found.state else f"nobody can tell how {name} is"
    if first is not None:
        head = f"{state}; broken: {_label(first)}"
    else:
        head = f"{state}; nothing is broken"
    width = max(len(_label(check)) for check in found.checks)
    lines = [head]
    for check in found.checks:
        line = f"  {_mark(check)} {_label(check):<{width}}  {printable(check.finding)}"
        lines.append(paint(line, RED) if check is first else line)
        if check.remedy and (check is first or check.state == UNKNOWN):
            lines.append(f"    {'':<{width}}  {printable(check.remedy)}")
    return lines


def _label(check: Check) -> str:
    return _LABELS.get(check.name, printable(check.name).replace("_", " ").replace("rp ", "rp_"))


def _mark(check: Check) -> str:
    """Return a link's mark, in letters where the terminal has no other."""
    mark = _MARKS.get(check.state, "?")
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return _PLAIN_MARKS.get(check.state, "?")
    return mark
