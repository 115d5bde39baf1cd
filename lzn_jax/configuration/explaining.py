"""A config as text: every field with its value and meaning."""

import ml_collections

from lzn_jax.configuration.reading import flatten, nest
from lzn_jax.configuration.schema import schema_of


def explain(config: ml_collections.ConfigDict) -> str:
    """One line per field: name = value  # meaning; a star marks values that are not the default."""
    values = flatten(config.to_dict())
    fields = flatten(nest(schema_of(values)))  # in the schema's order, by group
    lines = ["* differs from its default, or has none"]
    for name, field in fields.items():
        mark = " " if values[name] == field.default else "*"
        lines.append(f"{mark} {f'{name} = {values[name]!r}':<44}  # {field.help}")
    return "\n".join(lines)
