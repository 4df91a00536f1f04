"""What `up`, `down` and `switch` have in common: ask the daemon, show it, say how it ended."""

from __future__ import annotations

from collections.abc import Callable

from anubis.cli.output import json_errors, say, say_json, warn
from anubis.cli.progress import Progress, summary
from anubis.events import Result, Step

__all__ = ["change"]


def change(
    name: str, ask: Callable[[Callable[[Step], None] | None], Result], *, as_json: bool
) -> None:
    """Ask for a change of the connection `name`; `ask` is given what wants to know the steps."""
    with json_errors(name, as_json=as_json):
        if as_json:
            result = ask(None)
            say_json(result.to_json())
        else:
            with Progress(name) as progress:
                result = ask(progress.step)
            say(summary(result))
    for warning in result.warnings:
        warn(warning)
