"""Whether a config's values are what their fields take, by themselves and together."""

import dataclasses
import difflib
import math
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lzn_jax.configuration.errors import UserError
from lzn_jax.configuration.schema import FROM_IMAGES, Field, schema_of, with_defaults


def validated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in canonical types, in the schema's order; raises UserError at the first fault."""
    fields = schema_of(values)
    values = with_defaults(values, fields)
    result = {n: checked(n, values[n], field) for n, field in fields.items() if n in values}
    extra = [name for name in values if name not in fields]
    for name, field in fields.items():
        if name not in values:
            raise UserError(_missing(name, field, extra))
    if extra:
        raise UserError(unknown(extra[0], fields))
    if all(result.get(name, 0) is not None for name in FROM_IMAGES):
        _check_across(result)
    return result


def _missing(name: str, field: Field, extra: Sequence[str]) -> str:
    message = f"the config lacks the field {name} ({field.help}): {_expected(field)}"
    near = difflib.get_close_matches(name, extra, n=1, cutoff=0.8)
    return f"{message}; it holds {near[0]}, which is no field" if near else message


# What people call a field elsewhere.
_ELSEWHERE = {"epochs": "num_steps", "iterations": "num_steps", "alpha": "noise_scale"}


def unknown(name: str, fields: Iterable[str]) -> str:
    """Message for an unknown field: it names the nearest field, or all of the nearest group."""
    fields = list(fields)
    groups = {field.rpartition(".")[0] for field in fields}
    small_groups = sorted(group for group in groups if "." in group)
    nearest = max([*fields, *small_groups], key=lambda known: _closeness(name, known))
    if nearest in fields:
        return f"the config holds no field {name}; the nearest is {nearest}"
    members = ", ".join(field for field in fields if field.startswith(f"{nearest}."))
    return f"the config holds no field {name}; the nearest are {members}"


def _closeness(name: str, known: str) -> tuple[float, float]:
    """How near two names are, by letters, by words (steps, num_steps) or by initials (lr)."""
    asked, leaf = name.rpartition(".")[2], known.rpartition(".")[2]
    words = leaf.split("_")
    whole = difflib.SequenceMatcher(None, name, known).ratio()
    letters = difflib.SequenceMatcher(None, asked, leaf).ratio()
    is_meant = _ELSEWHERE.get(asked) == leaf or (
        len(words) > 1 and asked == "".join(word[0] for word in words)
    )
    by_meaning = 1.0 if is_meant else 0.9 * (set(asked.split("_")) <= set(words))
    return max(whole, letters, by_meaning), whole


def checked(name: str, value: Any, field: Field) -> Any:
    """`value` in the field's type: integers as floats, lists as tuples where those are meant.

    Raises UserError for a value that the field does not take.
    """
    if (value is None and field.takes_none) or (isinstance(value, str) and value in field.words):
        return value
    result = converted(value, field.kind, field.item)
    if result is None or not _in_range(result, field):
        raise UserError(f"{name} must be {_expected(field)}, got {' '.join(repr(value).split())}")
    return result


