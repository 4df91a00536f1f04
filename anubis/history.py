"""What happened to each connection, as much as is kept of it: a bounded ring for each. Sans-IO.

Owns the bounds, what goes first when one is reached, and which happenings are one that is counted.
Refuses to know where happenings come from, who reads them, and where they are written.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from anubis.happening import Happening

__all__ = ["Bounds", "History"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: of one connection (or of the host as a whole), and of all together."""

    entries_of_one: int = 64
    bytes_of_one: int = 16_384  # as JSON
    entries: int = 10_000
    bytes: int = 2_097_152
    fair: int = 8  # entries that one connection may have however many there are


@dataclass(slots=True)
class _Ring:
    """What is kept of one connection, in the order in which it happened last, with its sizes."""

    entries: list[Happening] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, entry: Happening) -> None:
        self.entries.append(entry)
        self.sizes.append(len(json.dumps(entry.to_json())))

    def pop(self, index: int) -> None:
        del self.entries[index], self.sizes[index]

    def commonest(self) -> int:
        """Return where the oldest entry is of those of which there are most.

        So a far end that is refused again and again, or renews for months, does not push out when
        its connection came up.
        """
        (word, _), *_ = Counter(entry.event for entry in self.entries).most_common(1)
        return next(i for i, entry in enumerate(self.entries) if entry.event == word)


class History:
    """The rings. A connection that was quiet longest loses its oldest entries first.

    Where there are many, one that is busy keeps no more than its share of the room.
    What happened to the host as a whole stands under None, and only its own bound shortens it.
    The events that are `counted` become one entry if the same happens again, until one happens that
    is not.
    """

    def __init__(self, counted: Collection[str] = (), bounds: Bounds | None = None) -> None:
        self._counted = frozenset(counted)
        self._bounds = bounds or Bounds()
        self._rings: OrderedDict[str | None, _Ring] = OrderedDict()  # quiet longest first
        self._entries = self._bytes = 0

    def __len__(self) -> int:
        return self._entries

    @property
    def bytes(self) -> int:
        """The size of all entries, as JSON."""
        return self._bytes

    def note(self, happening: Happening) -> Happening:
        """Keep what happened, and return the entry that stands for it now."""
        ring = self._rings.setdefault(happening.connection, _Ring())
        self._rings.move_to_end(happening.connection)
        index = self._same(ring.entries, happening)
        if index is not None:
            old = ring.entries[index]
            count = old.count + happening.count
            happening = replace(happening, count=count, first_at=old.first_at)
            self._drop(ring, index)
        self._add(ring, happening)
        self._shorten(happening.connection, ring)
        return happening

    def take_up(self, happenings: Iterable[Happening]) -> None:
        """Keep what an earlier run wrote, in its order; a later state of an entry counts."""
        states: dict[object, Happening] = {}
        for one in happenings:
            key = (one.connection, one.event, one.first_at, str(one.detail))
            states.pop(key, None)
            states[key] = one
        for one in states.values():
            self.note(one)

    def of(self, connection: str | None) -> list[Happening]:
        """Return what happened to a connection, or to the host, the older first."""
        ring = self._rings.get(connection)
        return list(ring.entries) if ring else []

    def __iter__(self) -> Iterator[Happening]:
        """Return everything, ring by ring."""
        return iter([entry for ring in self._rings.values() for entry in ring.entries])

    def _same(self, entries: list[Happening], happening: Happening) -> int | None:
        """Return where the same stands, if it is counted and nothing else came in between."""
        for index in range(len(entries) - 1, -1, -1):
            entry = entries[index]
            if not {entry.event, happening.event} <= self._counted:
                return None
            if (entry.event, entry.detail) == (happening.event, happening.detail):
                return index
        return None

    def _add(self, ring: _Ring, entry: Happening) -> None:
        ring.add(entry)
        self._entries += 1
        self._bytes += ring.sizes[-1]

    def _drop(self, ring: _Ring, index: int) -> None:
        self._entries -= 1
        self._bytes -= ring.sizes[index]
        ring.pop(index)

    def _shorten(self, newest: str | None, ring: _Ring) -> None:
        bounds = self._bounds
        share = max(bounds.fair, bounds.entries // len(self._rings))
        most = bounds.entries_of_one if newest is None else min(bounds.entries_of_one, share)
        while len(ring.entries) > most or sum(ring.sizes) > bounds.bytes_of_one:
            self._drop(ring, ring.commonest())
        if not ring.entries:
            del self._rings[newest]  # it alone was too large
        while self._entries > bounds.entries or self._bytes > bounds.bytes:
            quiet = next((name for name in self._rings if name is not None), newest)
            self._drop(self._rings[quiet], 0)
            if not self._rings[quiet].entries:
                del self._rings[quiet]
