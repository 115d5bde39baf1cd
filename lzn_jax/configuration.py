"""Experiment configs: reading files, runs and overrides, completing and display."""

import ast
import difflib
import logging
import math
import runpy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_collections

from lzn_jax import parts, schema
from lzn_jax.errors import UserError
from lzn_jax.extensions import extend, found_extension
from lzn_jax.files import parse_json
from lzn_jax.models import side_multiple
from lzn_jax.parts import Field
from lzn_jax.schema import schema_of

# Groups of the package's fields.
_GROUPS = (
    *("data", "latent", "alignment", "augmentation", "encoder", "decoder", "training"),
    *("training.learning_rate", "text", "text_encoder", "text_decoder"),
    *("simclr", "infonce", "dcl", "siglip", "checkpoint", "evaluation", "sampling", "reporting"),
)
# Files in the work folder of a run.
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
_log = logging.getLogger(__name__)


def load(
    config: str | Path | ml_collections.ConfigDict,
    overrides: Sequence[str] = (),
    extensions: Sequence[str] = (),
) -> ml_collections.ConfigDict:
    """The checked, immutable config of a name, file or object, with `FIELD=VALUE` overrides.

    The facts of the data set, if it has a function of this name, complete it. `extensions` run in
    addition to those that the config names. Raises UserError for a file without a config, a failing
    extension and an invalid field or value.
    """
    digests = extend(extensions)
    if isinstance(config, ml_collections.ConfigDict):
        tree, folder = config.to_dict(), Path()
    else:
        file = find(str(config))
        tree, folder = _read(file), file.parent
    named = schema.checked("extensions", tree.get("extensions", ()), schema.EVERY_RUN["extensions"])
    digests |= extend(named, folder)
    values = schema.validated({**flatten(tree), **_as_fields(digests)})
    return _checked(_completed(*_changed(values, overrides)))


def load_run(
    workdir: Path, overrides: Sequence[str] = (), extensions: Sequence[str] = ()
) -> ml_collections.ConfigDict:
    """The checked, immutable config of the run in a folder, with `FIELD=VALUE` overrides applied.

    The tokenizer is the copy in the folder. Nothing in the folder is executed. `extensions` are
    files or modules that register further parts of the run. If they have changed, fields that they
    no longer register are dropped. Raises UserError for a folder without a run, a missing extension
    and an invalid field or value.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise UserError(
            f"{workdir} is no run: name the folder that holds {CONFIG_FILE}, or a config"
        )
    extend(extensions)
    stored = stored_values(path)
    values = {**stored, **_as_fields(_found_extensions(path, stored))}
    if list(values["extension_checksums"]) != list(stored.get("extension_checksums", ())):
        # A changed extension may lack fields of the run.
        values = {name: values[name] for name in schema_of(values) if name in values}
    try:
        values = schema.validated(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if values.get("data.tokenizer_path") is not None:
        values["data.tokenizer_path"] = str(workdir / TOKENIZER_FILE)
    return _checked(_changed(values, overrides)[0])


def stored_values(path: Path) -> dict[str, Any]:
    """The values of a run's config.json by dotted name.

    Raises UserError for a file that is not a config.
    """
    try:
        tree = parse_json(path.read_text())
        if not isinstance(tree, dict):
            raise ValueError("not a JSON object")
        values = flatten(tree)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not the config of a run: {reason}") from error
    fields = {name: schema.EVERY_RUN[name] for name in _as_fields({})}
    names, digests = (schema.checked(n, values.get(n, ()), field) for n, field in fields.items())
    if len(names) != len(digests):
        raise UserError(f"{path} must have a checksum for each of its extensions")
    return values


def _found_extensions(path: Path, values: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of each extension of a run. Warns of extensions that changed since the run.

    Raises UserError for an extension that is not loaded.
    """
    found = {}
    for name, digest in zip(*(values.get(n, ()) for n in _as_fields({})), strict=True):
        loaded = found_extension(name, digest)
        if loaded is None:
            raise UserError(
                f"{path} needs the extension {name} (sha256 {digest[:12]}): pass "
                f"--extensions={name}, or extensions=({name!r},) to lzn_jax.load"
            )
        if loaded != digest:
            _log.warning("the extension %s has changed since the run of %s", name, path.parent)
        found[name] = loaded
    return found


