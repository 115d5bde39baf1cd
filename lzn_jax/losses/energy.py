"""The energy distance between two sets of samples (Székely and Rizzo, 2013).

A one-pass decoder trained with it gives samples distributed like the data. With squared errors
alone it gives the mean of the images that a latent may stand for.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# One of 255 grey levels, in units of [-1, 1]. Differences below it are rounding errors, for which
# the gradient of the distance would have an arbitrary direction.
SOFTENING = 2 / 255


def energy_distance(x: Float[Array, "*p b d"], y: Float[Array, "*p b d"]) -> Float[Array, "*p"]:
    """2 E|x - y| - E|x - x'| - E|y - y'| over pairs of different rows, with |.|² the mean over d.

    The estimate is unbiased, also if row i of x depends on row i of y, and can be negative.
    """
    return 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)


def _mean_distance(x: Array, y: Array) -> Array:
    """Mean over i ≠ j of √(|x_i - y_j|² + ε²), ε = SOFTENING."""
    count, dim = x.shape[-2:]
    products = jnp.einsum("...id,...jd->...ij", x, y, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(x**2, axis=-1)[..., :, None] + jnp.sum(y**2, axis=-1)[..., None, :]
    distances = jnp.sqrt(jnp.maximum(squares - 2 * products, 0) / dim + SOFTENING**2)
    others = 1 - jnp.eye(count, dtype=x.dtype)
    return jnp.sum(distances * others, axis=(-2, -1)) / (count * (count - 1))
