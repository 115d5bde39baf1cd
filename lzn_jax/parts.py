"""Registry of the parts that configs name, by kind: the package's own and extensions' parts."""

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lzn_jax.errors import UserError

KINDS = (
    *("type", "data", "encoder", "decoder", "solver", "alignment", "loss"),
    *("optimizer", "schedule", "measurement", "figure", "study"),
)
_PACKAGE = str(Path(__file__).parent / "_")[:-1]
_IN_WORKER = "<dynamic-code>"  # file of code that cloudpickle brings to workers: of a `transform`
REQUIRED = object()  # default of a field that every config must set
ABSENT = object()  # default of a field that a config need not contain
# Modules that register parts.
_REGISTERING = (
    *("data.digits", "data.fashion", "data.cifar10"),
    *("data.tfds", "data.folder", "data.huggingface", "data.arrays"),
    *("models.ncsnpp", "models.mlp", "models.resnet"),
    *("decoders.flow", "decoders.mean_flow", "decoders.one_pass"),
    *("data_types.image", "data_types.label", "data_types.text"),
    *("alignments", "optimizers", "studies"),
)


@dataclasses.dataclass(frozen=True)
class Field:
    """A config field.

    The limits of a tuple field apply to each of its items, of the type `item`. A value may also be
    one of the `words`, or None if None is the default or `optional` is set. A config without the
    field uses its default, as do runs older than the field.

    Attributes:
      from_data: whether the field describes the data, so that each data set needs its own value.
        None is then replaced by the value found in the data when the config is completed.
      at_most: split, "train" or "test", whose number of examples limits a value that no config or
        command states for the data set.
      divides: field that must be a multiple of the value.
      part: kind of the parts that are the choices.
      is_loss_weight: whether a loss is multiplied by the value; one of these must not be 0.
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
    at_most: str | None = None
    divides: str | None = None
    part: str | None = None
    is_loss_weight: bool = False

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
loss_weight = functools.partial(Field, float, minimum=0, is_loss_weight=True)
positive = functools.partial(Field, float, above=0)
share = functools.partial(Field, float, minimum=0, maximum=1)
share_below_1 = functools.partial(Field, float, minimum=0, below=1)


def choice(help: str, *choices: str) -> Field:
    """A field with the given choices. The first one is the default."""
    return Field(str, help, choices[0], choices=choices)


def learning_rates(*networks: str) -> dict[str, Field]:
    """Fields of the learning rates of networks by dotted name."""
    rate = positive("learning rate of this network, None = training.learning_rate.default", None)
    return {f"training.learning_rate.{network}": rate for network in networks}


def knob(field: Field) -> Any:
    """A field of a dataclass, such as a flax module, that configs set."""
    default = {} if field.default is REQUIRED else {"default": field.default}
    return dataclasses.field(metadata={"config": field}, **default)


def knobs(part: Any, prefix: str) -> dict[str, Field]:
    """Config fields of a dataclass by dotted name."""
    own = {each.name: each.metadata.get("config") for each in dataclasses.fields(part)}
    return {f"{prefix}.{name}": field for name, field in own.items() if field is not None}


def group(prefix: str, fields: Mapping[str, Field]) -> dict[str, Field]:
    """Fields of a config group by dotted name."""
    return {f"{prefix}.{name}": field for name, field in fields.items()}


Check = Callable[[Mapping[str, Any]], None]
Fields = Mapping[str, Field] | Callable[[Mapping[str, Any]], Mapping[str, Field]]


@dataclasses.dataclass(frozen=True)
class Part:
    """A registered part."""

    value: Any  # or "module:name", imported when a run needs it
    fields: Fields  # by dotted name, or a function from a config's values to them
    check: Check | None  # raises UserError if the values of a config are incompatible
    file: str  # of the owner


_NO_FIELDS: Fields = MappingProxyType({})
PARTS: dict[tuple[str, str], Part] = {}


def add(
    kind: str,
    name: str,
    part: Any,
    fields: Fields = _NO_FIELDS,
    *,
    check: Check | None = None,
    owner: str | None = None,
) -> None:
    """Registers a part under a name, with its config fields.

    `fields` maps dotted config names to `Field`, or is a function that returns such a mapping for
    the `types` and `alignments` of a config. A name that starts with a dot is in the group of the
    field that names the part. `check` is called with all values of a config by dotted name. The
    part of a study maps fields to their defaults. `owner` is the name of the module that registers
    the part, by default the one that defines it. Raises UserError if another file has registered
    the name, and for a part without a loaded owner.
    """
    if kind not in KINDS:
        raise UserError(f"the kind of a part must be one of {', '.join(KINDS)}, got {kind!r}")
    owner = owner or _module(part)
    message = f"{kind} {name!r} is of no module that is loaded: pass owner=__name__ to parts.add"
    require(owner in sys.modules, message)
    file = getattr(sys.modules[owner], "__file__", None) or owner
    if (taken := PARTS.get((kind, name))) and taken.file != file:
        raise UserError(f"{kind} {name!r} is already registered by {taken.file}: rename yours")
    PARTS[kind, name] = Part(part, fields, check, file)


def _module(part: Any) -> str:
    """Name of the module that defines a part, the first one of a tuple; empty if it has none."""
    first = part[0] if isinstance(part, tuple) else part
    if isinstance(first, str):
        return first.partition(":")[0]
    return getattr(_defined(first), "__module__", getattr(first, "__name__", ""))


def _defined(part: Any) -> Any:
    """The function or class of a part, which may be decorated or partial."""
    return inspect.unwrap(getattr(part, "func", part))


def find(kind: str, name: str) -> Part:
    """The part registered under a name. Raises UserError for an unknown name."""
    load_installed()
    if (kind, name) not in PARTS:
        raise UserError(f"there is no {kind} {name!r}; available: {', '.join(names(kind))}")
    return PARTS[kind, name]


def get(kind: str, name: str) -> Any:
    """The value of a registered part, imported if it is given as "module:name"."""
    return _imported(find(kind, name).value)


def names(kind: str) -> tuple[str, ...]:
    """Names of all parts of a kind, in alphabetical order."""
    load_installed()
    return tuple(sorted(name for each, name in PARTS if each == kind))


def fields(kind: str, name: str, values: Mapping[str, Any]) -> Mapping[str, Field]:
    """Config fields of a part, or none for an unknown part."""
    load_installed()
    part = PARTS.get((kind, name))
    if part is None:
        return {}
    own = part.fields(values) if callable(part.fields) else part.fields
    if kind == "loss":
        return {f".{name}_weight": loss_weight(f"weight of the loss {name!r}", 1.0), **own}
    if kind == "type" and name not in ("image", "label"):  # generation_weight; no decoder
        weight = f"weight of the {name} decoder's loss, None = the type's own"
        return {f"training.{name}_weight": loss_weight(weight, None), **own}
    return own


def _imported(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_imported(each) for each in value)
    if not isinstance(value, str):
        return value
    module, _, attribute = value.partition(":")
    imported = importlib.import_module(module)
    return getattr(imported, attribute) if attribute else imported


@functools.cache
def load_installed() -> None:
    """Registers the package's own parts, then those of installed packages."""
    for name in _REGISTERING:
        importlib.import_module(f"lzn_jax.{name}")
    for entry in importlib.metadata.entry_points(group="lzn_jax.parts"):
        with mistakes(f"the entry point {entry.name} = {entry.value}", ""):
            entry.load()