def converted(value: Any, kind: type, item: type) -> Any:
    """`value` as the type `kind`, a tuple of `item`s; None where it is not of that type."""
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
    """What bounds a field's values: the relation in words and as a function, and the limit."""
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
    """What a value of the field must be, in words."""
    choices = ", ".join(map(repr, field.choices))
    if field.kind is tuple:
        items = choices or {int: "integers", float: "finite numbers"}[field.item]
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
    """Raises UserError where fields that are right by themselves do not go together."""
    for flow in ("latent", "alignment"):
        got = values.get(f"{flow}.num_steps", math.inf)
        _require(
            values.get(f"{flow}.solver") != "dpm" or got >= 3,
            f"{flow}.num_steps must be an integer >= 3 with {flow}.solver 'dpm', got {got}",
        )
    batch_size, size = values["training.batch_size"], values["training.microbatch_size"]
    _require(
        size is None or batch_size % size == 0,
        f"training.microbatch_size must divide training.batch_size {batch_size}, got {size}",
    )
    count = values.get("training.queries")
    _require(
        count is None or batch_size % count == 0,
        f"training.queries must divide training.batch_size {batch_size}, got {count}",
    )
    _require(
        None in (count, size) or count <= size or count % size == 0,
        f"training.microbatch_size must divide training.queries {count}, got {size}",
    )
    for network in ("encoder", "decoder"):
        if check := _NETWORK_CHECKS.get(values.get(f"{network}.name", "")):
            check(values, network)
    _check_space(values)
    if "image:image" in values["alignments"]:
        _check_blur(values)
        return
    _check_flow(values)
    if "decoder.energy_weight" in values:
        _check_one_pass(values)
    for name, check_type in {"label": _check_classes, "text": _check_text}.items():
        if name in values["types"]:
            check_type(values)


def _check_space(values: Mapping[str, Any]) -> None:
    """What is aligned, told or decoded is among the types."""
    types, alignments = values["types"], values["alignments"]
    _require("image" in types, f"types must hold 'image', got {types}")
    _require(len(set(types)) == len(types), f"types must differ, got {types}")
    named = {f"alignment {pair}": pair.split(":") for pair in alignments}
    named["decoder.told"] = [values["decoder.told"]] if values.get("decoder.told") else []
    named |= {name: values.get(name, ()) for name in ("decoder.latents", "text_decoder.latents")}
    for name, used in named.items():
        for each in used:
            _require(each in types, f"{name} needs {each!r} among types, got {types}")
    is_alone = types == ("image",) and alignments == ("image:image",)
    _require(
        "image:image" not in alignments or is_alone,
        f"alignment image:image must be the only one of images alone, got {alignments} of {types}",
    )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)


def _check_flow(values: Mapping[str, Any]) -> None:
    _require(
        not values.get("decoder.scale_by_sigma") or values["decoder.time_embedding"] == "fourier",
        "decoder.scale_by_sigma must be False unless decoder.time_embedding is 'fourier', got True",
    )


def _check_one_pass(values: Mapping[str, Any]) -> None:
    """There are latents to decode, samples to compare, and patches in an image."""
    for name in ("latent.enabled", "decoder.latents"):
        _require(bool(values[name]), f"a decoder in one pass needs {name}, got {values[name]}")
    name = "training.batch_size" if values["training.queries"] is None else "training.queries"
    _require(values[name] >= 2, f"{name} must be >= 2 for an energy distance, got {values[name]}")
    side, size = values["data.image_size"], values["decoder.energy_patch_size"]
    _require(
        size <= side, f"decoder.energy_patch_size must be <= data.image_size {side}, got {size}"
    )


def _check_classes(values: Mapping[str, Any]) -> None:
    """There are classes, and something trains: generation, alignment or both."""
    is_aligned = any("label" in pair.split(":") for pair in values["alignments"])
    _require(
        is_aligned or not values["latent.enabled"] or values["latent.context_size"] > 0,
        "latent.context_size must be > 0 where nothing is aligned with labels, got 0: zones of "
        "classes are those of their images",
    )
    _require(
        values["data.num_classes"] >= 2,
        "data.num_classes must be an integer >= 2 in the joint study, got 1: a folder has a class "
        "for each of its class folders",
    )
    aligned = values["latent.enabled"] and values["alignment.weight"] > 0
    _require(
        aligned or values["training.generation_weight"] > 0,
        "training.generation_weight must be > 0 unless latent.enabled is True and "
        "alignment.weight > 0: nothing would train, got 0.0",
    )


