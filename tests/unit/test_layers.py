"""The floor plan in docs/architecture.md is true: imports go down, and nowhere in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \|", re.MULTILINE)


def layers(document: str) -> dict[str, int]:
    """Return the layer of each room that the document names."""
    return {
        room: int(number)
        for number, rooms in ROW.findall(document)
        for room in re.findall(r"`(anubis\.\w+)`", rooms)
    }


def modules() -> dict[str, Path]:
    """Return every module of the package but the package itself, which is empty."""
    found = {}
    for path in (ROOT / "anubis").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found.pop("anubis")
    return found


def room(module: str) -> str:
    """Return the room of a module: the first part below the package."""
    return ".".join(module.split(".")[:2])


def imports(path: Path, known: dict[str, Path], *, lazy: bool) -> Iterator[str]:
    """Yield the modules of the package that a file imports; `lazy`: inside functions, too."""
    tree = ast.parse(path.read_text())
    nodes: Iterator[ast.AST] = ast.walk(tree) if lazy else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name.startswith("anubis."))


PLAN = layers((ROOT / "docs/architecture.md").read_text())
MODULES = modules()


def test_the_plan_names_every_room_and_no_other() -> None:
    """A room that is built must be drawn, and one that is torn down erased."""
    assert set(PLAN) == {room(module) for module in MODULES}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module: str) -> None:
    """No module imports from a higher layer or from a neighbour, at its top or in a function."""
    here = room(module)
    wrong = [
        other
        for other in imports(MODULES[module], MODULES, lazy=True)
        if room(other) != here and PLAN[room(other)] >= PLAN[here]
    ]
    assert wrong == []


def test_nothing_imports_in_a_circle() -> None:
    """Within a room, too, there is an order in which its modules can be read."""
    graph = {
        module: set(imports(path, MODULES, lazy=False)) - {module}
        for module, path in MODULES.items()
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_wireguard_could_be_lifted_out() -> None:
    """The WireGuard room knows nothing of Anubis."""
    strangers = {
        other
        for module, path in MODULES.items()
        if room(module) == "anubis.wireguard"
        for other in imports(path, MODULES, lazy=True)
        if room(other) != "anubis.wireguard"
    }
    assert strangers == set()


def test_the_rule_is_enforced() -> None:
    """The table is read at all, and an upward import would be found in it."""
    assert PLAN["anubis.errors"] < PLAN["anubis.gatekeeper"] < PLAN["anubis.daemon"]
    found = set(imports(ROOT / "anubis/daemon/assembly.py", MODULES, lazy=True))
    assert "anubis.gatekeeper" in found
