"""The group of all commands: finds the one that is called, and explains what goes wrong.

Owns the list of commands, the exit statuses and the form of usage errors. Refuses to import a
command that is not called, also for `--help`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

from anubis import __version__
from anubis.cli.output import error_object, explain, prepare, say_json
from anubis.errors import AnubisError, BadRequest, nearest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["COMMANDS", "anubis_group", "run"]

# What each does, here so that --help need not import them all.
COMMANDS = {
    "up": "Bring a connection up.",
    "down": "Take a connection down.",
    "switch": "Bring a connection up in place of those that share its routes.",
    "plan": "Tell what `up` would do, without doing it.",
    "why": "Tell why a connection does not work, and what mends it.",
    "status": "Show the connections.",
    "approve": "Let a connection come up that waits for approval.",
    "log": "Tell what happened to a connection.",
    "events": "Tell what happens, as it happens.",
    "metrics": "Print what the daemon counts, for Prometheus.",
    "request": "Ask a gateway through WireGuard alone, with no daemon.",
    "peer": "List, add and change authorized peers, phones too.",
    "invite": "Invite a laptop, which makes its own keys.",
    "join": "Set this host up by an invitation.",
    "check": "Check the configuration without the daemon.",
    "reload": "Have the daemon read the authorized peers anew.",
    "keygen": "Make the key pairs of this host.",
    "init": "Write a working configuration to start from.",
    "daemon": "Run the daemon in the foreground.",
    "lab": "Play with several hosts on this machine.",
}

_BROKEN_PIPE = 141  # as a shell tells of SIGPIPE


class _LazyGroup(click.Group):
    """Commands by name, each in its own module; the signatures are click's."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"anubis.cli.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"anubis.cli.{cmd_name}.command is no click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        unknown = args[0] not in COMMANDS and not args[0].startswith("-")
        if unknown and not ctx.resilient_parsing:
            raise _NoSuchCommand(args[0], ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415 (nothing else needs it)

        commands = [
            CompletionItem(name, help=text)
            for name, text in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


class _NoSuchCommand(click.UsageError):
    def __init__(self, name: str, ctx: click.Context) -> None:
        super().__init__(f"no such command: {name!r}", ctx)
        self.hint = nearest(name, COMMANDS)


@click.command(cls=_LazyGroup, no_args_is_help=False)
@click.version_option(__version__, prog_name="anubis", message="%(prog)s %(version)s")
def anubis_group() -> None:
    """Bring WireGuard tunnels up when they are needed, and down again."""


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit status. Errors are explained on standard error."""
    prepare()
    try:
        with anubis_group.make_context("anubis", arguments) as context:
            anubis_group.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        return _explain_usage(error, arguments)
    except click.Abort:
        raise KeyboardInterrupt from None
    except AnubisError as error:
        explain(error)
        return error.exit_status
    except BrokenPipeError:
        return _BROKEN_PIPE
    return 0


def _explain_usage(error: click.UsageError, arguments: list[str]) -> int:
    """Explain in our own form what click found wrong with a command line."""
    hint = error.hint if isinstance(error, _NoSuchCommand) else None
    message = error.format_message()
    if isinstance(error, click.NoSuchOption):
        message = f"no such option: {error.option_name}"
        hint = nearest(error.option_name, error.possibilities or ())
    if hint is None and error.ctx is not None:
        hint = f"{error.ctx.command_path} --help tells how"
    wrong = BadRequest(message[:1].lower() + message[1:].rstrip("."), hint)
    explain(wrong)
    if error.ctx is not None and _wants_json(error.ctx.command, arguments):
        say_json(error_object(wrong))
    return wrong.exit_status


def _wants_json(command: click.Command, arguments: list[str]) -> bool:
    return "--json" in arguments and any("--json" in each.opts for each in command.params)
