"""Tasks of a trained run as programs of arrays, exported to StableHLO by `jax.export`.

A program takes the run's tensors by name, then its inputs by name, and returns a dict of arrays.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array

from lzn_jax import inference
from lzn_jax.data_types import Reader
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.release.safetensors_files import by_name
from lzn_jax.trained_model import TrainedModel

PLATFORMS = ("cpu", "cuda", "tpu")
MANIFEST = "manifest.json"  # describes the programs of an export
_LOCATIONS = "jax_traceback_in_locations_limit"
_SCALARS = {"seed": jnp.uint32, "noise_scale": jnp.float32}

Inputs = Mapping[str, Any]


class Program(NamedTuple):
    """A task as the pure function `function(model, inputs) -> outputs by name`.

    Attributes:
      description: what it computes, in words.
      function: the task.
      rows: shape and dtype of one row of each input that has a batch axis.
      scalars: defaults of the other inputs, `seed` and `noise_scale`.
      batch_size: the only batch size, if rows depend on each other; None: any.
    """

    description: str
    function: Callable[[Model, Inputs], dict[str, Array]]
    rows: dict[str, jax.ShapeDtypeStruct]
    scalars: dict[str, float]
    batch_size: int | None


def programs(trained: TrainedModel) -> dict[str, Program]:
    """Programs of all tasks that the run supports, by name."""
    space, main, class_type = trained.space, trained.main_type, trained.class_type
    plural = {name: each.plural for name, each in space.types.items()}
    program = functools.partial(_program, trained)
    scale = trained.config.latent.noise_scale if space.encoders else None
    made = {
        f"encode_{name}": program(f"latents of {plural[name]}", _encode, name, noise_scale=scale)
        for name in space.encoders
    }
    if hasattr(space.encoders.get(main), "features"):
        what = f"features of {plural[main]}"
        made[f"embed_{main}"] = program(what, _embed, main, is_drawn=False)
    for source, target in trained.translations:
        if target == class_type:
            what = f"classes of {plural[source]} at the centres of their zones"
            classify = program(what, _classify, source, is_drawn=False, target=target)
            made[f"classify_{source}"] = classify
        what, scale = f"{plural[target]} of {plural[source]}", trained.default_scale(source, target)
        translate = program(what, _decode, source, noise_scale=scale, target=target)
        made[f"translate_{source}_{target}"] = translate
    for name in space.decoders:
        given = class_type if name == main else None
        what = f"{plural[name]} of {plural[given] if given else 'the prior'}"
        scale = trained.default_scale(given, name) if given else 1.0
        made[f"sample_{name}"] = program(what, _decode, given, target=name, scale=scale)
    return made


def _program(
    trained: TrainedModel,
    description: str,
    function: Callable[..., dict[str, Array]],
    source: str | None,
    is_drawn: bool = True,
    noise_scale: float | None = None,
    **static: Any,
) -> Program:
    rows, scalars, batch_size = {}, {}, None
    if source is not None:
        data_type = trained.space.types[source]
        rows[data_type.output] = data_type.encoded_shape()
        if function is not _embed and not _has_independent_rows(trained, source):
            batch_size = trained.config.training.batch_size
    if is_drawn:
        rows["index"] = jax.ShapeDtypeStruct((), jnp.int32)
        scalars["seed"] = trained.config.seed
    if noise_scale is not None:
        scalars["noise_scale"] = noise_scale
    bound = functools.partial(function, trained.space, source=source, **static)
    return Program(description, bound, rows, scalars, batch_size)


def _has_independent_rows(trained: TrainedModel, source: str) -> bool:
    """Whether zones are cut by context anchors or a table, not by the samples of the batch."""
    encoder = trained.space.encoders.get(source)
    if encoder is None or isinstance(encoder, Reader):
        return True
    return encoder.anchors_key in trained.model.context


def _encode(space: LatentSpace, model: Model, inputs: Inputs, source: str) -> dict[str, Array]:
    request = {"samples": inputs[space.types[source].output], "index": inputs["index"]}
    key = jax.random.key(inputs["seed"])
    return {"latents": inference.encode(space, model, key, inputs["noise_scale"], request, source)}


def _embed(space: LatentSpace, model: Model, inputs: Inputs, source: str) -> dict[str, Array]:
    samples = inputs[space.types[source].output]
    return inference.features(space, model.variables, samples, source)


def _classify(
    space: LatentSpace, model: Model, inputs: Inputs, source: str, target: str
) -> dict[str, Array]:
    samples = inputs[space.types[source].output]
    # At α = 0 the noise has no effect.
    request = {"samples": samples, "index": jnp.zeros(len(samples), int)}
    latents = inference.encode(space, model, jax.random.key(0), 0.0, request, source)
    return inference.predict(space, model, latents, target)


def _decode(
    space: LatentSpace,
    model: Model,
    inputs: Inputs,
    source: str | None,
    target: str,
    scale: float = 1.0,
) -> dict[str, Array]:
    """Samples of the target, from the prior if there is no source; `scale` is the default α."""
    key, index = jax.random.key(inputs["seed"]), inputs["index"]
    request: dict[str, Any] = {"index": index, "latents": None}
    samples = None if source is None else inputs[space.types[source].output]
    if space.encoders and source is None:
        request["latents"] = inference.prior(space, key, index, "prior")
    if space.encoders and source is not None:
        encoded = {"samples": samples, "index": index}
        alpha = inputs.get("noise_scale", scale)
        request["latents"] = inference.encode(space, model, key, alpha, encoded, source)
    if inference.reads_samples(space, source, target):
        request["samples"] = samples
    decoded = inference.decode(space, model, key, request, source, target)
    if target not in space.decoders:
        return decoded
    output = space.types[target].output
    return {output: decoded[output]}


def exported(program: Program, model: Model) -> export.Exported:
    """The program lowered for `PLATFORMS`, with a symbolic batch size if rows are independent.

    Raises NotImplementedError or ValueError for what JAX cannot export, such as Python callbacks.
    """
    structure = jax.tree.structure(model)
    shapes = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in by_name(model).items()}

    def call(tensors: Mapping[str, Array], **inputs: Array) -> dict[str, Array]:
        weights = jax.tree.unflatten(structure, [tensors[name] for name in shapes])
        if program.batch_size is not None:
            return program.function(weights, inputs)
        scalars = {name: inputs[name] for name in program.scalars}

        # One row at a time, since functions may need the size of the batch as a number.
        def one(rows: Mapping[str, Array]) -> dict[str, Array]:
            batch = jax.tree.map(lambda a: a[None], rows)
            outputs = program.function(weights, {**batch, **scalars})
            return jax.tree.map(lambda a: a[0], outputs)

        return jax.vmap(one)({name: inputs[name] for name in program.rows})

    (symbol,) = export.symbolic_shape("b")
    size = program.batch_size or symbol
    inputs = {
        name: jax.ShapeDtypeStruct((size, *row.shape), row.dtype)
        for name, row in program.rows.items()
    } | {name: jax.ShapeDtypeStruct((), _SCALARS[name]) for name in program.scalars}
    with _without_locations():
        return export.export(jax.jit(call), platforms=PLATFORMS)(shapes, **inputs)


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Context in which programs hold no paths of source files, which name folders of the user."""
    limit = getattr(jax.config, _LOCATIONS)
    jax.config.update(_LOCATIONS, 0)
    try:
        yield
    finally:
        jax.config.update(_LOCATIONS, limit)