def _as_fields(found: Mapping[str, str]) -> dict[str, Any]:
    return {"extensions": tuple(found), "extension_checksums": tuple(found.values())}


def blank(values: Mapping[str, Any] = MappingProxyType({})) -> ml_collections.ConfigDict:
    """A config with all groups and the values by dotted name, for a config file to fill in.

    Unset fields get their defaults. Groups that stay empty are dropped.
    """
    return ml_collections.ConfigDict(nest({group: {} for group in _GROUPS} | dict(values)))


def sibling(
    file: str, name: str, changes: Mapping[str, Any] = MappingProxyType({})
) -> ml_collections.ConfigDict:
    """The config `name`, unchecked and mutable, from the folder of the config file `file`.

    Falls back to the package's own config of that name. A config that only lists its changes to
    another config starts with `config = sibling(__file__, "digits_gen")`. `changes` are values by
    dotted name, such as other `types`. Fields of parts that they no longer name are left out.
    Raises UserError if there is no such config.
    """
    path = Path(file).with_name(f"{name}.py")
    shipped = SHIPPED / path.name
    is_beside = path.is_file() or not shipped.is_file()
    before = flatten(_read(find(str(path)) if is_beside else shipped))
    after = {**before, **changes}
    gone = schema_of(before).keys() - schema_of(after).keys() - changes.keys()
    return blank({name: value for name, value in after.items() if name not in gone})


