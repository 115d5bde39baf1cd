"""From a config file and command-line values to a checked config, and to JSON and back."""

import ast
import json
import logging
import runpy
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from lzn_jax import parts
from lzn_jax.configuration.checking import checked, converted, unknown, validated
from lzn_jax.configuration.finding import SHIPPED, find
from lzn_jax.configuration.schema import groups, schema_of, with_defaults
from lzn_jax.errors import UserError
from lzn_jax.parts import REQUIRED, Field

# Of a run, in its work folder.
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"

_EXTENSIONS = parts.words("extensions", ())
# Old names of fields, as runs of older versions have them.
_RENAMED = {
    "decoder.told": "decoder.condition",
    "decoder.told_dropout": "decoder.condition_dropout",
}
# Fields of older versions, and the value with which this one computes.
_GONE = {"latent.precision": "float32"}
_log = logging.getLogger(__name__)

# Values, and names of those that are stated for their data set -> all values.
Completion = Callable[[Mapping[str, Any], Collection[str]], Mapping[str, Any]]


def load(
    path: str,
    overrides: Sequence[str] = (),
    complete: Completion | None = None,
    extensions: Sequence[str] = (),
) -> ml_collections.ConfigDict:
    """The checked, immutable config of the file at `path`, changed by `FIELD=VALUE` overrides.

    `path` may be the name of a config. `complete` fills in fields that follow from the data, such
    as `lzn_jax.data.from_images.resolved`. `extensions` run beside those that the config names.
    Raises UserError for a file that gives no config, for an extension that fails and for a field or
    value at fault.
    """
    file, given = find(path), parts.extend(extensions)
    tree = _read(file)
    named = checked("extensions", tree.get("extensions", ()), _EXTENSIONS)
    found = given | parts.extend(named, file.parent)
    values = validated({**flatten(tree), **_as_fields(found)})
    values, stated = _changed(values, overrides)
    return _checked(complete(values, stated) if complete else values)


def load_run(
    workdir: Path, overrides: Sequence[str] = (), extensions: Sequence[str] = ()
) -> ml_collections.ConfigDict:
    """The checked, immutable config of the run in a folder, changed by `FIELD=VALUE` overrides.

    The tokenizer is the copy in the folder; nothing in the folder is executed. `extensions` are
    files or modules with the parts that the run needs, unless they are registered. Raises UserError
    for a folder that holds no run, for a missing extension and for a field or value at fault.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise UserError(
            f"{workdir} is no run: name the folder that holds {CONFIG_FILE}, or a config"
        )
    parts.extend(extensions)
    values = stored_values(path)
    found = _found_extensions(path, values)
    try:
        values = validated({**values, **_as_fields(found)})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if values.get("data.tokenizer_path") is not None:
        values["data.tokenizer_path"] = str(workdir / TOKENIZER_FILE)
    return _checked(_changed(values, overrides)[0])


def stored_values(path: Path) -> dict[str, Any]:
    """The values of a run's config.json by dotted name, those of older versions by new names.

    Raises UserError for a file that is not a config.
    """
    try:
        tree = json.loads(path.read_text())
        if not isinstance(tree, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not the config of a run: {reason}") from error
    values = flatten(tree)
    for name, value in _GONE.items():
        if (got := values.pop(name, value)) != value:
            raise UserError(f"{path}: {name} can only be {value!r} in this version, got {got!r}")
    return {_RENAMED.get(name, name): value for name, value in values.items()}


def _found_extensions(path: Path, values: Mapping[str, Any]) -> dict[str, str]:
    """The extensions of a run with the sha256 of what is there; the log names changed ones."""
    names, digests = (
        checked(name, values.get(name, ()), _EXTENSIONS)
        for name in ("extensions", "extension_checksums")
    )
    found = {}
    for name, digest in zip(names, digests, strict=False):
        there = parts.found_extension(name, digest)
        if there is None:
            raise UserError(
                f"{path} needs the extension {name} (sha256 {digest[:12]}): name it with "
                f"--extensions={name}, or extensions=({name!r},) of lzn_jax.load"
            )
        if there != digest:
            _log.warning("the extension %s has changed since the run of %s", name, path.parent)
        found[name] = there
    return found


def _as_fields(found: Mapping[str, str]) -> dict[str, Any]:
    return {"extensions": tuple(found), "extension_checksums": tuple(found.values())}


def blank() -> ml_collections.ConfigDict:
    """A config with every group and no field yet, for a config file to fill in.

    The fields that it leaves out take their defaults; groups that stay empty vanish.
    """
    return ml_collections.ConfigDict(nest({group: {} for group in sorted(groups())}))


def sibling(file: str, name: str) -> ml_collections.ConfigDict:
    """The config `name`, unchecked and open to change, from the folder of the config file `file`.

    The package's own stands in for one that is not there. For configs that say only what they
    change: `config = sibling(__file__, "digits_gen")`. Raises UserError where `name` gives no
    config.
    """
    path = Path(file).with_name(f"{name}.py")
    shipped = SHIPPED / path.name
    is_beside = path.is_file() or not shipped.is_file()
    return ml_collections.ConfigDict(_read(find(str(path)) if is_beside else shipped))


def to_json_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as nested dicts of plain Python values, tuples as lists."""
    values = flatten(config.to_dict())
    return nest({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()})


