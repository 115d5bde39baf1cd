"""Inference in a latent space as pure functions of arrays, for `jit`, `grad` and `vmap`.

Each function takes a `LatentSpace` and the `variables`, or the whole `Model`, of a run. Row i of a
result depends only on row i of the inputs and on the noise of its `index`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lzn_jax import zoning
from lzn_jax.data_types import Classifier, Reader
from lzn_jax.latent_space import LatentSpace, Model, encoded_anchors
from lzn_jax.models import keys_by_index, normal_by_index

NO_CLASS = -1  # label of a sample without a class


class Predictions(NamedTuple):
    """Classes of n samples and the probability of each under the flow, in [0, 1]."""

    classes: np.ndarray
    probabilities: np.ndarray


def prior(
    space: LatentSpace, key: PRNGKeyArray, index: Int[Array, " b"], name: str
) -> Float[Array, "b q"]:
    """Draws from N(0, I), one for each index; different names give independent draws."""
    return normal_by_index(key, f"{name}_latents", index, (space.config.latent.dim,))


def latents(
    space: LatentSpace,
    context: Float[Array, "c q"] | None,
    key: PRNGKeyArray,
    noise_scale: Float[Array, ""] | float,
    request: Mapping[str, Array],
    name: str,
) -> Float[Array, "b q"]:
    """Latents of `anchors` (b, q), each computed among the context anchors (paper §2.2.1).

    Without context the anchors cut the zones themselves, and rows depend on each other.
    """
    noise, anchors = noise_scale * prior(space, key, request["index"], name), request["anchors"]
    if context is None:
        return zoning.compute_latents(anchors, noise, solver=space.solver)
    return zoning.latents_in_context(anchors, context, noise, solver=space.solver)


def encode(
    space: LatentSpace,
    model: Model,
    key: PRNGKeyArray,
    noise_scale: Float[Array, ""] | float,
    request: Mapping[str, Any],
    source: str,
) -> Float[Array, "b q"]:
    """Latents of `samples` of a type; without context anchors of the type, rows are dependent."""
    encoder, samples, index = space.encoders[source], request["samples"], request["index"]
    if isinstance(encoder, Reader):
        noise = noise_scale * prior(space, key, index, source)
        keys = keys_by_index(key, f"{source}_members", index)
        return encoder.latents(model, samples, noise, keys, _solver_of(space, source))
    anchors = encoded_anchors(space, model.variables, samples, source)
    rows, context = {"anchors": anchors, "index": index}, model.context.get(encoder.anchors_key)
    return latents(space, context, key, noise_scale, rows, source)


def cuts_zones(space: LatentSpace, model: Model, source: str) -> bool:
    """Whether samples that are encoded together cut the zones: the type has no context anchors."""
    encoder: Any = space.encoders.get(source)
    if encoder is None or isinstance(encoder, Reader):
        return False
    return encoder.anchors_key not in model.context


def translate(
    space: LatentSpace,
    model: Model,
    key: PRNGKeyArray,
    noise_scale: Float[Array, ""] | float,
    request: Mapping[str, Any],
    source: str | None,
    target: str,
) -> dict[str, Array]:
    """Samples of a type for `samples` of a source, or for the prior without a source (Fig. 1)."""
    index, drawn = request["index"], None
    if space.encoders and source is None:
        drawn = prior(space, key, index, "prior")
    elif source is not None and space.encoders:
        drawn = encode(space, model, key, noise_scale, request, source)
    samples = request["samples"] if reads_samples(space, source, target) else None
    given = {"latents": drawn, "index": index, "samples": samples}
    return decode(space, model, key, given, source, target)


def _solver_of(space: LatentSpace, name: str) -> zoning.Solver:
    """Solver that cuts the zones of a type: for class anchors that of the alignment's flow."""
    is_table = isinstance(space.encoders[name], Classifier) and name in space.own_encoders
    return space.alignment_solver if is_table else space.solver


def predict(
    space: LatentSpace, model: Model, latents: Float[Array, "b q"], target: str
) -> dict[str, Array]:
    """`classes` (b,) of latents and their `probabilities` under the flow (paper §5.1)."""
    return space.encoders[target].predict(model, latents, space.alignment_solver)


