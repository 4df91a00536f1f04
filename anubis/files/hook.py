"""A command that the administrator wants run when a connection comes or goes: text becomes words.

Owns how the words are told apart, and which program is trusted: one that only root or the user who
would run it can have put there. Refuses to know when it is run, and with what it is told (`hooks`
of the daemon).
"""

from __future__ import annotations

import shlex
from pathlib import Path

from anubis.errors import ConfigError
from anubis.files.ini import BadValue
from anubis.files.keyfile import check_program

__all__ = ["command"]


def command(text: str) -> tuple[str, ...]:
    """Parse a command: blanks divide words, quotes and backslashes keep them together.

    No shell reads it, so that no other character means anything. The program is there, trusted, and
    ours to run. Raises BadValue.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise BadValue(str(error).lower(), "quote as in a shell: 'two words'") from None
    if not words:
        raise BadValue("no command", "a program with its path, like /etc/anubis/up.sh")
    program = Path(words[0])
    if not program.is_absolute():
        raise BadValue("no absolute path", "no shell looks for the program: /usr/bin/...")
    try:
        check_program(program)
    except ConfigError as error:
        (problem,) = error.problems
        raise BadValue(f"{problem.location}: {problem.message}", problem.hint) from None
    return words
