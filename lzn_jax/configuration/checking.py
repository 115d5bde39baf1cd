"""Checks of a config's values, each by itself and all together."""

import dataclasses
import difflib
import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lzn_jax import parts
from lzn_jax.configuration.schema import schema_of, with_defaults
from lzn_jax.errors import UserError
from lzn_jax.parts import Field, require


def validated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with defaults, in canonical types and the schema's order.

    Raises UserError for the first invalid value.
    """
    fields = schema_of(values)
    values = with_defaults(values, fields)
    result = {n: checked(n, values[n], field) for n, field in fields.items() if n in values}
    extra = [name for name in values if name not in fields]
    for name, field in fields.items():
        if name not in values:
            raise UserError(_missing(name, field, extra))
    if extra:
        raise UserError(unknown(extra[0], fields))
    if not any(fields[name].from_data and value is None for name, value in result.items()):
        _check_across(result)
    return result


def _missing(name: str, field: Field, extra: Sequence[str]) -> str:
    message = f"the config lacks the field {name} ({field.help}): {_expected(field)}"
    near = difflib.get_close_matches(name, extra, n=1, cutoff=0.8)
    return f"{message}; it has {near[0]}, which is not a field" if near else message


# Names of fields in other programs.
_ALIASES = {"epochs": "num_steps", "iterations": "num_steps", "alpha": "noise_scale"}


def unknown(name: str, fields: Iterable[str]) -> str:
    """Error message for an unknown field, with the nearest field or fields."""
    fields = list(fields)
    groups = {field.rpartition(".")[0] for field in fields}
    small_groups = sorted(group for group in groups if "." in group)
    nearest = max([*fields, *small_groups], key=lambda known: _closeness(name, known))
    if nearest in fields:
        return f"the config has no field {name}; the nearest is {nearest}"
    members = ", ".join(field for field in fields if field.startswith(f"{nearest}."))
    return f"the config has no field {name}; the nearest are {members}"


def _closeness(name: str, known: str) -> tuple[float, float]:
    """Similarity of two names by letters, by words (steps, num_steps) or by initials (lr)."""
    asked, leaf = name.rpartition(".")[2], known.rpartition(".")[2]
    words = leaf.split("_")
    whole = difflib.SequenceMatcher(None, name, known).ratio()
    letters = difflib.SequenceMatcher(None, asked, leaf).ratio()
    is_meant = _ALIASES.get(asked) == leaf or (
        len(words) > 1 and asked == "".join(word[0] for word in words)
    )
    by_meaning = 1.0 if is_meant else 0.9 * (set(asked.split("_")) <= set(words))
    return max(whole, letters, by_meaning), whole


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


def _check_across(values: Mapping[str, Any]) -> None:
    """Raises UserError if values that are valid one by one are incompatible."""
    batch_size, size = values["training.batch_size"], values["training.microbatch_size"]
    require(
        size is None or batch_size % size == 0,
        f"training.microbatch_size must divide training.batch_size {batch_size}, got {size}",
    )
    steps = values["reporting.profile_steps"]
    bounds = re.fullmatch(r"(\d+):(\d+)", "0:1" if steps is None else steps)
    require(
        bounds is not None and int(bounds[1]) < int(bounds[2]),
        f"reporting.profile_steps must be A:B with A < B, for example 100:105, got {steps!r}",
    )
    named = _named_parts(values)
    types = values["types"]
    require(len(set(types)) == len(types), f"types must differ, got {types}")
    for name, kind, part in named:
        is_there = kind != "type" or part in types
        require(is_there, f"{name} needs {part!r} among types, got {types}")
    for kind, part in dict.fromkeys((kind, part) for _, kind, part in named):
        if check := parts.find(kind, part).check:
            check(values)
    _check_something_trains(values)


def _named_parts(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(field, kind, name) of every part that a config names."""
    named = []
    for name, field in schema_of(values).items():
        if field.part is not None and (value := values[name]) is not None:
            parts_named = value if isinstance(value, tuple) else (value,)
            named += [(name, field.part, part) for part in parts_named]
    return named


def _check_something_trains(values: Mapping[str, Any]) -> None:
    is_aligned = (
        bool(values["alignments"])
        and values.get("latent.enabled", True)
        and values["alignment.weight"] > 0
    )
    weights = {n: v for n, v in values.items() if n.startswith("training.") and "_weight" in n}
    require(
        is_aligned or not weights or any(weights.values()),
        f"{' or '.join(weights)} must be > 0 unless latent.enabled is True and "
        "alignment.weight > 0: nothing would train, got 0.0",
    )
