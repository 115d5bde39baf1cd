"""Experiment configs: their fields and defaults, reading, checking and display."""

import ast
import dataclasses
import difflib
import logging
import operator
import re
import runpy
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_collections

from lzn_jax import parts
from lzn_jax.errors import UserError
from lzn_jax.extensions import extend, found_extension
from lzn_jax.files import parse_json
from lzn_jax.parts import Field, amount, choice, count, count_or_0, flag, positive, word, words

# Defaults suit most of the paper's experiments, or have no effect.
_EVERY_RUN = {
    "study": word("preset of types and alignments, None = set by this config", None, part="study"),
    # jax.random.key silently drops all but 32 bits of a seed.
    "seed": Field(int, "seed of all random numbers", 0, minimum=0, below=2**32),
    "extensions": words("Python files beside the config, or modules, that register parts", ()),
    "extension_checksums": words("sha256 of each extension, set when it runs", ()),
    "types": words("data types", nonempty=True, part="type"),
    "alignments": words("alignments as SOURCE:TARGET", ()),
    "objective": choice("what trains the encoders; some data types have a baseline", "lzn"),
    "data.name": word("data set", part="data"),
    "data.validation": count_or_0(
        "training examples set apart and evaluated instead of the test set", 0
    ),
    "data.validation_seed": Field(int, "seed of the validation split", 0, minimum=0, below=2**32),
    "latent.dim": count("latent dimension q"),
    "latent.noise_scale": amount("α of the training latents", 1.0),
    "latent.solver": word("solver of the encoder's flow", "dpm", part="solver"),
    "latent.num_steps": count("solver steps of the encoder's flow", 20),
    "training.batch_size": count("examples per update, over all devices", at_most="train"),
    "training.microbatch_size": count(
        "examples that a network evaluates at once, None = all", None
    ),
    "training.shard_parameters": flag(
        "divide parameters and optimiser state over the devices, to save memory", False
    ),
    "training.devices": count(
        "number of devices; 'dividing' = as many as divide the batch evenly",
        "all",
        words=("all", "dividing"),
    ),
    "training.remat": flag("recompute residual blocks in the backward pass, to save memory", False),
    "training.num_steps": count("updates"),
    "training.learning_rate.default": positive("learning rate of networks without their own", 1e-3),
    "training.warmup_steps": count_or_0("updates of linear warm-up", 5000),
    "training.schedule": word("learning rate after warm-up", "constant", part="schedule"),
    "training.optimizer": word("optimiser of each network", "adam", part="optimizer"),
    "training.losses": words("losses beside decoders and alignments", (), part="loss"),
    "training.gradient_clip": positive("global norm to which gradients are clipped", 1.0),
    "training.ema_decay": parts.share_below_1("decay of the averaged weights"),
    "training.compute_dtype": choice("dtype inside the networks", "float32", "bfloat16"),
    "training.log_every_steps": count("updates between logged metrics", 100),
    "checkpoint.every_steps": count("updates between checkpoints", 1000),
    "checkpoint.keep": count("checkpoints kept", 2),
    "evaluation.every_steps": count("updates between evaluations"),
    "evaluation.measurements": words(
        "measurements in addition to those of the data types", (), part="measurement"
    ),
    "evaluation.figures": words(
        "figures in addition to those of the data types", (), part="figure"
    ),
    "evaluation.measurements_of_types": flag(
        "whether to run the measurements of the data types and draw their figures", True
    ),
    "reporting.profile_steps": word(
        "A:B traces the updates from A to B - 1 with jax.profiler, None = none", None
    ),
    "reporting.wandb_project": word("Weights & Biases project, None = no logging there", None),
}
_ALIGNED = {
    "alignment.solver": word("solver of the flow from latents to zones", "euler", part="solver"),
    "alignment.num_steps": count("solver steps of the flow from latents to zones"),
    "alignment.cutoff": parts.share_below_1(
        "share of the flow's first steps left out of the loss", 0.2
    ),
    "alignment.form": word("form of the loss", "log", part="alignment"),
    "alignment.noise_scale": amount("α of the aligned latents, None = as in generation", None),
    "alignment.weight": amount("weight of the alignment loss", 1.0),
}
# A single type trains nothing else, so there would be nothing to train without this loss.
_ALIGNED_VIEWS = {"alignment.weight": positive("weight of the alignment loss", 1.0)}
# Groups of the package's fields.
_GROUPS = (
    *("data", "latent", "alignment", "augmentation", "encoder", "decoder", "training"),
    *("training.learning_rate", "text", "text_encoder", "text_decoder"),
    *("simclr", "infonce", "dcl", "siglip", "checkpoint", "evaluation", "sampling", "reporting"),
)


