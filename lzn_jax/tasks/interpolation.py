"""Paths from one image to another, through their latents and their noise."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lzn_jax.data import Images
from lzn_jax.data_types import Condition
from lzn_jax.data_types.image_decoders import ImageDecoder
from lzn_jax.models import Variables

NUM_IMAGES = 11


class Interpolation:
    """Draws what lies between two images.

    An image is its latent, its noise (the inverse of the decoder's flow given the latent) and,
    where the decoder takes one, its class. Latents are those of α = 1: zone centres have a smaller
    norm than any latent that the decoder was trained on. Latents and noise follow a great circle,
    on which what is Gaussian at both ends stays so; classes are mixed in proportion. Both ends are
    the reconstructions of the images.
    """

    def __init__(self, decoder: ImageDecoder, in_batches: Callable[..., Any]) -> None:
        self._invert = jax.jit(lambda variables, request: decoder.invert(variables, *request))
        self._render = jax.jit(lambda variables, request: decoder.render(variables, *request))
        self._in_batches = in_batches

    def __call__(
        self, variables: Variables, images: Images, condition: Condition
    ) -> dict[str, np.ndarray]:
        """`images` from the first of two to the second, `latents`, and `weights` of the second."""
        noise = self._in_batches(
            functools.partial(self._invert, variables), (images, condition), description="inverting"
        )
        weights = jnp.linspace(0.0, 1.0, NUM_IMAGES)
        latents, classes = condition
        path = (
            None if latents is None else great_circle(jnp.asarray(latents), weights),
            None if classes is None else straight_line(jnp.asarray(classes), weights),
        )
        drawn = self._in_batches(
            functools.partial(self._render, variables),
            (great_circle(jnp.asarray(noise), weights), path),
            description="interpolating",
        )
        found = {"images": drawn, "weights": np.asarray(weights)}
        return found if path[0] is None else found | {"latents": np.asarray(path[0])}


def straight_line(
    ends: Float[Array, "2 ..."], weights: Float[Array, " k"]
) -> Float[Array, "k ..."]:
    """Points between two, given weights in [0, 1] of the second."""
    w = weights.reshape(-1, *[1] * (ends.ndim - 1))
    return (1 - w) * ends[0] + w * ends[1]


def great_circle(ends: Float[Array, "2 ..."], weights: Float[Array, " k"]) -> Float[Array, "k ..."]:
    """Points between two, given weights in [0, 1] of the second in the angle (Shoemake, 1985).

    A straight line where the two have the same direction or opposite ones.
    """
    norms = jnp.linalg.norm(ends.reshape(2, -1), axis=1)
    cosine = jnp.vdot(ends[0], ends[1]) / jnp.maximum(jnp.prod(norms), 1e-12)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    is_line = jnp.sin(angle) < 1e-3
    w = weights.reshape(-1, *[1] * (ends.ndim - 1))
    curve = jnp.sin((1 - w) * angle) * ends[0] + jnp.sin(w * angle) * ends[1]
    sine = jnp.where(is_line, 1.0, jnp.sin(angle))
    return jnp.where(is_line, straight_line(ends, weights), curve / sine)
