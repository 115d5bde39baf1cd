"""Drift of a set of samples towards the data (Deng et al., arXiv:2602.04770).

Each generated sample is attracted by real samples near it and repelled by other generated ones. In
place of a distance between sets there is only a field, which is 0 on average where both sets are
draws from one distribution.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TEMPERATURES = (0.02, 0.05, 0.2)  # in units of the mean distance


def drift_loss(
    x: Float[Array, "*p b d"],
    y: Float[Array, "*p m d"],
    *,
    temperatures: Sequence[float] = TEMPERATURES,
) -> Float[Array, "*p"]:
    """Mean squared distance between generated x and fixed targets x + V, in units of distances.

    V is the sum of `drift` over temperatures > 0, each divided by its root mean square. The value
    does not measure a distance; its gradient in x is -2 V over the number of elements.
    """
    fixed_x, fixed_y = jax.lax.stop_gradient((x, y))
    distances, scale = _distances(fixed_x, fixed_y)
    targets = fixed_x = fixed_x / scale
    for temperature in temperatures:
        field = _field(fixed_x, fixed_y / scale, -distances / temperature)
        square = jnp.mean(field**2, axis=(-2, -1), keepdims=True)
        targets += field * jax.lax.rsqrt(jnp.maximum(square, 1e-30))
    return jnp.mean((x / scale - targets) ** 2, axis=(-2, -1))


def drift(
    x: Float[Array, "*p b d"], y: Float[Array, "*p m d"], *, temperature: float
) -> Float[Array, "*p b d"]:
    """Drift V of generated x towards real y, with all distances divided by their mean.

    A is the geometric mean of two softmaxes of -distance / temperature, over what attracts or
    repels a sample and over the samples. V is the product of a sample's total repulsion and its
    A-weighted sum of y, less the product of its total attraction and its A-weighted sum of the
    other x. Without samples left out, V is 0 for equal sets.
    """
    distances, scale = _distances(x, y)
    return _field(x / scale, y / scale, -distances / temperature)


def _distances(x: Array, y: Array) -> tuple[Array, Array]:
    """Distances (*p, b, b + m) to other x and to y over their mean (*p, 1, 1), and that mean.

    A sample has an infinite distance to itself.
    """
    count = x.shape[-2]
    others = jnp.concatenate([x, y], axis=-2)
    products = jnp.einsum("...id,...jd->...ij", x, others, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(x**2, axis=-1)[..., None] + jnp.sum(others**2, axis=-1)[..., None, :]
    distances = jnp.sqrt(jnp.maximum(squares - 2 * products, 0))
    is_itself = jnp.eye(count, others.shape[-2], dtype=bool)
    total = jnp.sum(jnp.where(is_itself, 0, distances), axis=(-2, -1), keepdims=True)
    scale = jnp.maximum(total / (count * (others.shape[-2] - 1)), 1e-12)
    return jnp.where(is_itself, jnp.inf, distances / scale), scale


def _field(x: Array, y: Array, logits: Array) -> Array:
    log_a = (jax.nn.log_softmax(logits, axis=-1) + jax.nn.log_softmax(logits, axis=-2)) / 2
    repulsion, attraction = jnp.split(jnp.exp(log_a), [x.shape[-2]], axis=-1)
    weighted = [
        jnp.einsum("...ij,...jd->...id", a, to, precision=jax.lax.Precision.HIGHEST)
        for a, to in ((attraction, y), (repulsion, x))
    ]
    repelled, attracted = (jnp.sum(a, axis=-1, keepdims=True) for a in (repulsion, attraction))
    return repelled * weighted[0] - attracted * weighted[1]