def to_json_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as nested dicts of plain Python values, with tuples as lists."""
    values = flatten(config.to_dict())
    return nest({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()})


def _read(path: Path) -> dict[str, Any]:
    """The result of get_config() of the file at `path`, as nested dicts."""
    with parts.mistakes(f"the config {path}", str(path)):
        # Unlike an import, run_path leaves no bytecode beside the config.
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if callable(get_config) else None
        if isinstance(config, ml_collections.ConfigDict):
            return config.to_dict()  # raises for an unset placeholder
    raise UserError(f"{path} must define get_config(), which returns an ml_collections.ConfigDict")


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested dicts by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of values by dotted name."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, leaf = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree


def _changed(
    values: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], set[str]]:
    """The values after overrides, and the names of values that were set for this data set.

    Values of a config that states no fact of its data suit any data.
    """
    data, before = values["data.name"], schema_of(values)
    is_of_one = any(field.from_data and values.get(n) is not None for n, field in before.items())
    # Fields that name parts come first, since other fields depend on the parts.
    selectors = tuple(f"{name}=" for name, field in before.items() if field.part is not None)
    named = [text for text in overrides if text.startswith(selectors)]
    values = {**values, **dict(_parse_override(text, before) for text in named)}
    fields = schema_of(values)
    is_other_data = values["data.name"] != data

    def still_holds(name: str) -> bool:  # under the parts that are named
        if name not in fields:
            return False
        if name == "data.path":
            return not is_other_data
        is_of_data = is_other_data and (fields[name].from_data or before[name].from_data)
        return not is_of_data or fields[name].default is parts.REQUIRED

    values = {name: value for name, value in values.items() if still_holds(name)}
    changes = dict(_parse_override(text, fields) for text in overrides)
    values = {**values, **changes}
    return values, set(changes if is_other_data or not is_of_one else values)


def _completed(values: Mapping[str, Any], stated: Collection[str]) -> dict[str, Any]:
    """The values with facts of the data, which bound numbers that are not `stated` for this data.

    One log line lists the changes.
    """
    fields = schema_of(values)
    given = schema.with_defaults(values, fields)
    facts = getattr(parts.get("data", given["data.name"]), "facts", None)
    if facts is None or any(n.startswith("data.") and n not in given for n in fields):
        return given
    data, free = nest(given)["data"], [n for n in fields if given.get(n) and n not in stated]
    bounded = {name: split for name in free if (split := fields[name].at_most)}
    with parts.mistakes(f"data {data['name']!r}"):
        asked = {*bounded.values(), *(name for name, value in data.items() if value is None)}
        found = facts(ml_collections.ConfigDict(data), asked)
    changes = {f"data.{name}": value for name, value in found.items() if name in data}
    if "image_size" in found:
        multiple = side_multiple(given)
        changes["data.image_size"] = math.ceil(found["image_size"] / multiple) * multiple
    for name, split in bounded.items():
        divisors = [given[n] for n, field in fields.items() if field.divides == name and given[n]]
        limit = found.get(split, math.inf)
        changes[name] = _at_most(given[name], limit, math.lcm(*divisors))
    changed = [
        f"{name.removeprefix('data.')}={value}"
        for name, value in changes.items()
        if value != given[name] and name != "data.path"
    ]
    result = given | changes
    if changed:
        place = result.get("data.path", "memory")
        _log.info("from the images in %s: %s", place, ", ".join(changed))
    return result


def _at_most(value: Any, most: int | float, multiple: int) -> Any:
    """A number limited to `most`, as a multiple if it is that large; or a tuple of limited ones."""
    if isinstance(value, tuple):
        return tuple(sorted({min(each, most) for each in value}))
    value = min(value, most)
    return value // multiple * multiple or value


def _checked(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    found = schema.validated(values)
    for name, field in schema_of(values).items():
        if field.from_data and found[name] is None:
            raise UserError(f"the config lacks the field {name} ({field.help})")
    return ml_collections.FrozenConfigDict(nest(found))


def _parse_override(text: str, fields: Mapping[str, Field]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"an override must read FIELD=VALUE, got {text!r}")
    if name not in fields:
        raise UserError(schema.unknown(name, fields))
    if name in _as_fields({}):
        raise UserError(f"{name} must be set by --extensions=FILE.py")
    return name, schema.checked(name, _parse(value, fields[name]), fields[name])


def _parse(text: str, field: Field) -> Any:
    """The Python value of `text` for the field, or else `text` itself."""
    if field.takes_none and text in ("None", "none"):
        return None
    if field.kind is str or text in field.words:
        return text
    if field.kind is bool:
        return {"True": True, "true": True, "False": False, "false": False}.get(text, text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    is_item = field.kind is tuple and schema.converted(value, field.item, field.item) is not None
    return (value,) if is_item else value


FOLDER = Path("configs")
# An installed package stores them in lzn_jax/configs, a checkout in configs/ beside lzn_jax.
_PACKAGE = Path(__file__).parent
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
    if found.is_file() and found.suffix == ".py":
        return found
    known = [*asked.parent.glob("*.py"), *SHIPPED.glob("*.py")]
    ratio = {each: difflib.SequenceMatcher(None, asked.stem, each.stem).ratio() for each in known}
    nearest = max(known, key=lambda each: ratio[each])
    raise UserError(f"there is no config file {asked}; the nearest is {nearest}")


def shipped(name: str) -> str:
    """Path of the package's own config NAME, regardless of the current folder."""
    return str(SHIPPED / f"{name}.py")


def overview() -> str:
    """One line for each config of the package, with the first line of its docstring."""
    lines = []
    for path in sorted(SHIPPED.glob("*.py")):
        headline, *_ = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n")
        lines.append(f"  {path.stem:<22}{headline}")
    return "\n".join(lines)


def explain(config: ml_collections.ConfigDict) -> str:
    """One line per field: name = value # meaning. A star marks values other than the default."""
    values = flatten(config.to_dict())
    fields = flatten(nest(schema_of(values)))  # in the schema's order, by group
    lines = ["* differs from its default, or has none"]
    for name, field in ((n, f) for n, f in fields.items() if n in values):
        mark = " " if values[name] == field.default else "*"
        lines.append(f"{mark} {f'{name} = {values[name]!r}':<44}  # {field.help}")
    return "\n".join(lines)
