"""Inference in a latent space as pure functions of arrays, for `jit`, `grad` and `vmap`.

Each takes a space and the variables and context anchors of a `Model`. Row i of a result depends on
row i of the inputs alone, and on the noise of its `index`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lzn_jax import zoning
from lzn_jax.data_types import Classifier
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.randomness import keys_by_index, normal_by_index

NO_CLASS = -1  # of a sample of no class


class Predictions(NamedTuple):
    """Classes of n samples, and the flow's probability of each, in [0, 1]."""

    classes: np.ndarray
    probabilities: np.ndarray


def prior(
    space: LatentSpace, key: PRNGKeyArray, index: Int[Array, " b"], name: str
) -> Float[Array, "b q"]:
    """N(0, I), the noise of an index; other names are other noise."""
    noise: Array = normal_by_index(key, f"{name}_latents", index, (space.config.latent.dim,))
    return noise


def latents_in_context(
    space: LatentSpace,
    context: Float[Array, "c q"],
    key: PRNGKeyArray,
    noise_scale: Float[Array, ""] | float,
    request: Mapping[str, Array],
    name: str,
) -> Float[Array, "b q"]:
    """Latents of `anchors` (b, q) among context anchors (paper §2.2.1)."""
    noise = noise_scale * prior(space, key, request["index"], name)
    return zoning.latents_in_context(request["anchors"], context, noise, solver=space.solver)


def latents_of_samples(
    space: LatentSpace,
    model: Model,
    key: PRNGKeyArray,
    noise_scale: Float[Array, ""] | float,
    request: Mapping[str, Array],
    source: str,
) -> Float[Array, "b q"]:
    """Latents of `samples` of a type that has a rule of its own, see `Reader`."""
    encoder, index = space.encoders[source], request["index"]
    noise = noise_scale * prior(space, key, index, source)
    keys = keys_by_index(key, f"{source}_members", index)
    latents: Array = encoder.latents(
        model, request["samples"], noise, keys, _solver_of(space, source)
    )
    return latents


def _solver_of(space: LatentSpace, name: str) -> zoning.Solver:
    """Zones of a table of anchors are those of the alignment's flow."""
    is_table = isinstance(space.encoders[name], Classifier) and name in space.own_encoders
    solver: zoning.Solver = space.alignment_solver if is_table else space.solver
    return solver


def predict(
    space: LatentSpace, model: Model, latents: Float[Array, "b q"], target: str
) -> dict[str, Array]:
    """`classes` (b,) of latents, and the flow's `probabilities` of them (paper §5.1)."""
    encoder, solver = space.encoders[target], space.alignment_solver
    found: dict[str, Array] = encoder.predict(model, latents, solver)
    return found


def class_probabilities(
    space: LatentSpace, model: Model, latents: Float[Array, "b q"], target: str
) -> Float[Array, "b c"]:
    """The flow's probabilities of all classes."""
    encoder, solver = space.encoders[target], space.alignment_solver
    found: Array = encoder.class_probabilities(model, latents, solver)
    return found


def classes(
    space: LatentSpace, model: Model, latents: Float[Array, "b q"] | None
) -> dict[str, Array]:
    """Class of each latent, by type that classifies."""
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
    """Condition (b, d) of a decoder beside `latents`, and indices of context anchors by `TYPEs`.

    It is that of the `samples` of its type where these are known. Else it is the context anchor of
    the type whose zone contains the latent, among those of the same class.
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

    With the `samples` of types that classify, only anchors of the same classes count, where there
    are any.
    """
    solver, key = space.alignment_solver, space.encoders[name].anchors_key
    anchors = model.context[key]
    log_weights = model.context.get(key.replace("anchors", "log_weights"))
    of_class = {n: s for n, s in samples.items() if isinstance(space.encoders.get(n), Classifier)}
    if not of_class:
        return zoning.classify(latents, anchors, solver=solver, log_weights=log_weights)
    centres = zoning.compute_latents(
        anchors, jnp.zeros_like(anchors), solver=space.solver, log_weights=log_weights
    )
    fits = jnp.ones((len(latents), len(anchors)), bool)
    for other, values in of_class.items():
        fits &= values[:, None] == predict(space, model, centres, other)["classes"]
    fits = jnp.where(jnp.any(fits, axis=1, keepdims=True), fits, True)
    weights = jnp.zeros(len(anchors)) if log_weights is None else log_weights

    def one(latent: Array, log_weights: Array) -> Array:
        return zoning.classify(latent[None], anchors, solver=solver, log_weights=log_weights)[0]

    return jax.vmap(one)(latents, jnp.where(fits, weights, -jnp.inf))


def decode(
    space: LatentSpace,
    model: Model,
    key: PRNGKeyArray,
    request: Mapping[str, Any],
    source: str | None,
    target: str,
) -> dict[str, Array]:
    """Samples of a type for `latents` that come from `samples` of a source (paper §3.1, §5.1).

    Beside samples of a decoder, as `TYPEs`: the given samples, the classes of the latents (E.3),
    and the indices of the context anchors that its condition was taken from.
    """
    latents, index, samples = request["latents"], request["index"], request.get("samples")
    if target not in space.decoders:
        return predict(space, model, latents, target)
    known = classes(space, model, latents)
    if source is not None and samples is not None:
        known[source] = samples
    decoder = space.decoders[target]
    of_samples = {"latents": latents, "samples": known}
    beside, chosen = condition(space, model, of_samples, decoder.condition)
    generated: dict[str, Array] = decoder.generate(model.variables, key, (latents, beside), index)
    named = {space.types[name].plural: values for name, values in known.items()}
    return generated | named | chosen


def invert(
    space: LatentSpace, variables: Any, request: tuple[Any, Any], target: str
) -> Float[Array, "b ..."]:
    """The noise that samples come from, given (samples, condition)."""
    noise: Array = space.decoders[target].invert(variables, *request)
    return noise


def render(space: LatentSpace, variables: Any, request: tuple[Any, Any], target: str) -> Array:
    """The samples that come from noise, given (noise, condition)."""
    samples: Array = space.decoders[target].render(variables, *request)
    return samples


def reconstruct(
    space: LatentSpace, variables: Any, request: tuple[Any, Any], target: str
) -> dict[str, Array]:
    """Samples to noise and back, and their errors, given (samples, condition)."""
    found: dict[str, Array] = space.decoders[target].reconstruct(variables, *request)
    return found


def features(
    space: LatentSpace, variables: Any, samples: Array, source: str
) -> dict[str, Float[Array, "b d"]]:
    """Features of samples by name."""
    found: dict[str, Array] = space.encoders[source].features(variables, samples)
    return found
