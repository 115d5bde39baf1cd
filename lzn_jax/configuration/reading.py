"""Reads configs from Python files, command-line overrides and the JSON of a run."""

import ast
import json
import logging
import runpy
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_collections

from lzn_jax import parts
from lzn_jax.configuration.checking import checked, converted, unknown, validated
from lzn_jax.configuration.finding import SHIPPED, find
from lzn_jax.configuration.schema import groups, schema_of, with_defaults
from lzn_jax.errors import UserError
from lzn_jax.parts import REQUIRED, Field

# Files in the work folder of a run.
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"

_EXTENSIONS = parts.words("extensions", ())
# Fields that older runs have under another name.
_RENAMED = {
    "decoder.told": "decoder.condition",
    "decoder.told_dropout": "decoder.condition_dropout",
    "decoder.energy_anchors": "decoder.set_anchors",
    "decoder.energy_patch_size": "decoder.set_patch_size",
    "decoder.energy_patches": "decoder.set_patches",
    "decoder.energy_weight": "decoder.set_weight",
}
# Fields of older runs that no longer exist, and the only value that this version supports.
_GONE = {"latent.precision": "float32"}
_MAX_DEPTH = 100  # of JSON, so that functions that descend into it end
_log = logging.getLogger(__name__)

# (values, names of the values that were set for this data set) -> completed values.
Completion = Callable[[Mapping[str, Any], Collection[str]], Mapping[str, Any]]


def load(
    path: str,
    overrides: Sequence[str] = (),
    complete: Completion | None = None,
    extensions: Sequence[str] = (),
) -> ml_collections.ConfigDict:
    """The checked, immutable config of the file at `path`, with `FIELD=VALUE` overrides applied.

    `path` may be the name of a config. `complete` fills in fields that follow from the data, such
    as `lzn_jax.data.from_images.resolved`. `extensions` run in addition to those that the config
    names. Raises UserError for a file without a config, a failing extension and an invalid field or
    value.
    """
    file, digests = find(path), parts.extend(extensions)
    tree = _read(file)
    named = checked("extensions", tree.get("extensions", ()), _EXTENSIONS)
    digests |= parts.extend(named, file.parent)
    values = validated({**flatten(tree), **_as_fields(digests)})
    values, stated = _changed(values, overrides)
    return _checked(complete(values, stated) if complete else values)


def load_run(
    workdir: Path, overrides: Sequence[str] = (), extensions: Sequence[str] = ()
) -> ml_collections.ConfigDict:
    """The checked, immutable config of the run in a folder, with `FIELD=VALUE` overrides applied.

    The tokenizer is the copy in the folder; nothing in the folder is executed. `extensions` are
    files or modules with the parts that the run needs and that are not registered yet. Raises
    UserError for a folder without a run, a missing extension and an invalid field or value.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise UserError(
            f"{workdir} is no run: name the folder that holds {CONFIG_FILE}, or a config"
        )
    parts.extend(extensions)
    values = stored_values(path)
    digests = _found_extensions(path, values)
    try:
        values = validated({**values, **_as_fields(digests)})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if values.get("data.tokenizer_path") is not None:
        values["data.tokenizer_path"] = str(workdir / TOKENIZER_FILE)
    return _checked(_changed(values, overrides)[0])


def stored_values(path: Path) -> dict[str, Any]:
    """The values of a run's config.json by dotted name, with old field names replaced.

    Raises UserError for a file that is not a config.
    """
    try:
        tree = parse_json(path.read_text())
        if not isinstance(tree, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not the config of a run: {reason}") from error
    values = flatten(tree)
    for name, value in _GONE.items():
        if (got := values.pop(name, value)) != value:
            raise UserError(f"{path}: {name} can only be {value!r} in this version, got {got!r}")
    if values.get("data.holdout") and "data.holdout_seed" not in values:
        _log.warning(
            "%s: this version holds out other images than the one of the run, which was trained on "
            "some of today's test images",
            path,
        )
    names, digests = (checked(n, values.get(n, ()), _EXTENSIONS) for n in _as_fields({}))
    if len(names) != len(digests):
        raise UserError(f"{path} must have a checksum for each of its extensions")
    return {_RENAMED.get(name, name): value for name, value in values.items()}


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; raises ValueError if it is not JSON or too deeply nested."""
    try:
        level = [value := json.loads(text)]
    except RecursionError as error:
        raise ValueError("too deeply nested") from error
    for _ in range(_MAX_DEPTH):
        nested = [each for each in level if isinstance(each, dict | list)]
        level = [x for each in nested for x in (each.values() if isinstance(each, dict) else each)]
    if level:
        raise ValueError("too deeply nested")
    return value


