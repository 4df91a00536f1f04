"""Searching for secrets in whatever a host shows: in every form in which somebody would write one.

Owns the forms and the search. Refuses to know how secrets come about and where one may stand.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Find", "evidence", "forms", "search"]

_SLICE = 12  # bytes of a secret; whoever shows so many shows too much


@dataclass(frozen=True, slots=True, order=True)
class Find:
    """A secret that shows itself: whose, in which form, where. The secret itself is left out."""

    secret: str
    form: str
    place: str


def forms(secret: bytes) -> dict[str, bytes]:
    """Return what to look for, by its name: each form of the secret's beginning and of its end."""
    found = {}
    for part, piece in (("begin", secret[:_SLICE]), ("end", secret[-_SLICE:])):
        found[f"raw {part}"] = piece
        found[f"hex {part}"] = piece.hex().encode()
        found[f"HEX {part}"] = piece.hex().upper().encode()
        found[f"repr {part}"] = repr(piece)[2:-1].encode()
        found[f"list {part}"] = ", ".join(map(str, piece)).encode()
    # The end of a base64 text depends on where the text begins, so it is cut from the whole.
    for name, encode in (("base64", base64.b64encode), ("urlsafe", base64.urlsafe_b64encode)):
        text = encode(secret).rstrip(b"=")
        found[f"{name} begin"] = text[: _SLICE * 4 // 3]
        found[f"{name} end"] = text[-_SLICE * 4 // 3 :]
    return found


def search(secrets: Mapping[str, bytes], places: Iterable[tuple[str, bytes]]) -> set[Find]:
    """Return where any of the secrets shows itself."""
    wanted = [
        (name, form, needle)
        for name, secret in secrets.items()
        for form, needle in forms(secret).items()
    ]
    return {
        Find(name, form, place)
        for place, text in places
        for name, form, needle in wanted
        if needle in text
    }


def evidence(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every regular file below a directory, links not followed."""
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with suppress(FileNotFoundError):  # a file that is replaced just now
                yield str(path), path.read_bytes()
