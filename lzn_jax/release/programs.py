"""Tasks of a trained run as programs of arrays, exported to StableHLO by `jax.export`.

A program takes the run's tensors by name, then its inputs by name, and returns a dict of arrays.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array

from lzn_jax import inference
from lzn_jax.data_types import Reader
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.trained_model import TrainedModel

PLATFORMS = ("cpu", "cuda", "tpu")

Inputs = Mapping[str, Any]


class Program(NamedTuple):
    """A task as the pure function `function(model, inputs) -> outputs by name`.

    Attributes:
      description: what it computes, in words.
      function: the task.
      rows: shape and dtype of one row of each input that has a batch axis.
      scalars: defaults of the other inputs, NumPy scalars.
      batch_size: the only batch size, if rows depend on each other; None: any.
    """

    description: str
    function: Callable[[Model, Inputs], dict[str, Array]]
    rows: dict[str, jax.ShapeDtypeStruct]
    scalars: dict[str, np.generic]
    batch_size: int | None


def programs(trained: TrainedModel) -> dict[str, Program]:
    """Programs of all tasks that the run supports, by name."""
    space, main, class_type = trained.space, trained.main_type, trained.class_type
    made: dict[str, Program] = {}

    def add(
        task: str, what: str, function: Any, source: str | None, is_drawn: bool = True, **more: Any
    ) -> None:
        rows, scalars, batch_size = {}, {}, None
        if source is not None:
            rows[space.types[source].output] = space.types[source].encoded_shape()
            if not _has_independent_rows(trained, source):
                batch_size = trained.config.training.batch_size
        if is_drawn:
            rows["index"] = jax.ShapeDtypeStruct((), jnp.int32)
            scalars["seed"] = np.uint32(trained.config.seed)
        if "noise_scale" in more:
            scalars["noise_scale"] = np.float32(more.pop("noise_scale"))
        function = functools.partial(function, space, source=source, **more)
        made[task] = Program(what, function, rows, scalars, batch_size)

    for name, encoder in space.encoders.items():
        scale = trained.config.latent.noise_scale
        plural = space.types[name].plural
        add(f"encode_{name}", f"latents of {plural}", _encode, name, noise_scale=scale)
        if hasattr(encoder, "features"):
            add(f"embed_{name}", f"features of {plural}", _embed, name, is_drawn=False)
    for source, target in trained.translations:
        plural, to = (space.types[name].plural for name in (source, target))
        if target == class_type:
            what = f"classes of {plural}, at the centres of their zones"
            add(f"classify_{source}", what, _classify, source, is_drawn=False, target=target)
        scale, what = trained.default_scale(source, target), f"{to} of {plural}"
        add(f"translate_{source}_{target}", what, _decode, source, noise_scale=scale, target=target)
    for name in space.decoders:
        source = class_type if name == main else None
        what = f"random {space.types[name].plural}" + (" of given classes" if source else "")
        add(f"sample_{name}", what, _decode, source, target=name)
    return made


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
    request = {"samples": samples, "index": jnp.arange(len(samples))}
    # At α = 0 the noise has no effect.
    latents = inference.encode(space, model, jax.random.key(0), 0.0, request, source)
    return inference.predict(space, model, latents, target)


def _decode(
    space: LatentSpace, model: Model, inputs: Inputs, source: str | None, target: str
) -> dict[str, Array]:
    """Samples of the target, from the prior if there is no source (α = 1 without a noise scale)."""
    key, index = jax.random.key(inputs["seed"]), inputs["index"]
    request: dict[str, Any] = {"index": index, "latents": None}
    samples = None if source is None else inputs[space.types[source].output]
    if space.encoders and source is None:
        request["latents"] = inference.prior(space, key, index, "prior")
    elif space.encoders:
        encoded = {"samples": samples, "index": index}
        scale = inputs.get("noise_scale", 1.0)
        request["latents"] = inference.encode(space, model, key, scale, encoded, source)
    if inference.reads_samples(space, source, target):
        request["samples"] = samples
    decoded = inference.decode(space, model, key, request, source, target)
    if target not in space.decoders:
        return decoded
    output = space.types[target].output
    return {output: decoded[output]}


def tensors(model: Model) -> dict[str, Any]:
    """Variables and context anchors by name, such as `variables/encoder/params/Dense_0/kernel`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def exported(program: Program, model: Model) -> export.Exported:
    """The program lowered for `PLATFORMS`, with a symbolic batch size if rows are independent.

    Raises NotImplementedError or ValueError for what `jax.export` refuses, such as Python callbacks.
    """
    structure = jax.tree.structure(model)
    shapes = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in tensors(model).items()}

    def call(tensors: Mapping[str, Array], **inputs: Array) -> dict[str, Array]:
        weights = structure.unflatten([tensors[name] for name in shapes])
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
    } | {name: jax.ShapeDtypeStruct((), value.dtype) for name, value in program.scalars.items()}
    return export.export(jax.jit(call), platforms=PLATFORMS)(shapes, **inputs)
