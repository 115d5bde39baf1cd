"""Presets of the paper's studies, and measurements of the package's types by name."""

from lzn_jax import parts

for _name, _function in (
    ("representations", "representation:measure"),
    ("classification", "classification:measure"),
    ("samples", "samples:measure"),
    ("reconstruction", "samples:measure_reconstruction"),
    ("texts", "texts:measure"),
):
    # Imported by evaluations.
    parts.add("measurement", _name, f"lzn_jax.evaluation.{_function}", owner=__name__)
parts.add("figure", "tasks", "lzn_jax.evaluation.tasks:draw", owner=__name__)


def _study(
    name: str, types: tuple[str, ...], *alignments: str, **decoder: str | tuple[str, ...]
) -> None:
    conditions = {f"decoder.{field}": value for field, value in decoder.items()}
    fields = {"types": types, "alignments": alignments, **conditions}
    parts.add("study", name, fields, owner=__name__)


_study("generation", ("image",))
_study("alone", ("image", "label"))  # without alignment, a label is a set of zones of images
_study("representation", ("image",), "image:image")
_study("joint", ("image", "label"), "image:label", condition="label")
_study(
    "pairs", ("image", "text"), "image:text", "text:image",
    condition="text", sources=("text", "image"),
)  # fmt: skip
_study(
    "text", ("image", "label", "text"), "image:text", "image:label", "text:label",
    condition="text", sources=("text", "image"),
)  # fmt: skip
