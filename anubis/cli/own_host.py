"""The options that say what others have to know of this host, instead of `[Host]` in the file."""

# ruff: noqa: PLC0415  the files are imported where they are used

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from anubis.files.own_host import Host

__all__ = ["given_host", "host_options", "parsed", "parsed_list"]

Command = TypeVar("Command", bound=Callable[..., Any])
Value = TypeVar("Value")


def host_options(command: Command) -> Command:
    """Give a command the options that `given_host` understands."""
    for decorate in (
        click.option(
            "--networks",
            multiple=True,
            metavar="NETWORK",
            help="What it reaches behind this host; may be given several times.",
        ),
        click.option(
            "--gateway-endpoint",
            metavar="HOST",
            help="Where it reaches this host: name or address.",
        ),
        click.option("--gateway-name", metavar="NAME", help="How it calls this host."),
    ):
        command = decorate(command)
    return command


def given_host(options: Mapping[str, Any]) -> Host:
    """Return what the options of `host_options` say. Raises BadParameter."""
    from anubis.files import fields
    from anubis.files.endpoints import own_endpoint
    from anubis.files.own_host import Host
    from anubis.files.own_host import dns as name_server

    name, endpoint = options["gateway_name"], options["gateway_endpoint"]
    return Host(
        name=None if name is None else parsed("--gateway-name", name, fields.name),
        endpoint=(
            None if endpoint is None else parsed("--gateway-endpoint", endpoint, own_endpoint)
        ),
        networks=tuple(parsed_list("--networks", options["networks"], fields.network)),
        dns=tuple(parsed_list("--dns", options.get("dns", ()), name_server)),
    )


def parsed(option: str, text: str, parse: Callable[[str], Value]) -> Value:
    """Return a value that is written as in the files. Raises BadParameter."""
    from anubis.files.ini import BadValue, shown

    try:
        return parse(text)
    except BadValue as error:
        hint = f"; {error.hint}" if error.hint else ""
        problem = f"{shown(text)} is {error.message}{hint}"
        raise click.BadParameter(problem, param_hint=option) from None


def parsed_list(option: str, texts: Sequence[str], parse: Callable[[str], Value]) -> list[Value]:
    """Return the values of a list, which takes commas and may be given several times."""
    return [parsed(option, item.strip(), parse) for text in texts for item in text.split(",")]