def class_probabilities(
    space: LatentSpace, model: Model, latents: Float[Array, "b q"], target: str
) -> Float[Array, "b c"]:
    """Probabilities of all classes under the flow; rows sum to 1."""
    return space.encoders[target].class_probabilities(model, latents, space.alignment_solver)


def classes(
    space: LatentSpace, model: Model, latents: Float[Array, "b q"] | None
) -> dict[str, Array]:
    """Classes (b,) of latents by data type, for all types that classify; empty without latents."""
    if latents is None:
        return {}
    known = [name for name, each in space.encoders.items() if isinstance(each, Classifier)]
    return {name: predict(space, model, latents, name)["classes"] for name in known}


def condition(
    space: LatentSpace,
    model: Model,
    request: Mapping[str, Any],
    name: str | None,
) -> tuple[Array | None, dict[str, Array]]:
    """Condition (b, d) of a decoder on a type, and indices of the context anchors used for it.

    With `samples` of the type in the request, the condition follows from these. Otherwise it is the
    context anchor whose zone contains the latent, among those of the same class if it is known;
    the indices are then returned under the type's plural.
    """
    if name is None:
        return None, {}
    data_type, latents, samples = space.types[name], request["latents"], request["samples"]
    if name in samples:
        return data_type.condition_of(model.variables, samples[name]), {}
    zones = zone_in_context(space, model, latents, name, samples)
    return model.context[space.encoders[name].anchors_key][zones], {data_type.plural: zones}


def zone_in_context(
    space: LatentSpace,
    model: Model,
    latents: Float[Array, "b q"],
    name: str,
    samples: Mapping[str, Array],
) -> Int[Array, " b"]:
    """Index of the type's context anchor whose zone contains each latent.

    With `samples` of types that classify, only anchors of the same classes are candidates, or all
    anchors if there are none of these classes.
    """
    solver, key = space.alignment_solver, space.encoders[name].anchors_key
    anchors = model.context[key]
    log_weights = model.context.get(key.replace("anchors", "log_weights"))
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


def reads_samples(space: LatentSpace, source: str | None, target: str) -> bool:
    """Whether `decode` takes the samples of the source beside their latents."""
    decoder = space.decoders.get(target)
    if source is None or decoder is None:
        return False
    return source == decoder.condition or space.types[source].has_classes


def decode(
    space: LatentSpace,
    model: Model,
    key: PRNGKeyArray,
    request: Mapping[str, Any],
    source: str | None,
    target: str,
) -> dict[str, Array]:
    """Samples of a type for `latents`, which come from `samples` of a source (paper §3.1, §5.1).

    The result of a decoder also has, under the plural of their type: the given samples, the
    classes of the latents (E.3) and the indices of the context anchors used for its condition.
    """
    latents, index, samples = request["latents"], request["index"], request.get("samples")
    if target not in space.decoders:
        return predict(space, model, latents, target)
    known = classes(space, model, latents)
    if source is not None and samples is not None:
        known[source] = samples
    decoder = space.decoders[target]
    known_samples = {"latents": latents, "samples": known}
    further, zones = condition(space, model, known_samples, decoder.condition)
    generated = decoder.generate(model.variables, key, (latents, further), index)
    named = {space.types[name].plural: values for name, values in known.items()}
    return generated | named | zones


def invert(
    space: LatentSpace, variables: Any, request: tuple[Any, Any], target: str
) -> Float[Array, "b ..."]:
    """Noise from which the decoder makes the samples, given (samples, condition)."""
    return space.decoders[target].invert(variables, *request)


def render(space: LatentSpace, variables: Any, request: tuple[Any, Any], target: str) -> Array:
    """Samples that the decoder makes from noise, given (noise, condition)."""
    return space.decoders[target].render(variables, *request)


def reconstruct(
    space: LatentSpace, variables: Any, request: tuple[Any, Any], target: str
) -> dict[str, Array]:
    """Reconstructions of samples from their own noise, and `errors`, given (samples, condition)."""
    return space.decoders[target].reconstruct(variables, *request)


def features(
    space: LatentSpace, variables: Any, samples: Array, source: str
) -> dict[str, Float[Array, "b d"]]:
    """Features of samples by name."""
    return space.encoders[source].features(variables, samples)
