"""Where in the list of policy rules ours stand: before strangers' that take everything. Pure.

The kernel gives a rule without a priority the place before all others, and the rules of a default
route by wg-quick are such rules: they would take what is routed to a connection, and the control
plane with it. So the rules that lead to networks of ours come in blocks of a hundred priorities,
and go to the first block that is before every such rule. The rules of a default route of ours stay:
of two default routes the later one shall win.

Owns which block that is, and which priority a rule has in it. Refuses to know how rules are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from anubis.network.state import RULE_PRIORITIES, Rule

__all__ = ["LEADING", "actual", "block_before", "in_place", "is_ours", "split"]

LEADING = range(RULE_PRIORITIES.start, RULE_PRIORITIES.start + 40)  # rules that may go ahead
_BLOCK = 100  # priorities


def block_before(strangers: Iterable[int]) -> int:
    """Return by how many blocks to go ahead of strangers' rules with these priorities.

    0 if nobody is in the way, or if there is no room before them.
    """
    first = min(strangers, default=LEADING.stop)
    block = max(0, -((first - LEADING.stop) // _BLOCK))
    return block if LEADING.start - block * _BLOCK > 0 else 0


def actual(priority: int, block: int) -> int:
    """Return the priority in the kernel of a rule of ours, by the one that `plan` gives it."""
    return priority - block * _BLOCK if priority in LEADING else priority


def in_place(rule: Rule) -> Rule:
    """Return the rule that one astray was, where it should be."""
    return replace(rule, priority=split(rule.priority)[0], astray=False)


def is_ours(priority: int) -> bool:
    """Tell whether a rule of ours may stand at this priority: in our range, or ahead of it."""
    return priority in RULE_PRIORITIES or (
        0 < priority < LEADING.start and priority % _BLOCK < len(LEADING)
    )


def split(priority: int) -> tuple[int, int]:
    """Return the priority that `plan` gives a rule of ours, and in which block it stands."""
    if priority in RULE_PRIORITIES:
        return priority, 0
    offset = priority % _BLOCK
    return LEADING.start + offset, (LEADING.start + offset - priority) // _BLOCK
