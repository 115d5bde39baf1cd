"""The way of imports: once through the rooms and never back."""

import ast
import graphlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lzn_jax"


def _imports(path):
    """Rooms of the package, or modules of its root, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lzn_jax":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def test_no_room_imports_one_that_imports_it():
    rooms = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        rooms.setdefault(room, set()).update(set(_imports(path)) - {room})
    assert {"zoning", "models", "run", "train"} <= rooms.keys()
    assert rooms["zoning"] == rooms["errors"] == set()
    assert rooms["parts"] == {"errors"}
    assert rooms["models"] == {"parts"}
    graphlib.TopologicalSorter(rooms).prepare()  # raises CycleError and names the circle
