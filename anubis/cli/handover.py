"""How a configuration for somebody else leaves a host, as text or QR code, and how it arrives.

Owns the options for that, the order (no change is made whose result could not be handed over), and
that a file is its owner's alone and never replaces another. Refuses to know what is handed over.
"""

# ruff: noqa: PLC0415  segno is imported where it is used

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anubis.cli.output import is_terminal, note, say, warn
from anubis.errors import BadRequest, LocalFailure

if TYPE_CHECKING:
    import segno

__all__ = ["Forms", "form_options", "forms_of", "handed_over", "received", "sent"]

_QUIET = 4  # modules around a code in a picture (ISO/IEC 18004 section 9.1)
_QUIET_TERMINAL = (2, 1)  # less is read too, and 80 columns are not many
_SCALE = 8  # pixels a module
_MAX_RECEIVED = 65536  # bytes
_BLACK_AND_WHITE = "\x1b[97;40m"  # as a code has to be, whatever colours the terminal has

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Forms:
    """In which forms something is wanted."""

    qr: bool
    text: Path | None
    png: Path | None
    svg: Path | None

    @property
    def are_files(self) -> bool:
        """Whether it goes into files, and need not be shown."""
        return not self.qr and any((self.text, self.png, self.svg))

    @property
    def have_code(self) -> bool:
        """Whether a QR code is among them."""
        return self.qr or self.png is not None or self.svg is not None


def forms_of(options: Mapping[str, Any]) -> Forms:
    """Return what the options of `form_options` say."""
    paths = (options[f"{form}_path"] for form in ("text", "png", "svg"))
    return Forms(options["qr"], *paths)


def form_options(command: Command) -> Command:
    """Give a command the options `qr`, `text_path`, `png_path` and `svg_path`."""
    path = click.Path(path_type=Path)
    for decorate in (
        click.option("--svg", "svg_path", type=path, metavar="FILE", help="The code as SVG."),
        click.option("--png", "png_path", type=path, metavar="FILE", help="The code as PNG."),
        click.option("--qr", is_flag=True, help="Show it as a QR code, too."),
        click.option(
            "--output", "text_path", type=path, metavar="FILE", help="Write it there, mode 600."
        ),
    ):
        command = decorate(command)
    return command


# A file that was sent by somebody; - is standard input.
sent = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


def received(path: Path) -> tuple[bytes, Path]:
    """Return what was sent, and how to name it in messages. Raises LocalFailure."""
    if str(path) == "-":
        return sys.stdin.buffer.read(_MAX_RECEIVED), Path("(standard input)")
    try:
        with path.open("rb") as file:
            return file.read(_MAX_RECEIVED), path
    except OSError as error:
        raise LocalFailure(f"{path} cannot be read: {error.strerror}") from None


@contextmanager
def handed_over(text: str, code_text: str, forms: Forms) -> Iterator[None]:
    """Write the files that are wanted, have the change made, and then show what is to be shown.

    If the change fails, the files are gone. Raises LocalFailure and NotPermitted if one cannot be
    written, BadRequest if a text is too long for a code.
    """
    from anubis.files.writing import create_private

    code = _code(code_text) if forms.have_code else None
    with ExitStack() as undo:
        for path, data in _files(text, code, forms):
            create_private(path, data)
            undo.callback(path.unlink, missing_ok=True)
        yield
        undo.pop_all()
    if not forms.are_files:
        say(text, end="")
    if forms.qr and code is not None:
        _show(code)
    for path in filter(None, (forms.text, forms.png, forms.svg)):
        note(f"wrote {path}")


def _code(text: str) -> segno.QRCode:
    import segno

    try:
        return segno.make_qr(text, error="l", boost_error=False)
    except segno.DataOverflowError:
        raise BadRequest("this is too long for a QR code", "use --output FILE") from None


def _files(text: str, code: segno.QRCode | None, forms: Forms) -> Iterator[tuple[Path, bytes]]:
    if forms.text is not None:
        yield forms.text, text.encode()
    for kind, path in (("png", forms.png), ("svg", forms.svg)):
        if path is not None and code is not None:
            picture = io.BytesIO()
            code.save(picture, kind=kind, scale=_SCALE, border=_QUIET)
            yield path, picture.getvalue()


def _show(code: segno.QRCode) -> None:
    columns = shutil.get_terminal_size().columns
    widths = {border: code.symbol_size(border=border)[0] for border in _QUIET_TERMINAL}
    border = next((border for border, width in widths.items() if width <= columns), 1)
    drawn = io.StringIO()
    code.terminal(out=drawn, border=border, compact=True)
    lines = drawn.getvalue().splitlines()
    if is_terminal(sys.stdout):
        lines = [f"{_BLACK_AND_WHITE}{line}\x1b[0m" for line in lines]
        if columns < widths[border]:
            warn(f"the code needs {widths[border]} columns, and this terminal has {columns}")
    say("\n".join(["", *lines]))
