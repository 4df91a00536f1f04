"""Where a change of files can change what is read: in every directory on the way to them.

A name is looked up in one directory after the other, through symbolic links too, and each of these
look-ups may be answered differently tomorrow: an editor renames a new file into place, a tool puts
another directory there, or points a link elsewhere. Owns that way, as far as it leads today.
Refuses to know how a change is heard of, and what the files say.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["MAX_DIRECTORIES", "Interest", "is_part", "parts_directory", "whereabouts"]

MAX_DIRECTORIES = 256  # that links from the directory of parts may lead to
_MAX_LINKS = 40  # in one way, as the kernel's MAXSYMLINKS


@dataclass(slots=True)
class Interest:
    """What in one directory matters: these names, and every part if it is the directory of parts.

    `contents`: what is written into them matters, too, not only whether they come and go.
    """

    names: set[str] = field(default_factory=set)
    contents: bool = False
    parts: bool = False

    def concerns(self, name: str) -> bool:
        """Tell whether a change of this name may change what is read."""
        return name in self.names or (self.parts and is_part(name))


def parts_directory(path: Path) -> Path:
    """Return the directory with the further files of a file."""
    return path.with_name(path.name + ".d")


def is_part(name: str) -> bool:
    """Tell whether a file in that directory counts. Hidden files are editors' own."""
    return name.endswith(".conf") and not name.startswith(".")


def whereabouts(path: Path) -> dict[Path, Interest]:
    """Return the directories to watch for `path` and `path.d/*.conf`, with what matters in each.

    None of them is a link. Some may not be there: those before them tell when they come.
    """
    found: defaultdict[Path, Interest] = defaultdict(Interest)
    _add_file(path, found)
    directory = parts_directory(path)
    for here, name in _way(directory):
        found[here].names.add(name)
    try:
        real = directory.resolve(strict=True)
        links = sorted(e.name for e in os.scandir(real) if is_part(e.name) and e.is_symlink())
    except (OSError, RuntimeError):  # there is none, or it may not be read
        return dict(found)
    found[real].parts = found[real].contents = True
    for name in links:
        if len(found) >= MAX_DIRECTORIES:
            break
        _add_file(real / name, found)
    return dict(found)


def _add_file(path: Path, found: defaultdict[Path, Interest]) -> None:
    last = None
    for last, name in _way(path):
        found[last].names.add(name)
    if last is not None:
        found[last].contents = True


def _way(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the look-ups that lead to a file: a real directory, and the name that is sought there.

    What is not there, or cannot be seen, is taken for no link.
    """
    # Path.absolute leaves "..", which in a link may lead elsewhere than its text says.
    ahead = list(reversed(path.absolute().parts[1:]))
    here = Path("/")
    links = 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            here = here.parent
            continue
        yield here, name
        try:
            target = (here / name).readlink()
        except OSError:  # no link, or not there, or out of our sight
            here /= name
            continue
        links += 1
        if links > _MAX_LINKS:
            return
        if target.is_absolute():
            here = Path("/")
        ahead += reversed(target.parts[1:] if target.is_absolute() else target.parts)
