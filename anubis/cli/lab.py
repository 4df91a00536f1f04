"""`anubis lab`: a playground of several hosts on one machine.

Owns the words of these commands; refuses to know how a lab works (`anubis.lab`). Imports are
within the commands, so that `lab exec` starts at once.
"""

# ruff: noqa: PLC0415  see above

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from anubis.lab.entry import demand_root, entering, environment
from anubis.lab.state import DEFAULT_DIRECTORY, StateDirectory

__all__ = ["command"]


@click.group("lab")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    envvar="ANUBIS_LAB",
    default=DEFAULT_DIRECTORY,
    show_default=True,
    show_envvar=True,
    help="The lab's state directory; each is a lab of its own.",
)
@click.pass_context
def command(context: click.Context, directory: Path) -> None:
    """Play with several hosts on this machine, each in namespaces of its own.

    jacinth is a house's gateway, leaf a web server in the house, surya a gateway in the cloud,
    xena a laptop in a hotel, selen a phone there. Nothing outside the lab is touched.
    """
    context.obj = directory.absolute()


@command.command()
@click.pass_obj
def up(directory: Path) -> None:
    """Bring the lab up; return when every daemon is ready."""
    from anubis.lab.daemon import DaemonFailed
    from anubis.lab.lab import Lab

    try:
        begun = Lab(directory).up()
    except DaemonFailed as failure:
        for line in failure.log:
            click.echo(f"  {line}", err=True)
        raise
    if begun:
        click.echo("the lab is up; try: anubis lab exec xena -- anubis up jacinth")
    else:
        click.echo("the lab is up already")


@command.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.pass_obj
def execute(directory: Path, host: str, argv: tuple[str, ...]) -> None:
    """Run a command in a host; its exit status is the command's.

    Besides the hosts there is `internet`, from where every network can be watched:
    `anubis lab exec internet -- tcpdump -i hotel`.
    """
    demand_root()
    line = entering(StateDirectory(directory), host, argv)
    # nsenter only waits for the command, which is to decide itself what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    os.execvpe(line[0], line, environment())  # noqa: S606  an argument list needs no shell


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def status(directory: Path, as_json: bool) -> None:
    """Show the hosts, their addresses and their daemons."""
    import json
    from dataclasses import asdict

    from anubis.lab.lab import Lab

    seen = Lab(directory).status()
    if as_json:
        click.echo(json.dumps(asdict(seen)))
        return
    click.echo(f"the lab is {seen.state} ({seen.directory})")
    for host in seen.hosts:
        click.echo(f"{host.name:8} daemon {host.daemon}" if host.daemon else host.name)
        for interface, addresses in host.addresses.items():
            click.echo(f"  {interface:9} {', '.join(addresses)}")


@command.command()
@click.argument("host")
@click.argument("action", type=click.Choice(["start", "stop", "kill"]))
@click.pass_obj
def daemon(directory: Path, host: str, action: str) -> None:
    """Start, stop or kill the daemon of one host."""
    from anubis.lab.lab import Lab

    demand_root()
    handle = Lab(directory).daemon(host)
    {"start": handle.start, "stop": handle.stop, "kill": handle.kill}[action]()


@command.command()
@click.pass_obj
def down(directory: Path) -> None:
    """Remove the lab and everything in it, however broken it is."""
    from anubis.lab.lab import Lab

    click.echo("the lab is down" if Lab(directory).down() else "there was no lab")
