"""Config files by path or by name; those of this package are found in any folder."""

import ast
import difflib
from pathlib import Path

from lzn_jax.errors import UserError

FOLDER = Path("configs")
# In an installed package they are the folder of `lzn_jax.configs`, in a checkout beside it.
_PACKAGE = Path(__file__).parents[1]
SHIPPED = next(f for f in (_PACKAGE / FOLDER, _PACKAGE.parent / FOLDER) if f.is_dir())


def find(path: str) -> Path:
    """The config file at `path`; NAME is configs/NAME.py, which the package has where you have not.

    Raises UserError where there is none, and names the nearest.
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
    """Path of the package's own config of a name, whatever the current folder holds."""
    return str(SHIPPED / f"{name}.py")


def overview() -> str:
    """A line a config of the package: its name, and the first line that it says of itself."""
    return "\n".join(f"  {path.stem:<22}{_headline(path)}" for path in sorted(SHIPPED.glob("*.py")))


def _headline(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


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
