"""The schema of a config: the fields of every run and the fields of the parts that it names.

Parts are data types, data set, networks, solvers, alignments and measurements.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lzn_jax import parts
from lzn_jax.parts import (
    REQUIRED,
    Field,
    amount,
    choice,
    count,
    count_or_0,
    flag,
    positive,
    share_below_1,
    word,
    words,
)  # fmt: skip

# Defaults are those of most of the paper's experiments, or have no effect.
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
    "training.batch_size": count("examples per update, over all devices"),
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
    "training.warmup_steps": count_or_0("updates of linear warm-up", 5000),
    "training.schedule": choice("learning rate after warm-up", "constant", "cosine"),
    "training.gradient_clip": positive("global norm to which gradients are clipped", 1.0),
    "training.ema_decay": share_below_1("decay of the averaged weights"),
    "training.compute_dtype": choice("dtype inside the networks", "float32", "bfloat16"),
    "training.log_every_steps": count("updates between logged metrics", 100),
    "checkpoint.every_steps": count("updates between checkpoints", 1000),
    "checkpoint.keep": count("checkpoints kept", 2),
    "evaluation.every_steps": count("updates between evaluations"),
    "evaluation.measurements": words(
        "measurements in addition to those of the data types", (), part="measurement"
    ),
    "evaluation.measurements_of_types": flag(
        "whether to run the measurements of the data types and draw the tasks", True
    ),
    # Public trainings of U-Nets reach about 12 % of an H100's peak, of ResNet-50 15 to 40 %.
    "reporting.assumed_mfu": Field(
        float, "share of the chips' peak that --mode=compile assumes", 0.15, above=0, maximum=1
    ),
    "reporting.original_gpu_hours": amount(
        "A100 hours of the original's run, shown by --mode=compile, None = unknown", None
    ),
    "reporting.profile_steps": word(
        "A:B traces the updates from A to B - 1 with jax.profiler, None = none", None
    ),
    "reporting.wandb_project": word("Weights & Biases project, None = no logging there", None),
}
_ALIGNED = {
    "alignment.solver": word("solver of the flow from latents to zones", "euler", part="solver"),
    "alignment.num_steps": count("solver steps of the flow from latents to zones"),
    "alignment.cutoff": share_below_1("share of the flow's first steps left out of the loss", 0.2),
    "alignment.form": word("form of the loss", "log", part="alignment"),
    "alignment.noise_scale": amount("α of the aligned latents, None = as in generation", None),
    "alignment.weight": amount("weight of the alignment loss", 1.0),
}
# One type alone trains nothing else: without this loss there is nothing to train.
_ALIGNED_VIEWS = {"alignment.weight": positive("weight of the alignment loss", 1.0)}
# Fields that name a part whose fields are added to the schema -> kind of the part.
_SELECTORS = {
    "data.name": "data",
    "encoder.name": "encoder",
    "decoder.name": "decoder",
    "latent.solver": "solver",
    "alignment.solver": "solver",
    "alignment.form": "alignment",
}


def schema_of(values: Mapping[str, Any]) -> dict[str, Field]:
    """The fields of a config by dotted name, including those of the parts that it names."""
    preset = _preset(values.get("study"))
    types, alignments = (
        _tuple(values.get(name, preset.get(name))) for name in ("types", "alignments")
    )
    fields = {**_EVERY_RUN}
    if alignments or len(types) > 1:
        fields |= _ALIGNED | (_ALIGNED_VIEWS if len(types) == 1 else {})
    space = {**values, "types": types, "alignments": alignments}
    for name in types:
        fields |= parts.fields("type", name, space)
    for selector, kind in _SELECTORS.items():
        if selector in fields:
            name = values.get(selector, fields[selector].default)
            fields |= parts.fields(kind, str(name), space)
    for name in _tuple(values.get("evaluation.measurements")):
        fields |= parts.fields("measurement", name, space)
    for name, value in preset.items():
        if name in fields:
            is_optional = fields[name].takes_none
            fields[name] = dataclasses.replace(fields[name], default=value, optional=is_optional)
    return {name: _with_choices(name, field, types) for name, field in fields.items()}


def groups() -> set[str]:
    """All config groups, including those of all registered parts."""
    named = {*_EVERY_RUN, *_ALIGNED}
    for preset in ({}, *map(_preset, parts.names("study"))):
        space = {"types": (), "alignments": (), **preset}
        for kind in ("type", "measurement", *_SELECTORS.values()):
            for name in parts.names(kind):
                named |= parts.fields(kind, name, space).keys()
    return {name.rpartition(".")[0] for name in named} - {""}


def with_defaults(values: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The values by dotted name, with defaults for missing fields."""
    defaults = {n: field.default for n, field in fields.items() if field.default is not REQUIRED}
    return defaults | dict(values)


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
