"""The way of imports: once through the rooms and never back."""

import ast
import graphlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lzn_jax"
# Each room imports earlier ones only, itself or by modules of the root.
ROOMS = (
    *("zoning", "losses", "models", "data", "run", "plots"),
    *("data_types", "decoders", "evaluation", "release", "modes", "demo"),
)


def _imports(path):
    """Rooms of the package, or modules of its root, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lzn_jax":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def _graph():
    """What each room, or module of the root, imports."""
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        graph.setdefault(room, set()).update(set(_imports(path)) - {room})
    return graph


def _reached(graph, room):
    """All that a room imports, directly or not."""
    found, new = set(), {room}
    while new:
        found |= new
        new = set().union(*(graph.get(each, ()) for each in new)) - found
    return found - {room}


def test_no_room_imports_one_that_imports_it():
    graph = _graph()
    assert graph["zoning"] == graph["errors"] == set()
    assert graph["parts"] == {"errors"}
    assert graph["models"] == {"parts"}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_rooms_are_in_order():
    graph = _graph()
    assert set(ROOMS) == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    for place, room in enumerate(ROOMS):
        assert not _reached(graph, room) & set(ROOMS[place:]), room
