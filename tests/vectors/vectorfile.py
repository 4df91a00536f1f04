"""The text form of a vector: blocks of `name: value` lines, parted by blank lines.

The format is told in `tests/vectors/README.md`.
"""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent

Block = dict[str, str]


def dump(blocks: list[Block]) -> str:
    """Return the text of a vector."""
    return "\n".join(
        "".join(f"{name}: {value}".rstrip() + "\n" for name, value in block.items())
        for block in blocks
    )


def parse(text: str) -> list[Block]:
    """Read the text of a vector."""
    blocks: list[Block] = []
    for paragraph in text.split("\n\n"):
        block: Block = {}
        for line in paragraph.splitlines():
            name, colon, value = line.partition(":")
            if not colon or name in block:
                raise ValueError(f"not a line of a vector: {line!r}")
            block[name] = value.strip()
        blocks.append(block)
    return blocks


def load_all() -> dict[str, list[Block]]:
    """Return all vectors by name."""
    return {path.stem: parse(path.read_text()) for path in sorted(DIRECTORY.glob("*.txt"))}
