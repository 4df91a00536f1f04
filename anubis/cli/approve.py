"""`anubis approve`: agree to what somebody else asks for, or see who waits for that."""

from __future__ import annotations

import click

from anubis.cli.completion import connections
from anubis.cli.options import json_option, timeout_option
from anubis.cli.output import json_errors, printable, say, say_json
from anubis.client import Client

__all__ = ["command"]


@click.command("approve")
@click.argument("name", required=False, shell_complete=connections("down"))
@click.option(
    "--at",
    metavar="NAME",
    shell_complete=connections(),
    help="The host that asks for this host's approval; without it, this host is that one.",
)
@timeout_option
@json_option
def command(name: str | None, *, at: str | None, timeout: float, as_json: bool) -> None:
    """Let NAME connect, which waits for an approval; without NAME, tell who waits.

    Who waits is known where the connection was asked for, and there anybody can be approved. From
    another host, --at asks that one, for those whose entries there say `Approve` with the name of
    this host. The connection comes up within two seconds.
    """
    with json_errors(name, as_json=as_json):
        approval = Client().approve(name, at, timeout)
    if as_json:
        say_json(approval.to_json())
        return
    if approval.approved is not None:
        say(f"{printable(approval.approved)} is approved")
        return
    for each in approval.waiting:
        say(printable(each))
    if not approval.waiting:
        say("nobody waits for approval")
