"""Extensions: files and modules that register a user's parts, and their checksums."""

import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from lzn_jax import parts
from lzn_jax.errors import UserError

_PACKAGE = Path(__file__).parent
_EXTENSION = "lzn_jax_extension_"  # prefix of the module names of extension files


# Extensions that have run, by name, as path of the file or name of the module, and sha256.
_EXTENSIONS: dict[str, tuple[str, str]] = {}


def extend(extensions: Sequence[str], folder: Path = Path()) -> dict[str, str]:
    """Runs each extension once. Returns the sha256 of each by name.

    An extension is a Python file, relative to `folder`, or the name of an importable module. Raises
    UserError if it does not exist or fails.
    """
    parts.load_installed()  # so that extensions cannot take the names of the package's own parts
    digests: dict[str, str] = {}
    for extension in extensions:
        is_file, path = extension.endswith(".py"), _extension_path(extension, folder)
        with parts.mistakes(f"the extension {extension}", str(path)):
            name, digest = path.name if is_file else extension, checksum(path)
            if digests.setdefault(name, digest) != digest:
                raise UserError(f"two extensions are called {name}: rename {path}")
            if name not in _EXTENSIONS or _EXTENSIONS[name][1] != digest:
                if name in _EXTENSIONS:
                    _forget(_files(path))
                if is_file:
                    _run(path, f"{_EXTENSION}{path.stem}_{digest[:8]}")
                else:
                    importlib.import_module(extension)
        _EXTENSIONS[name] = str(path.absolute()) if is_file else name, digest
    return digests


def _run(path: Path, name: str) -> None:
    """Runs a file as a module of this name. Unlike an import, leaves no bytecode beside it."""
    module = sys.modules[name] = ModuleType(name)  # dataclasses and pickle look it up
    module.__file__ = str(path.absolute())
    exec(compile(path.read_bytes(), module.__file__, "exec"), vars(module))


def _extension_path(name: str, folder: Path) -> Path:
    if name.endswith(".py"):
        path = folder / Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"there is no extension {path}")
        return path
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)  # imports the parent packages
        if spec and spec.origin and Path(spec.origin).is_file():
            return Path(spec.origin)
    raise UserError(f"there is no extension {name}: name a file FILE.py or a module")


def found_extension(name: str, digest: str) -> str | None:
    """The sha256 of the loaded extension of a name. `digest` decides among several.

    An extension is loaded if it has run, or if it was imported and has registered a part. Returns
    None if it is not loaded.
    """
    if name in _EXTENSIONS:
        return _EXTENSIONS[name][1]
    files = {Path(part.file) for part in parts.PARTS.values()}
    own = {file for file in files if file.is_file() and not file.is_relative_to(_PACKAGE)}
    found = {file for file in own if file.name == name}
    if module := getattr(sys.modules.get(name), "__file__", None):
        found |= {Path(module)} if own.intersection(_files(Path(module))) else set()
    digests = {checksum(file) for file in found}
    return digest if digest in digests else next(iter(digests), None)


def extension_flags(names: Sequence[str]) -> list[str]:
    """The command-line flag that names these extensions, if any of them has run."""
    paths = [_EXTENSIONS[name][0] for name in names if name in _EXTENSIONS]
    return [f"--extensions={','.join(paths)}"] if paths else []


def extension_modules() -> list[ModuleType]:
    """Modules of extension files, which other processes cannot import by name."""
    return [module for name, module in sys.modules.items() if name.startswith(_EXTENSION)]


def checksum(path: Path) -> str:
    """The sha256 of an extension's file, or of names and contents of its several files."""
    files = _files(path)
    if len(files) == 1:
        return hashlib.sha256(files[0].read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path.absolute().parent).as_posix()
        for text in (name.encode(), file.read_bytes()):
            digest.update(len(text).to_bytes(8, "big") + text)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """An extension's file and the Python files beside and below it, except configs."""
    file = path.absolute()
    if file.parent.name in ("site-packages", "dist-packages"):  # of other packages
        return [file]
    # Configs may change during a run, since their fields are compared one by one.
    others = {each for each in _modules(file.parent) if b"def get_config(" not in each.read_bytes()}
    return sorted({file, *others})


def _modules(folder: Path) -> Iterator[Path]:
    """Python files in a folder and in the packages below it, not in environments or runs."""
    yield from folder.glob("*.py")
    for each in folder.glob("*/__init__.py"):
        if each.parent != _PACKAGE:
            yield from _modules(each.parent)


def _forget(files: Sequence[Path]) -> None:
    """Forgets modules of changed files, so that they are imported again."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file) in files and name != "__main__":
            del sys.modules[name]