def schema_of(values: Mapping[str, Any]) -> dict[str, Field]:
    """The fields of a config by dotted name, including the fields of the parts that it names."""
    preset = _preset(values.get("study"))
    types, alignments = (
        _tuple(values.get(name, preset.get(name))) for name in ("types", "alignments")
    )
    fields = dict(_EVERY_RUN)
    if alignments or len(types) > 1:
        fields |= _ALIGNED | (_ALIGNED_VIEWS if len(types) == 1 else {})
    space = {**values, "types": types, "alignments": alignments}
    names = list(fields)
    for name in names:  # which grow by the fields of parts and pairs
        own = _of_pairs(name, fields[name], alignments) | _of_parts(name, fields[name], space)
        names += [each for each in own if each not in fields]
        fields |= own
    for name, value in preset.items():
        if name in fields:
            is_optional = fields[name].takes_none
            fields[name] = dataclasses.replace(fields[name], default=value, optional=is_optional)
    return {name: _with_choices(name, field, types) for name, field in fields.items()}


def _of_parts(name: str, field: Field, space: Mapping[str, Any]) -> dict[str, Field]:
    """Fields of the parts that a field names. A leading dot puts them into the field's group."""
    if field.part is None or (field.part == "type" and name != "types"):  # one of `types`
        return {}
    (group, *_), value, found = name.split("."), space.get(name, field.default), {}
    for part in _tuple(value) or (value,):
        for own, each in parts.fields(field.part, str(part), space).items():
            found[f"{group}{own}" if own.startswith(".") else own] = each
    return found


def _of_pairs(name: str, field: Field, alignments: Sequence[str]) -> dict[str, Field]:
    """Fields `alignment.SOURCE_to_TARGET.FIELD` of a field of alignments."""
    group, *leaf = name.split(".")
    if group != "alignment" or len(leaf) > 1:
        return {}
    own = dataclasses.replace(field, default=parts.ABSENT, optional=True)
    return {f"{_pair_group(pair)}.{leaf[0]}": own for pair in alignments}


def _pair_group(pair: str) -> str:
    return f"alignment.{pair}".replace(":", "_to_")


def of_pair(values: Mapping[str, Any], pair: str) -> dict[str, Any]:
    """The values by dotted name. The pair's values replace values of the group `alignment`."""
    prefix = f"{_pair_group(pair)}."
    own = {n: v for n, v in values.items() if n.startswith(prefix) and v is not None}
    return {**values, **{f"alignment.{n.removeprefix(prefix)}": v for n, v in own.items()}}


def with_defaults(values: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The values by dotted name, with defaults for missing fields."""
    none = (parts.REQUIRED, parts.ABSENT)
    return {**{n: f.default for n, f in fields.items() if f.default not in none}, **values}


def _preset(study: Any) -> Mapping[str, Any]:
    return parts.get("study", study) if study in parts.names("study") else {}


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else ()


def _with_choices(name: str, field: Field, types: tuple[str, ...]) -> Field:
    """The field with its choices: the parts of its kind, or the pairs of types."""
    if name == "alignments":
        return dataclasses.replace(field, choices=tuple(f"{s}:{t}" for s in types for t in types))
    if field.part is None or field.choices:
        return field
    return dataclasses.replace(field, choices=parts.names(field.part))


def validated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with defaults, in canonical types and the schema's order.

    Raises UserError for the first invalid value.
    """
    fields = schema_of(values)
    values = with_defaults(values, fields)
    result = {n: checked(n, values[n], field) for n, field in fields.items() if n in values}
    for name, field in fields.items():
        if name not in values and field.default is parts.REQUIRED:
            expected = _expected(field)
            raise UserError(f"the config lacks the field {name} ({field.help}): {expected}")
    if extra := [name for name in values if name not in fields]:
        raise UserError(unknown(extra[0], fields))
    if not any(fields[name].from_data and value is None for name, value in result.items()):
        _check_across(result, fields)
    return result


# Common names of fields.
_ALIASES = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "epochs": "num_steps",
    "iterations": "num_steps",
    "alpha": "noise_scale",
}


