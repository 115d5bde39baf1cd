"""Inference in a latent space as pure functions of arrays, for `jit`, `grad` and `vmap`.

Each function takes a `LatentSpace` and the `variables`, or the whole `Model`, of a run. Row i of a
result depends only on row i of the inputs and on the noise of its `index`.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lzn_jax import zoning
from lzn_jax.data import Examples
from lzn_jax.data_types import (
    Classifier,
    Condition,
    Context,
    Model,
    Reader,
    Samples,
    context_rows,
)
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import Tree, keys_by_index, normal_by_index

# A sample is far if its misfit exceeds this multiple of this quantile of the context's misfits. The
# networks were trained on the context, so misfits of other samples like it are larger.
MARGIN, NEAR_SHARE = 1.4, 0.99
MEASURED = 500  # examples of the context whose misfits are measured, at each checkpoint

Request = Mapping[str, Any]  # `samples` or `latents` and their `index`, by name
NO_CLASS = -1  # label of a sample without a class


class Predictions(NamedTuple):
    """Classes of n samples, their probabilities under the flow, and which samples are far."""

    classes: np.ndarray
    probabilities: np.ndarray  # in [0, 1]
    far: np.ndarray | None = None  # see `TrainedModel.are_far`; None: unknown


def translate(
    space: LatentSpace,
    model: Model,
    key: PRNGKeyArray,
    noise_scale: Float[Array, ""] | float,
    request: Request,
    source: str | None,
    target: str,
) -> dict[str, Array]:
    """Samples of a type for `samples` of a source, or for the prior without a source (Fig. 1).

    With `latents` in the request, these are decoded. `decode` explains the result.
    """
    latents, index = request.get("latents"), request["index"]
    if latents is None and space.encoders:
        if source is None:
            latents = prior(space, key, index, "prior")
        else:
            latents = encode(space, model, key, noise_scale, request, source)
    return decode(space, model, key, {**request, "latents": latents}, source, target)


def prior(
    space: LatentSpace, key: PRNGKeyArray, index: Int[Array, " b"], name: str
) -> Float[Array, "b q"]:
    """Draws from N(0, I), one for each index. Different names give independent draws."""
    return normal_by_index(key, f"{name}_latents", index, (space.config.latent.dim,))


def encode(
    space: LatentSpace,
    model: Model,
    key: PRNGKeyArray,
    noise_scale: Float[Array, ""] | float,
    request: Request,
    source: str,
) -> Float[Array, "b q"]:
    """Latents of `samples` of a type. Without context anchors of the type, rows are dependent."""
    encoder, samples, index = space.encoders[source], request["samples"], request["index"]
    if isinstance(encoder, Reader):
        is_table = isinstance(encoder, Classifier) and source in space.plan.encoders
        solver = space.alignment_solver if is_table else space.solver
        noise = noise_scale * prior(space, key, index, source)
        keys = keys_by_index(key, f"{source}_members", index)
        return encoder.encode(model, samples, noise, keys, solver)
    rows = {"anchors": encoder.anchors(model.variables, samples), "index": index}
    return draw_latents(space, model.context.get(source), key, noise_scale, rows, source)


def draw_latents(
    space: LatentSpace,
    context: Context | None,
    key: PRNGKeyArray,
    noise_scale: Float[Array, ""] | float,
    request: Mapping[str, Array],
    name: str,
) -> Float[Array, "b q"]:
    """Latents of `anchors` (b, q), each computed among the context anchors (paper §2.2.1).

    Without a context, the anchors themselves cut the zones, and rows depend on each other.
    """
    noise, anchors = noise_scale * prior(space, key, request["index"], name), request["anchors"]
    if context is None:
        return zoning.compute_latents(anchors, noise, solver=space.solver)
    bank, log_weights, *_ = context
    return zoning.latents_in_context(
        anchors, bank, noise, solver=space.solver, log_weights=log_weights
    )


def cuts_zones(space: LatentSpace, model: Model, source: str) -> bool:
    """Whether samples that are encoded together cut the zones, for lack of context anchors."""
    encoder: Any = space.encoders.get(source)
    is_network = encoder is not None and not isinstance(encoder, Reader)
    return is_network and source not in model.context


def decode(
    space: LatentSpace,
    model: Model,
    key: PRNGKeyArray,
    request: Request,
    source: str | None,
    target: str,
) -> dict[str, Array]:
    """Samples of a type for `latents`, which come from `samples` of a source (paper §3.1, §5.1).

    A decoder's result also contains the classes of the latents (E.3) and the indices of the context
    anchors used for its condition, each under the plural of its type. Source samples that are
    classes or the decoder's condition are returned as given.
    """
    latents = request["latents"]
    if target not in space.decoders:
        return predict(space, model, latents, target)
    decoder, known = space.decoders[target], {}
    if latents is not None:
        known = classes_of(space, model, latents)
    if source is not None and (source == decoder.condition or space.types[source].has_classes):
        known[source] = request["samples"]
    given = {"latents": latents, "samples": known}
    further, zones = condition(space, model, given, decoder.condition)
    own = latents if decoder.sources else None
    generated = decoder.generate(model.variables, key, (own, further), request["index"])
    named = {space.types[name].plural: values for name, values in known.items()}
    return generated | named | zones


def with_contexts(space: LatentSpace, variables: Tree, train: Examples) -> Model:
    """Model with the contexts of training examples and, where decoders measure it, their limits."""
    model, limits = Model(variables, space.context(variables, train)), {}
    for name in space.measured:
        encoder = space.encoders[name]
        size = min(encoder.context_size, MEASURED)
        rows = context_rows(encoder.seed, len(train.labels), size)
        request = {"samples": encoder.samples(train)[rows], "index": rows}
        call = functools.partial(space.jitted(misfits, ("source",)), model, source=name)
        found = space.in_batches(call, request, description=f"misfits of {name}s")
        limits[name] = jnp.float32(MARGIN * np.quantile(found, NEAR_SHARE))
    limited = {n: c._replace(limit=limits.get(n)) for n, c in model.context.items()}
    return model._replace(context=limited)


def misfits(space: LatentSpace, model: Model, request: Request, source: str) -> Float[Array, " b"]:
    """Error of the type's decoder on `samples`, given the centres of their zones.

    Small for samples like the training data, whose zones the decoder knows.
    """
    decoder, key = space.decoders[source], jax.random.key(0)
    latents = encode(space, model, key, 0.0, request, source)
    given = {"latents": latents, "samples": classes_of(space, model, latents)}
    further, _ = condition(space, model, given, decoder.condition)
    inputs = latents if decoder.sources else None, further
    return decoder.misfits(model.variables, request["samples"], inputs)


def classes_of(
    space: LatentSpace, model: Model, latents: Float[Array, "b q"]
) -> dict[str, Int[Array, " b"]]:
    """Classes of latents, by the types that classify."""
    classifiers = [n for n, each in space.encoders.items() if isinstance(each, Classifier)]
    return {n: predict(space, model, latents, n)["classes"] for n in classifiers}


def predict(
    space: LatentSpace, model: Model, latents: Float[Array, "b q"], target: str
) -> dict[str, Array]:
    """`classes` (b,) of latents and their `probabilities` under the flow (paper §5.1)."""
    return space.encoders[target].predict(model, latents, space.alignment_solver)


def class_probabilities(
    space: LatentSpace, model: Model, latents: Float[Array, "b q"], target: str
) -> Float[Array, "b c"]:
    """Probabilities of all classes under the flow. Rows sum to 1."""
    return space.encoders[target].class_probabilities(model, latents, space.alignment_solver)


def condition(
    space: LatentSpace, model: Model, request: Request, name: str | None
) -> tuple[Array | None, dict[str, Array]]:
    """Condition (b, d) of a decoder on a type, and indices of the context anchors used for it.

    With `samples` of the type in the request, the condition follows from these. Otherwise it is the
    context anchor whose zone contains the latent. If the class is known, only context anchors of
    this class are candidates. The indices are then returned under the type's plural.
    """
    if name is None:
        return None, {}
    data_type, latents, samples = space.types[name], request["latents"], request["samples"]
    if name in samples:
        return data_type.condition_of(model.variables, samples[name]), {}
    if name not in model.context:
        raise UserError(f"the decoder is conditioned on {data_type.plural}: pass a {name} for each")
    zones = zone_in_context(space, model, latents, name, samples)
    return model.context[name].anchors[zones], {data_type.plural: zones}


def zone_in_context(
    space: LatentSpace,
    model: Model,
    latents: Float[Array, "b q"],
    name: str,
    samples: Mapping[str, Array],
) -> Int[Array, " b"]:
    """Index of the type's context anchor whose zone contains each latent.

    With `samples` of types that classify, only anchors of the same classes are candidates. If no
    anchor is of these classes, all anchors are candidates.
    """
    solver, (anchors, log_weights, *_) = space.alignment_solver, model.context[name]
    labels = {n: s for n, s in samples.items() if isinstance(space.encoders.get(n), Classifier)}
    if not labels:
        return zoning.classify(latents, anchors, solver=solver, log_weights=log_weights)
    centres = zoning.compute_latents(
        anchors, jnp.zeros_like(anchors), solver=space.solver, log_weights=log_weights
    )
    is_candidate = jnp.ones((len(latents), len(anchors)), bool)
    for other, values in labels.items():
        is_candidate &= values[:, None] == predict(space, model, centres, other)["classes"]
    is_candidate = jnp.where(jnp.any(is_candidate, axis=1, keepdims=True), is_candidate, True)
    weights = jnp.zeros(len(anchors)) if log_weights is None else log_weights

    def one(latent: Array, log_weights: Array) -> Array:
        return zoning.classify(latent[None], anchors, solver=solver, log_weights=log_weights)[0]

    return jax.vmap(one)(latents, jnp.where(is_candidate, weights, -jnp.inf))


def through_flow(
    space: LatentSpace, variables: Tree, request: tuple[Samples, Condition], target: str, task: str
) -> Tree:
    """Result of a decoder's `invert`, `render` or `reconstruct` (see `Invertible`).

    The request is (samples or noise, condition).
    """
    return getattr(space.decoders[target], task)(variables, *request)


def features(
    space: LatentSpace, variables: Tree, samples: Array, source: str
) -> dict[str, Float[Array, "b d"]]:
    """Features of samples by name."""
    return space.encoders[source].features(variables, samples)
