"""The options that several commands share, and how their values are read."""

from __future__ import annotations

import re

import click

from anubis.cli.completion import connections, peers
from anubis.durations import format_duration, parse_duration
from anubis.events import DEFAULT_TIMEOUT, LEASE_SECONDS, TIMEOUT_SECONDS

__all__ = [
    "duration",
    "json_option",
    "lease_option",
    "name_argument",
    "name_of_down_argument",
    "name_of_up_argument",
    "peer_argument",
    "pin_option",
    "timeout_option",
]

_SECONDS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s")


def duration(_ctx: click.Context, _param: click.Parameter, text: str) -> int:
    """Read an option that is a duration, in seconds."""
    return _parse(text)


def _lease(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    seconds = _parse(text)
    shortest, longest = LEASE_SECONDS
    if not shortest <= seconds <= longest:
        raise click.BadParameter(
            f"a lease is from {format_duration(shortest)} to {format_duration(longest)}"
        )
    return seconds


def _timeout(_ctx: click.Context, _param: click.Parameter, text: str) -> float:
    # Unlike other durations, a timeout may have a fraction.
    match = _SECONDS.fullmatch(text)
    seconds = float(match[1]) if match else float(_parse(text))
    shortest, longest = TIMEOUT_SECONDS
    if not shortest <= seconds <= longest:
        raise click.BadParameter(f"a timeout is from {shortest:g}s to {longest:g}s")
    return seconds


def _parse(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


name_argument = click.argument("name", shell_complete=connections())
name_of_down_argument = click.argument("name", shell_complete=connections("down"))
name_of_up_argument = click.argument("name", shell_complete=connections("up"))
peer_argument = click.argument("name", shell_complete=peers)
lease_option = click.option(
    "--lease", callback=_lease, metavar="DURATION", help="How long it stays up, such as 8h."
)
pin_option = click.option(
    "--pin", "pinned", is_flag=True, help="Renew it, and bring it up again, until it is taken down."
)
timeout_option = click.option(
    "--timeout",
    callback=_timeout,
    metavar="DURATION",
    default=f"{DEFAULT_TIMEOUT:g}s",
    show_default=True,
    help="How long to wait for the far end.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, also for an error."
)