def unknown(name: str, fields: Iterable[str]) -> str:
    """Error message for an unknown field, with the nearest field by whole name or last word."""
    asked = ".".join(_ALIASES.get(word, word) for word in name.split("."))

    def closeness(known: str) -> tuple[float, float]:
        pairs = (asked, known), (asked.rpartition(".")[2], known.rpartition(".")[2])
        whole, leaf = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return max(whole, leaf), whole

    return f"the config has no field {name}; the nearest is {max(fields, key=closeness)}"


def checked(name: str, value: Any, field: Field) -> Any:
    """`value` in the field's type. Integers become floats, and lists tuples, if necessary.

    Raises UserError if the field does not accept the value.
    """
    if (value is None and field.takes_none) or (isinstance(value, str) and value in field.words):
        return value
    result = converted(value, field.kind, field.item)
    if result is None or not _in_range(result, field):
        raise UserError(f"{name} must be {_expected(field)}, got {' '.join(repr(value).split())}")
    return result


def converted(value: Any, kind: type, item: type) -> Any:
    """`value` as the type `kind`, a tuple with items of the type `item`. None if impossible."""
    if kind is tuple and isinstance(value, tuple | list):
        items = tuple(converted(each, item, item) for each in value)
        return None if None in items else items
    if isinstance(value, bool) != (kind is bool):  # Python's bools are integers
        return None
    if kind is float and isinstance(value, int | float):
        return float(value) if abs(value) <= sys.float_info.max else None
    return value if isinstance(value, kind) else None


def _in_range(value: Any, field: Field) -> bool:
    if field.kind is tuple:
        item = dataclasses.replace(field, kind=field.item)
        return bool(value or not field.nonempty) and all(_in_range(v, item) for v in value)
    if field.choices:
        return value in field.choices
    return all(holds(value, limit) for _, holds, limit in _limits(field))


def _limits(field: Field) -> list[tuple[str, Callable[..., bool], int | float]]:
    """Limits of a field's values, as (relation in words, relation, limit)."""
    relations = (
        (">=", operator.ge, field.minimum),
        (">", operator.gt, field.above),
        ("<=", operator.le, field.maximum),
        ("<", operator.lt, field.below),
        ("a multiple of", lambda value, limit: value % limit == 0, field.multiple_of),
    )
    return [(words, holds, limit) for words, holds, limit in relations if limit is not None]


_KINDS = {bool: "True or False", int: "an integer", float: "a finite number", str: "a string"}


def _expected(field: Field) -> str:
    """Description of the values that the field accepts."""
    choices = ", ".join(map(repr, field.choices))
    if field.kind is tuple:
        items = choices or {int: "integers", float: "finite numbers", str: "strings"}[field.item]
        text = f"a {'non-empty ' if field.nonempty else ''}tuple of {items}"
    elif field.choices:
        text = f"one of {choices}" if len(field.choices) > 1 else choices
    else:
        text = _KINDS[field.kind]
    bounds = [f"{words} {limit}" for words, _, limit in _limits(field)]
    text = " ".join([text, " and ".join(bounds)]).strip()
    others = [*map(repr, field.words), *(["None"] if field.takes_none else [])]
    return " or ".join([text, *others])


