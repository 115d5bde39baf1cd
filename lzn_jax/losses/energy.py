"""The energy distance, which tells two sets of samples apart (Székely and Rizzo, 2013).

A decoder in one pass that learns from it gives samples that are spread as the data are, where
squared errors alone give means of what a latent may be.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

# Of a difference in units of [-1, 1]: a grey level of 255. Under it rounding decides, and the
# gradient of a distance would not know where to go.
SOFTENING = 2 / 255


def energy_distance(x: Float[Array, "*p b d"], y: Float[Array, "*p b d"]) -> Float[Array, "*p"]:
    """2 E|x - y| - E|x - x'| - E|y - y'| over pairs of different rows; |.|² is a mean over d.

    Without bias, so it can be below 0, also where row i of x was made to be like row i of y.
    """
    return 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)


def _mean_distance(x: Array, y: Array) -> Array:
    """Of row i of x and row j of y, i not j, softened as √(|x - y|² + ε²)."""
    count, dim = x.shape[-2:]
    products = jnp.einsum("...id,...jd->...ij", x, y, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(x**2, axis=-1)[..., :, None] + jnp.sum(y**2, axis=-1)[..., None, :]
    distances = jnp.sqrt(jnp.maximum(squares - 2 * products, 0) / dim + SOFTENING**2)
    others = 1 - jnp.eye(count, dtype=x.dtype)
    return jnp.sum(distances * others, axis=(-2, -1)) / (count * (count - 1))


def image_energy(
    x: Float[Array, "b h w c"],
    y: Float[Array, "b h w c"],
    key: PRNGKeyArray,
    *,
    patch_size: int,
    num_patches: int,
) -> Float[Array, ""]:
    """Energy distance of whole images, plus the mean of that of patches at random places.

    Of fewer places than `num_patches` all are taken. The key is consumed.
    """
    rows, columns = (side - patch_size + 1 for side in x.shape[1:3])
    places = jax.random.permutation(key, rows * columns)[:num_patches]

    def patches(images: Array) -> Array:
        def at(place: Array) -> Array:
            start = (0, place // columns, place % columns, 0)
            size = (len(images), patch_size, patch_size, images.shape[3])
            return jax.lax.dynamic_slice(images, start, size).reshape(len(images), -1)

        return jax.vmap(at)(places)

    whole = energy_distance(x.reshape(len(x), -1), y.reshape(len(y), -1))
    return whole + jnp.mean(energy_distance(patches(x), patches(y)))