def _found_extensions(path: Path, values: Mapping[str, Any]) -> dict[str, str]:
    """The extensions of a run with the sha256 of those loaded; warns about changed ones."""
    found = {}
    for name, digest in zip(*(values.get(n, ()) for n in _as_fields({})), strict=True):
        loaded = parts.found_extension(name, digest)
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


def blank() -> ml_collections.ConfigDict:
    """A config with all groups and no fields, for a config file to fill in.

    Fields that are not set take their defaults; groups that stay empty are dropped.
    """
    return ml_collections.ConfigDict(nest(_empty_groups()))


def _empty_groups() -> dict[str, Any]:
    return {group: {} for group in sorted(groups())}


def sibling(
    file: str, name: str, changes: Mapping[str, Any] = MappingProxyType({})
) -> ml_collections.ConfigDict:
    """The config `name`, unchecked and mutable, from the folder of the config file `file`.

    Falls back to the package's own config of that name. For configs that only list their changes to
    a different one: `config = sibling(__file__, "digits_gen")`. `changes` are values by dotted
    name, such as other `types`; fields of parts that they no longer name are left out. Raises
    UserError if there is no such config.
    """
    path = Path(file).with_name(f"{name}.py")
    shipped = SHIPPED / path.name
    is_beside = path.is_file() or not shipped.is_file()
    before = flatten(_read(find(str(path)) if is_beside else shipped))
    after = {**before, **changes}
    gone = schema_of(before).keys() - schema_of(after).keys() - changes.keys()
    kept = {name: value for name, value in after.items() if name not in gone}
    return ml_collections.ConfigDict(nest(_empty_groups() | kept))


def to_json_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as nested dicts of plain Python values, with lists for tuples."""
    values = flatten(config.to_dict())
    return nest({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()})


def _read(path: Path) -> dict[str, Any]:
    """The result of get_config() of the file at `path`, as nested dicts."""
    try:
        # Unlike an import, run_path leaves no bytecode beside the config.
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if callable(get_config) else None
        # Raises for a placeholder without a value.
        tree = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else None
    except UserError:  # of a sibling; its message has the path
        raise
    except Exception as error:
        raise parts.failure(f"the config {path}", error, str(path)) from error
    if not callable(get_config):
        raise UserError(f"{path} must define a function get_config()")
    if tree is None:
        got = type(config).__name__
        what = "an ml_collections.ConfigDict"
        raise UserError(f"get_config() of {path} must return {what}, not {got}")
    return tree


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested dicts by dotted name."""
    flat, known = dict[str, Any](), groups()
    for key, value in tree.items():
        # An empty dict that is not a group stays, so that it is reported as an unknown field.
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
    """The values with overrides applied, and the names of those that were set for this data set."""
    data = values["data.name"]
    fields = schema_of(values)
    # Fields that name parts come first, as the other fields depend on the parts.
    selectors = tuple(f"{name}=" for name, field in fields.items() if field.part is not None)
    named = [text for text in overrides if text.startswith(selectors)]
    values = {**values, **dict(_parse_override(text, fields) for text in named)}
    is_other_data = values["data.name"] != data
    if is_other_data:
        values = _without_data(values, fields)
    fields = schema_of(values)
    changes = dict(_parse_override(text, fields) for text in overrides)
    values = {**values, **changes}
    return values, set(changes if is_other_data else values)


def _checked(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    fields = schema_of(values)
    values = with_defaults(values, fields)
    if values.get("data.channels", 3) is None:  # not completed from the images
        values["data.channels"] = 3
    found = validated(values)
    for name, field in fields.items():
        if field.from_data and found[name] is None:
            raise UserError(f"the config lacks the field {name} ({field.help})")
    return ml_collections.FrozenConfigDict(nest(found))


def _without_data(values: Mapping[str, Any], before: Mapping[str, Field]) -> dict[str, Any]:
    """The values without those that describe the previous data set."""
    fields = schema_of(values)

    def still_holds(name: str) -> bool:
        if not name.startswith("data."):
            return True
        if name not in fields:
            return False
        is_of_data = fields[name].from_data or before[name].from_data
        return not is_of_data or fields[name].default is REQUIRED

    return {name: value for name, value in values.items() if still_holds(name)}


def _parse_override(text: str, fields: Mapping[str, Field]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"an override must read FIELD=VALUE, got {text!r}")
    if name not in fields:
        raise UserError(unknown(name, fields))
    if name in _as_fields({}):
        raise UserError(f"{name} must be set by --extensions=FILE.py")
    return name, checked(name, _parse(value, fields[name]), fields[name])


def _parse(text: str, field: Field) -> Any:
    """The Python value of `text` for the field, or `text` itself if it is not one."""
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