def _check_across(values: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
    """Raises UserError if individually valid values are incompatible."""
    batch_size, size = values["training.batch_size"], values["training.microbatch_size"]
    parts.require(
        size is None or batch_size % size == 0,
        f"training.microbatch_size must divide training.batch_size {batch_size}, got {size}",
    )
    steps = values["reporting.profile_steps"]
    bounds = re.fullmatch(r"(\d+):(\d+)", "0:1" if steps is None else steps)
    parts.require(
        bounds is not None and int(bounds[1]) < int(bounds[2]),
        f"reporting.profile_steps must be A:B with A < B, for example 100:105, got {steps!r}",
    )
    types = values["types"]
    parts.require(len(set(types)) == len(types), f"types must differ, got {types}")
    named: dict[tuple[str, str], None] = {}  # parts by kind and name, each once
    for name, field in fields.items():
        if field.part is None or (value := values.get(name)) is None:
            continue
        for part in value if isinstance(value, tuple) else (value,):
            is_there = field.part != "type" or part in types
            parts.require(is_there, f"{name} needs {part!r} among types, got {types}")
            named[field.part, part] = None
    for kind, part in named:
        if check := parts.find(kind, part).check:
            for each in (values, *(of_pair(values, pair) for pair in values["alignments"])):
                check(each)
    _check_something_trains(values)


def _check_something_trains(values: Mapping[str, Any]) -> None:
    pairs = values["alignments"] if values.get("latent.enabled", True) else ()
    is_aligned = any(of_pair(values, pair)["alignment.weight"] > 0 for pair in pairs)
    weights = {n: v for n, v in values.items() if n.startswith("training.") and "_weight" in n}
    parts.require(
        is_aligned or not weights or any(weight != 0 for weight in weights.values()),
        f"{' or '.join(weights)} must be > 0 unless latent.enabled is True and "
        "alignment.weight > 0: nothing would train, got 0.0",
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

    If the data set defines a function `completed`, it completes fields that follow from the data:
    (values, names of the values that were set for this data set) -> values. `extensions` run in
    addition to the config's extensions. Raises UserError for a file without a config, a failing
    extension and an invalid field or value.
    """
    digests = extend(extensions)
    if isinstance(config, ml_collections.ConfigDict):
        tree, folder = config.to_dict(), Path()
    else:
        file = find(str(config))
        tree, folder = _read(file), file.parent
    named = checked("extensions", tree.get("extensions", ()), _EVERY_RUN["extensions"])
    digests |= extend(named, folder)
    values = validated({**flatten(tree), **_as_fields(digests)})
    values, stated = _changed(values, overrides)
    name = values.get("data.name")
    data_set = parts.get("data", name) if name in parts.names("data") else None
    completed = getattr(data_set, "completed", None)
    return _checked(completed(values, stated) if completed else values)


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
        values = validated(values)
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
    names, digests = (checked(n, values.get(n, ()), _EVERY_RUN[n]) for n in _as_fields({}))
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
    """The values after overrides, and the names of values that were set for this data set."""
    data = values["data.name"]
    before = schema_of(values)
    # Fields that name parts come first, since other fields depend on the parts.
    selectors = tuple(f"{name}=" for name, field in before.items() if field.part is not None)
    named = [text for text in overrides if text.startswith(selectors)]
    values = {**values, **dict(_parse_override(text, before) for text in named)}
    fields = schema_of(values)
    is_other_data = values["data.name"] != data

    def still_holds(name: str) -> bool:  # under the parts that are named
        if name not in fields:
            return False
        is_of_data = is_other_data and (fields[name].from_data or before[name].from_data)
        return not is_of_data or fields[name].default is parts.REQUIRED

    values = {name: value for name, value in values.items() if still_holds(name)}
    changes = dict(_parse_override(text, fields) for text in overrides)
    values = {**values, **changes}
    return values, set(changes if is_other_data else values)


def _checked(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    values = with_defaults(values, fields := schema_of(values))
    if values.get("data.channels", 3) is None:  # not completed from the images
        values["data.channels"] = 3
    found = validated(values)
    for name, field in fields.items():
        if field.from_data and found[name] is None:
            raise UserError(f"the config lacks the field {name} ({field.help})")
    return ml_collections.FrozenConfigDict(nest(found))


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
    is_item = field.kind is tuple and converted(value, field.item, field.item) is not None
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
    for name, field in fields.items():
        if name not in values:
            continue
        mark = " " if values[name] == field.default else "*"
        lines.append(f"{mark} {f'{name} = {values[name]!r}':<44}  # {field.help}")
    return "\n".join(lines)
