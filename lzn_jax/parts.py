"""Registry of the parts that configs name, each with its config fields.

The files `*/*parts.py` register the package's own parts. Users register theirs in extensions:
Python files or modules named by a config or a command, or entry points in the group
`lzn_jax.parts`. This module does not import JAX, so that invalid commands fail at once.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import itertools
import operator
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lzn_jax.errors import UserError

KINDS = ("type", "data", "encoder", "decoder", "solver", "alignment", "measurement", "study")
REQUIRED = object()  # default of a field that every config must set
_PACKAGE = Path(__file__).parent
_EXTENSION = "lzn_jax_extension_"  # prefix of the module names of extension files


@dataclasses.dataclass(frozen=True)
class Field:
    """One config field.

    The limits of a tuple field apply to each of its items, which have the type `item`. A value may
    also be one of the `words`, or None if None is the default or `optional` is set. A config
    without the field takes its default, as do runs older than the field.

    Attributes:
      from_data: whether the field describes the data, so that another data set has its own value.
        None is then replaced by the value found in the data when the config is completed.
      part: kind of the parts that are the choices.
    """

    kind: type
    help: str
    default: Any = REQUIRED
    _: dataclasses.KW_ONLY
    item: type = int
    choices: tuple[str | int, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    above: int | float | None = None
    below: int | float | None = None
    multiple_of: int | None = None
    nonempty: bool = False
    words: tuple[str, ...] = ()
    optional: bool = False
    from_data: bool = False
    part: str | None = None

    @property
    def takes_none(self) -> bool:
        """Whether the field accepts None."""
        return self.optional or self.default is None


# Common fields, called as (help, default, **attributes).
flag = functools.partial(Field, bool)
word = functools.partial(Field, str)
count = functools.partial(Field, int, minimum=1)
count_or_0 = functools.partial(Field, int, minimum=0)
counts = functools.partial(Field, tuple, minimum=1)
words = functools.partial(Field, tuple, item=str)
amount = functools.partial(Field, float, minimum=0)
positive = functools.partial(Field, float, above=0)
share = functools.partial(Field, float, minimum=0, maximum=1)
share_below_1 = functools.partial(Field, float, minimum=0, below=1)


def choice(help: str, *choices: str) -> Field:
    """A field with the given choices; the first is the default."""
    return Field(str, help, choices[0], choices=choices)


def group(prefix: str, fields: Mapping[str, Field]) -> dict[str, Field]:
    """Fields of a config group by dotted name."""
    return {f"{prefix}.{name}": field for name, field in fields.items()}


Check = Callable[[Mapping[str, Any]], None]
Fields = Mapping[str, Field] | Callable[[Mapping[str, Any]], Mapping[str, Field]]


@dataclasses.dataclass(frozen=True)
class Part:
    """A registered part.

    Attributes:
      value: the part, or "module:name", which is imported when a run needs it.
      fields: config fields of the part by dotted name, or a function from a config's values to
        them.
      check: raises UserError if the values of a config are incompatible.
      file: file that registered the part.
    """

    value: Any
    fields: Fields
    check: Check | None
    file: str


@dataclasses.dataclass(frozen=True)
class Extension:
    """An extension that has run: the path of its file or the name of its module, and its sha256."""

    path: str
    digest: str


_PARTS: dict[tuple[str, str], Part] = {}
_EXTENSIONS: dict[str, Extension] = {}  # that have run, by name


def add(
    kind: str,
    name: str,
    part: Any,
    fields: Fields | None = None,
    *,
    check: Check | None = None,
) -> None:
    """Registers a part under a name, with its config fields.

    `fields` maps dotted config names to `Field`, or is a function that returns such a mapping for
    the `types` and `alignments` of a config. `check` is called with all values of a config by
    dotted name. The part of a study maps fields to their defaults. Raises UserError if another file
    has registered the name.
    """
    if kind not in KINDS:
        raise UserError(f"the kind of a part must be one of {', '.join(KINDS)}, got {kind!r}")
    if not callable(fields):
        fields = _checked_fields(kind, name, fields or {})
    frame: Any = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith("jaxtyping."):  # its type checker
        frame = frame.f_back
    file = frame.f_code.co_filename
    taken = _PARTS.get((kind, name))
    if taken and taken.file != file:
        raise UserError(f"{kind} {name!r} is already registered by {taken.file}: rename yours")
    _PARTS[kind, name] = Part(part, fields, check, file)


def find(kind: str, name: str) -> Part:
    """The part registered under a name; raises UserError for an unknown name."""
    _load_installed()
    if (kind, name) not in _PARTS:
        raise UserError(f"there is no {kind} {name!r}; available: {', '.join(names(kind))}")
    return _PARTS[kind, name]


def get(kind: str, name: str) -> Any:
    """The value of a registered part, imported if it is given as "module:name"."""
    return _imported(find(kind, name).value)


def names(kind: str) -> tuple[str, ...]:
    """Names of all parts of a kind, in the order of registration."""
    _load_installed()
    return tuple(name for each, name in _PARTS if each == kind)


def fields(kind: str, name: str, values: Mapping[str, Any]) -> Mapping[str, Field]:
    """Config fields of a part; empty for an unknown part."""
    _load_installed()
    part = _PARTS.get((kind, name))
    if part is None:
        return {}
    if not callable(part.fields):
        return part.fields
    return _checked_fields(kind, name, part.fields(values))


def _checked_fields(kind: str, name: str, fields: Mapping[str, Any]) -> dict[str, Field]:
    for field_name, field in fields.items():
        if not isinstance(field, Field):
            raise UserError(f"the field {field_name} of {kind} {name!r} must be a parts.Field")
    return dict(fields)


def _imported(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_imported(each) for each in value)
    if not isinstance(value, str):
        return value
    module, _, attribute = value.partition(":")
    imported = importlib.import_module(module)
    return getattr(imported, attribute) if attribute else imported


@functools.cache
def _load_installed() -> None:
    """Registers the package's own parts, then those of installed packages."""
    for path in sorted(_PACKAGE.glob("*/*parts.py")):
        # Not imported by name: the __init__ of the folder would import JAX.
        _run_file(path, f"lzn_jax.{path.parent.name}.{path.stem}")
    for entry in importlib.metadata.entry_points(group="lzn_jax.parts"):
        try:
            entry.load()
        except Exception as error:
            raise failure(f"the entry point {entry.name} = {entry.value}", error) from error


