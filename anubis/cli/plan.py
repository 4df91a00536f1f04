"""`anubis plan`: tell what a command would do on this host, without doing it."""

from __future__ import annotations

import click

from anubis.cli.options import json_option, name_of_down_argument
from anubis.cli.output import explain, json_errors, printable, say, say_json
from anubis.client import Client
from anubis.durations import format_duration
from anubis.errors import LocalFailure
from anubis.forecast import Plan

__all__ = ["command"]

_KINDS = {"mtu": "MTU", "fwmark": "fwmark", "parameter": "kernel parameter"}


@click.group("plan")
def command() -> None:
    """Tell what a command would do on this host, without doing it."""


@command.command("up")
@name_of_down_argument
@json_option
def _up(name: str, as_json: bool) -> None:
    """Tell what `anubis up NAME` would do now: peers, routes, rules, MTU, kernel parameters.

    Nothing is done, and the far end is not asked. If something on this host is in the way, that is
    told, and the exit status is 4, as that of `anubis up` would be.
    """
    with json_errors(name, as_json=as_json):
        plan = Client().plan(name)
    if as_json:
        say_json(plan.to_json())
    else:
        say("\n".join(_lines(plan)))
    for obstacle in plan.in_the_way:
        explain(LocalFailure(obstacle.message, obstacle.hint))
    if plan.in_the_way:
        raise click.exceptions.Exit(LocalFailure.exit_status)


def _lines(plan: Plan) -> list[str]:
    name, lease = printable(plan.connection), format_duration(plan.lease_seconds)
    if plan.in_the_way:
        head = f"{name} cannot come up now; if it could, this host would"
    elif plan.state == "up":
        head = f"{name} is up; up would ask it for a lease of {lease} again, and this host would"
    else:
        head = f"up would ask {name} for a lease of {lease}, and this host would"
    rows = [(step.do, _KINDS.get(step.kind, step.kind), step.text) for step in plan.steps]
    width = max((len(kind) for _, kind, _ in rows), default=0)
    lines = [f"  {do:<6}  {kind:<{width}}  {text}" for do, kind, text in rows]
    return [
        f"{head}{':' if lines else ' change nothing'}",
        *map(printable, lines),
        *(printable(f"{text[:1].upper()}{text[1:]}.") for text in plan.unknown),
    ]
