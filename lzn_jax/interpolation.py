"""Paths between two images in latents and noise."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lzn_jax.data_types import Condition

NUM_IMAGES = 11


def paths(
    noise: Float[np.ndarray, "2 ..."], condition: Condition
) -> tuple[Float[np.ndarray, " k"], tuple[Array, Condition]]:
    """Weights of the second of two images, and (noise, condition) along the path to it.

    An image is represented by its latent, its noise (the inverse of the decoder's flow given the
    latent) and the decoder's further condition. Latents should be drawn at α = 1, as zone centres
    have a smaller norm than the latents of training. Latents and noise follow a great circle, which
    keeps Gaussian draws Gaussian; further conditions are interpolated linearly.
    """
    weights, (latents, further) = jnp.linspace(0.0, 1.0, NUM_IMAGES), condition
    path: tuple[Any, Any] = (
        None if latents is None else great_circle(jnp.asarray(latents), weights),
        None if further is None else straight_line(jnp.asarray(further), weights),
    )
    return np.asarray(weights), (great_circle(jnp.asarray(noise), weights), path)


def straight_line(
    ends: Float[Array, "2 ..."], weights: Float[Array, " k"]
) -> Float[Array, "k ..."]:
    """Linear interpolation of two points, given weights in [0, 1] of the second."""
    w = weights.reshape(-1, *[1] * (ends.ndim - 1))
    return (1 - w) * ends[0] + w * ends[1]


def great_circle(ends: Float[Array, "2 ..."], weights: Float[Array, " k"]) -> Float[Array, "k ..."]:
    """Spherical interpolation (Shoemake, 1985), given weights in [0, 1] of the second point.

    Linear if the points have the same or opposite directions.
    """
    norms = jnp.linalg.norm(ends.reshape(2, -1), axis=1)
    cosine = jnp.vdot(ends[0], ends[1]) / jnp.maximum(jnp.prod(norms), 1e-12)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    is_line = jnp.sin(angle) < 1e-3
    w = weights.reshape(-1, *[1] * (ends.ndim - 1))
    curve = jnp.sin((1 - w) * angle) * ends[0] + jnp.sin(w * angle) * ends[1]
    sine = jnp.where(is_line, 1.0, jnp.sin(angle))
    return jnp.where(is_line, straight_line(ends, weights), curve / sine)