def extend(extensions: Sequence[str], folder: Path = Path()) -> dict[str, str]:
    """Runs each extension once; returns the sha256 of each by name.

    An extension is a Python file, relative to `folder`, or the name of an importable module. Raises
    UserError if it does not exist or fails.
    """
    _load_installed()  # so that extensions cannot take the names of the package's own parts
    digests: dict[str, str] = {}
    for extension in extensions:
        is_file, path = extension.endswith(".py"), Path(extension)
        try:
            path = _extension_path(extension, folder)
            name, digest = path.name if is_file else extension, checksum(path)
            if digests.setdefault(name, digest) != digest:
                raise UserError(f"two extensions are called {name}: rename {path}")
            if name not in _EXTENSIONS or _EXTENSIONS[name].digest != digest:
                if name in _EXTENSIONS:
                    _forget(_files(path))
                if is_file:
                    _run_file(path, f"{_EXTENSION}{path.stem}_{digest[:8]}")
                else:
                    importlib.import_module(extension)
        except UserError:
            raise
        except Exception as error:
            raise failure(f"the extension {extension}", error, str(path)) from error
        _EXTENSIONS[name] = Extension(str(path.absolute()) if is_file else name, digest)
    return digests


def _extension_path(name: str, folder: Path) -> Path:
    if name.endswith(".py"):
        path = folder / Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"there is no extension {path}")
        return path
    try:
        spec = importlib.util.find_spec(name)  # imports the parent packages
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UserError(f"there is no extension {name}: name a file FILE.py or a module")
    return Path(spec.origin)


