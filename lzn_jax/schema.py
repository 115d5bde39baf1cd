"""The schema of a config: its fields, with those of the parts that it names, and their values."""

import dataclasses
import difflib
import operator
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lzn_jax import parts
from lzn_jax.errors import UserError
from lzn_jax.parts import Field, amount, choice, count, count_or_0, flag, positive, word, words

# Defaults are those of most of the paper's experiments, or have no effect.
EVERY_RUN = {
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
        "examples that a network evaluates at once, None = all", None, divides="training.batch_size"
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
# One type alone trains nothing else: without this loss there is nothing to train.
_ALIGNED_VIEWS = {"alignment.weight": positive("weight of the alignment loss", 1.0)}


def schema_of(values: Mapping[str, Any]) -> dict[str, Field]:
    """The fields of a config by dotted name, including those of the parts that it names."""
    study = values.get("study")
    preset = parts.get("study", study) if study in parts.names("study") else {}
    space = {**preset, **values}
    types, alignments = (_tuple(space.get(name)) for name in ("types", "alignments"))
    space |= {"types": types, "alignments": alignments}
    fields = dict(EVERY_RUN)
    if alignments or len(types) > 1:
        fields |= _ALIGNED | (_ALIGNED_VIEWS if len(types) == 1 else {})
    waiting = deque(fields)
    while waiting:
        name = waiting.popleft()
        own = _of_pairs(name, fields[name], alignments) | _of_parts(name, fields[name], space)
        waiting.extend(each for each in own if each not in fields)
        fields |= own
    for name, value in preset.items():
        if field := fields.get(name):
            fields[name] = dataclasses.replace(field, default=value, optional=field.takes_none)
    return {name: _with_choices(name, field, types) for name, field in fields.items()}


def _of_parts(name: str, field: Field, space: Mapping[str, Any]) -> dict[str, Field]:
    """Fields of the parts that a field names, in its group if their names start with a dot."""
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
    """The values by dotted name, with those of the pair SOURCE:TARGET in the group `alignment`."""
    prefix = f"{_pair_group(pair)}."
    own = {n: v for n, v in values.items() if n.startswith(prefix) and v is not None}
    return {**values, **{f"alignment.{n.removeprefix(prefix)}": v for n, v in own.items()}}


def with_defaults(values: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The values by dotted name, with defaults for missing fields."""
    none = (parts.REQUIRED, parts.ABSENT)
    return {**{n: f.default for n, f in fields.items() if f.default not in none}, **values}


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
            raise UserError(f"the config lacks the field {name} ({field.help}): {_expected(field)}")
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
    """Error message for an unknown field, with the nearest one."""
    return f"the config has no field {name}; the nearest is {nearest(name, fields)}"


def nearest(name: str, fields: Iterable[str]) -> str:
    """The field nearest to a name by its whole name or last word, preferably of training."""
    asked = ".".join(_ALIASES.get(word, word) for word in name.split("."))

    def closeness(known: str) -> tuple[float, bool, float]:
        pairs = (asked, known), (asked.rpartition(".")[2], known.rpartition(".")[2])
        whole, leaf = (difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return max(whole, leaf), "." not in asked and known.startswith("training."), whole

    return max(fields, key=closeness)


def checked(name: str, value: Any, field: Field) -> Any:
    """`value` in the field's type; integers become floats and lists tuples if the type requires it.

    Raises UserError if the field does not accept the value.
    """
    if (value is None and field.takes_none) or (isinstance(value, str) and value in field.words):
        return value
    result = converted(value, field.kind, field.item)
    if result is None or not _in_range(result, field):
        raise UserError(f"{name} must be {_expected(field)}, got {' '.join(repr(value).split())}")
    return result


def converted(value: Any, kind: type, item: type) -> Any:
    """`value` as the type `kind`, a tuple with items of the type `item`; None if impossible."""
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
    """Raises UserError if values that are valid one by one are incompatible."""
    for name, whole in ((name, field.divides) for name, field in fields.items() if field.divides):
        message = f"{name} must divide {whole} {values[whole]}, got {values[name]}"
        parts.require(values[name] is None or values[whole] % values[name] == 0, message)
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
    _check_something_trains(values, fields)


def _check_something_trains(values: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
    pairs = values["alignments"] if values.get("latent.enabled", True) else ()
    is_aligned = any(of_pair(values, pair)["alignment.weight"] > 0 for pair in pairs)
    weights = {name: values[name] for name, field in fields.items() if field.is_loss_weight}
    parts.require(
        is_aligned or not weights or any(weight != 0 for weight in weights.values()),
        f"{' or '.join(weights)} must be > 0 unless latent.enabled is True and "
        "alignment.weight > 0: nothing would train, got 0.0",
    )
