"""Finds config files by path or by name; the package's own are found from any folder."""

import ast
import difflib
from pathlib import Path

from lzn_jax.errors import UserError

FOLDER = Path("configs")
# An installed package has them in lzn_jax/configs, a checkout in configs/ beside lzn_jax.
_PACKAGE = Path(__file__).parents[1]
SHIPPED = next(f for f in (_PACKAGE / FOLDER, _PACKAGE.parent / FOLDER) if f.is_dir())


def find(path: str) -> Path:
    """The config file at `path`, where NAME stands for configs/NAME.py.

    The package's own config of that name is used if the current folder has none. Raises UserError
    with the nearest name if there is no such file.
    """
    asked = Path(path)
    if asked.parent == Path() and not asked.suffix:
        asked = FOLDER / f"{path}.py"
    shipped = SHIPPED / asked.name
    found = shipped if asked.parent == FOLDER and not asked.is_file() else asked
    if found.suffix != ".py" or not found.is_file():
        raise UserError(_no_such_config(asked))
    return found


def shipped(name: str) -> str:
    """Path of the package's own config NAME, regardless of the current folder."""
    return str(SHIPPED / f"{name}.py")


def overview() -> str:
    """One line for each config of the package: its name and the first line of its docstring."""
    lines = []
    for path in sorted(SHIPPED.glob("*.py")):
        headline, *_ = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n")
        lines.append(f"  {path.stem:<22}{headline}")
    return "\n".join(lines)


def _no_such_config(path: Path) -> str:
    message = f"there is no config file {path}"
    folder = path if path.is_dir() else path.parent
    known = {other.name for other in folder.glob("*.py")}
    if folder == FOLDER:
        known |= {other.name for other in SHIPPED.glob("*.py")}
    elif not folder.is_dir():
        return f"{message}: {folder} is not a directory"
    nearest = difflib.get_close_matches(f"{path.stem}.py", sorted(known), n=1, cutoff=0)
    if not nearest:
        return f"{message}, nor any other in {folder}"
    return f"{message}; the nearest is {folder / nearest[0]}"