@contextlib.contextmanager
def mistakes(what: str = "", file: str | None = None) -> Iterator[None]:
    """Context that turns an exception of a user's part into a one-line UserError.

    The error names the part and the deepest line of its file in the traceback. Without such a line,
    it names the part of the exception's message, or else `what`: KIND 'NAME', or anything in a
    file.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not (line := _line(error, what, file)):
            raise
        raise UserError(" ".join(line.split())) from error


def _line(error: Exception, what: str, file: str | None) -> str:
    """The line of `mistakes`, or an empty string if the package caused the exception."""
    known = _outside(what) | ({} if file is None else dict.fromkeys([what, file], (what, file, 0)))
    walked = [(f.f_code, line, f.f_locals) for f, line in traceback.walk_tb(error.__traceback__)]
    places: list[Any] = [(c.co_filename, n, c.co_qualname.partition(".")[0]) for c, n, _ in walked]
    places += [(error.filename, error.lineno, "")] if isinstance(error, SyntaxError) else []
    own = [place for place in places if place[0] in known and not place[0].startswith(_PACKAGE)]
    names: list[Any] = [*(place[::2] for place in reversed(own)), *(place[0] for place in own[-1:])]
    if not own:  # "NAME() takes 2 positional arguments", "'NAME' object has no attribute"
        names = [*re.findall(r"^(?:type object )?'?(\w+)[.(']", str(error)), what]
    who, *at = next((known[name] for name in names if name in known), ("", "", 0))
    place, line = own[-1][:2] if own else at if at[0] else places[-1][:2]
    place = at[0] if place == _IN_WORKER else place
    where = f"{place}, line {line}" if line else place
    text = f"{who} failed at {where}: {type(error).__name__}: {error}"
    for name, value in walked[-1][2].items() if isinstance(error, KeyError) else ():
        text += f"; {name} contains {', '.join(map(str, value))}" if type(value) is dict else ""
    return text if who else ""


def _outside(last: str) -> dict[Any, Any]:
    """Users' parts, file and line, by name, code and file. The `last` wins."""
    known: dict[Any, Any] = {}
    every = [(f"{kind} {name!r}", KINDS.index(kind), part) for (kind, name), part in PARTS.items()]
    for what, _, part in sorted(every, key=lambda each: (each[0] == last, -each[1])):
        if not part.file.startswith(_PACKAGE):
            file, line = part.file, 0
            value = _defined(part.value)
            with contextlib.suppress(Exception):  # of what no file defines as a function or class
                file, line = str(inspect.getsourcefile(value)), inspect.getsourcelines(value)[1]
            code = getattr(value, "__qualname__", str(value).rpartition(":")[2]).partition(".")[0]
            known |= dict.fromkeys([what, code, (file, code), file, part.file], (what, file, line))
            if getattr(value, "transform", None):
                known[_IN_WORKER] = what, file, line
    return known


def require(holds: bool, message: str) -> None:
    """Raises UserError with the message if the condition is false."""
    if not holds:
        raise UserError(message)