def _read(path: Path) -> dict[str, Any]:
    """What get_config() of the file at `path` returns, as nested dicts."""
    try:
        # Unlike an import, run_path leaves no bytecode beside the config.
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if callable(get_config) else None
        # A placeholder that the file leaves unset raises here.
        tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else None
    except UserError:  # of a sibling, which it names
        raise
    except Exception as error:
        raise UserError(_failed(path, error)) from error
    if not callable(get_config):
        raise UserError(f"{path} must define a function get_config()")
    if tree is None:
        got = type(config).__name__
        what = "an ml_collections.ConfigDict"
        raise UserError(f"get_config() of {path} must return {what}, not {got}")
    return tree


def _failed(path: Path, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f", line {frame.lineno}" for frame in frames if frame.filename == str(path)]
    place = f"{path}{lines[-1] if lines else ''}"
    text = f"{place}: a config must run without errors, got {type(error).__name__}: {error}"
    return " ".join(text.split())


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested dicts by dotted name."""
    flat, known = dict[str, Any](), groups()
    for key, value in tree.items():
        # What is empty and no group stays, so that it is reported instead of lost.
        name = f"{prefix}{key}"
        is_group = isinstance(value, Mapping) and (value or name in known)
        flat |= flatten(value, f"{name}.") if is_group else {name: value}
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
    """The values after overrides, and the names of those that are stated for their data set."""
    source = values["data.name"]
    fields = schema_of(values)
    selectors = {f"{name}=" for name, field in fields.items() if field.part is not None}
    named = [text for text in overrides if text.startswith(tuple(selectors))]
    values = {**values, **dict(_parse_override(text, fields) for text in named)}
    is_another = values["data.name"] != source
    if is_another:
        values = _of_another(values, fields)
    fields = schema_of(values)
    given = dict(_parse_override(text, fields) for text in overrides)
    values = {**values, **given}
    return values, set(given if is_another else values)


def _checked(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    fields = schema_of(values)
    values = with_defaults(values, fields)
    if values.get("data.channels", 3) is None:  # nobody has looked at the images
        values["data.channels"] = 3
    found = validated(values)
    for name, field in fields.items():
        if field.from_data and found[name] is None:
            raise UserError(f"the config lacks the field {name} ({fields[name].help})")
    return ml_collections.FrozenConfigDict(nest(found))


def _of_another(values: Mapping[str, Any], before: Mapping[str, Field]) -> dict[str, Any]:
    """The values for another data set, without what they say of the one before."""
    fields = schema_of(values)

    def holds(name: str) -> bool:
        if not name.startswith("data."):
            return True
        if name not in fields:
            return False
        is_of_data = fields[name].from_data or before[name].from_data
        return not is_of_data or fields[name].default is REQUIRED

    return {name: value for name, value in values.items() if holds(name)}


def _parse_override(text: str, fields: Mapping[str, Field]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"an override must read FIELD=VALUE, got {text!r}")
    if name not in fields:
        raise UserError(unknown(name, fields))
    if name in _as_fields({}):
        raise UserError(f"{name} must be those of --extensions=FILE.py, not {value}")
    return name, checked(name, _parse(value, fields[name]), fields[name])


def _parse(text: str, field: Field) -> Any:
    """The Python value that `text` spells, or `text` itself where it spells none."""
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
    is_item = field.kind is tuple and converted(value, field.item, field.item) is not None
    return (value,) if is_item else value