def _check_text(values: Mapping[str, Any]) -> None:
    """There are texts and all that is measured of them; heads of attention share a width evenly."""
    _require(values.get("data.captions", False), "data.captions must be True for texts, got False")
    _require(values["latent.enabled"], "latent.enabled must be True with texts, got False")
    weights = values["training.generation_weight"], values["training.text_weight"]
    _require(
        min(weights) > 0 or (max(weights) == 0 and values["alignment.weight"] > 0),
        "training.generation_weight and training.text_weight must both be > 0, or both 0 to train "
        f"zones alone by an alignment.weight > 0, got {weights[0]} and {weights[1]}",
    )
    _require(
        values["data.tokenizer_path"] is None or values["text.alphabet"] is None,
        f"text.alphabet must be None with data.tokenizer_path, got {values['text.alphabet']!r}",
    )
    for name in ("decoder.latents", "text_decoder.latents"):
        _require(bool(values[name]), f"{name} must name a type with texts, got ()")
    _require(values["text.alphabet"] != "", "text.alphabet must be None or hold characters, got ''")
    for network in ("text_encoder", "text_decoder"):
        width, heads = values[f"{network}.features"], values[f"{network}.num_heads"]
        _require(
            width % heads == 0,
            f"{network}.num_heads must divide {network}.features {width}, got {heads}",
        )


def _check_blur(values: Mapping[str, Any]) -> None:
    """The kernel has a centre, and its reflections stay inside the image."""
    kernel, most = values["augmentation.blur_kernel"], 2 * values["data.image_size"] - 1
    _require(
        kernel % 2 == 1 and kernel <= most,
        f"augmentation.blur_kernel must be odd and at most {most}, twice data.image_size less one, "
        f"got {kernel}",
    )


def _check_resolutions(values: Mapping[str, Any], network: str) -> None:
    """Patches divide the image, and each level halves the one before it, without a remainder."""
    side, patch = values["data.image_size"], values[f"{network}.patch_size"]
    _require(
        side % patch == 0, f"{network}.patch_size must divide data.image_size {side}, got {patch}"
    )
    size, multipliers = side // patch, values[f"{network}.channel_multipliers"]
    most = (size & -size).bit_length()
    _require(
        len(multipliers) <= most,
        f"{network}.channel_multipliers must have at most {most} entries, one for each halving of "
        f"the {size} patches of an image's side and one more, got {multipliers}",
    )
    widths = [size >> level for level in range(len(multipliers))]
    for name in (f"{network}.attention_resolutions", f"{network}.tap_resolutions"):
        resolutions = values.get(name) or ()
        _require(
            set(resolutions) <= set(widths),
            f"{name} must hold widths of {network} feature maps, "
            f"which are {', '.join(map(str, widths))}, got {resolutions}",
        )


def _check_widths(values: Mapping[str, Any], network: str) -> None:
    """Stages agree in number, groups divide every width, and the head gives latents."""
    group = {name.rpartition(".")[2]: values[name] for name in values if name.startswith(network)}
    count, widths, groups = len(group["stage_sizes"]), group["stage_widths"], group["norm_groups"]
    _require(
        len(widths) == count,
        f"{network}.stage_widths must have {count} entries, one for each of "
        f"{network}.stage_sizes, got {widths}",
    )
    # With selective kernels the stem has layers of half its width.
    halves = 2 if group["selective_kernel_ratio"] > 0 else 1
    divisors = {"stem_width": groups * halves, "stage_widths": groups, "head_dim": groups}
    for name, divisor in divisors.items():
        got = group[name]
        _require(
            all(width % divisor == 0 for width in (got if isinstance(got, tuple) else (got,))),
            f"{network}.{name} must be a multiple of {divisor}, as {network}.norm_groups is "
            f"{groups}, got {got}",
        )
    dim, got = values["latent.dim"], group["head_dim"]
    _require(got == dim, f"{network}.head_dim must be latent.dim {dim}, got {got}")


_NETWORK_CHECKS = {
    "ncsnpp": _check_resolutions,
    "direct": _check_resolutions,
    "resnet": _check_widths,
}