def found_extension(name: str, digest: str) -> str | None:
    """The sha256 of the loaded extension of a name, the given one if several have the name.

    An extension is loaded if it has run, or if it was imported and has registered a part. Returns
    None if it is not.
    """
    if name in _EXTENSIONS:
        return _EXTENSIONS[name].digest
    files = {Path(part.file) for part in _PARTS.values()}
    own = {file for file in files if file.is_file() and not file.is_relative_to(_PACKAGE)}
    found = {file for file in own if file.name == name}
    if module := getattr(sys.modules.get(name), "__file__", None):
        found |= {Path(module)} if own.intersection(_files(Path(module))) else set()
    digests = {checksum(file) for file in found}
    return digest if digest in digests else next(iter(digests), None)


def extension_flags(names: Sequence[str]) -> list[str]:
    """The command-line flag that names these extensions, if any of them has run."""
    paths = [_EXTENSIONS[name].path for name in names if name in _EXTENSIONS]
    return [f"--extensions={','.join(paths)}"] if paths else []


def extension_modules() -> list[ModuleType]:
    """Modules of extension files; other processes cannot import them by name."""
    return [module for name, module in sys.modules.items() if name.startswith(_EXTENSION)]


def checksum(path: Path) -> str:
    """The sha256 of an extension: of its file, or of names and contents of several files.

    These are the modules in its folder or below that the file imports, or, if it is an
    `__init__.py`, all Python files of the package.
    """
    files = sorted(_files(path))
    if len(files) == 1:
        return hashlib.sha256(files[0].read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path.absolute().parent).as_posix()
        for text in (name.encode(), file.read_bytes()):
            digest.update(len(text).to_bytes(8, "big") + text)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """The files of an extension, as in `checksum`."""
    files = [path.absolute()]
    folder = files[0].parent
    if path.name == "__init__.py":
        return list(folder.rglob("*.py"))
    if folder.name in ("site-packages", "dist-packages"):  # of other packages
        return files
    for file in files:  # which grow
        files += dict.fromkeys(each for each in _imported_from(folder, file) if each not in files)
    return files


def _imported_from(folder: Path, file: Path) -> Iterator[Path]:
    """Modules in a folder or below that a file imports, found by name: no module is imported."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # which Python reports when it runs the file
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        level, module = getattr(node, "level", 0), getattr(node, "module", None)
        names = [alias.name if module is None else f"{module}.{alias.name}" for alias in node.names]
        roots = file.parents[level - 1 : level] or [folder, *folder.parents]
        for root, name in itertools.product(roots, names):
            words = name.split(".")
            places = list(itertools.accumulate(words, operator.truediv, initial=root))
            for place in places if level else places[1:]:
                for each in (place.parent / f"{place.name}.py", place / "__init__.py"):
                    if words[0] != "lzn_jax" and each.is_relative_to(folder) and each.is_file():
                        yield each


def _forget(files: Sequence[Path]) -> None:
    """Lets modules of files that have changed be imported again."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file) in files:
            del sys.modules[name]


def _run_file(path: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up
    # No __pycache__ next to the file.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.dont_write_bytecode = before


def failure(what: str, error: Exception, file: str | None = None) -> UserError:
    """A one-line error with the last line of `file` in the traceback, or the line that raised."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((str(error.filename), error.lineno))
    ((path, line),) = [place for place in places if place[0] == file][-1:] or places[-1:]
    text = f"{what} failed at {path}, line {line}: {type(error).__name__}: {error}"
    return UserError(" ".join(text.split()))


def require(holds: bool, message: str) -> None:
    """Raises UserError with the message if the condition is false."""
    if not holds:
        raise UserError(message)
