"""Losses between sets of generated and real images: energy distance and drift."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

# One of 255 grey levels, in units of [-1, 1]. Smaller differences are rounding errors, whose
# direction would be arbitrary in the gradient of the distance.
SOFTENING = 2 / 255


def energy_distance(x: Float[Array, "*p b d"], y: Float[Array, "*p b d"]) -> Float[Array, "*p"]:
    """2 E|x - y| - E|x - x'| - E|y - y'| over pairs of different rows, with |.|² the mean over d.

    The estimate is unbiased, even if row i of x depends on row i of y. It can be negative.
    """
    return 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)


def _mean_distance(x: Array, y: Array) -> Array:
    """Mean over i ≠ j of √(|x_i - y_j|² + ε²), ε = SOFTENING."""
    count, dim = x.shape[-2:]
    products = jnp.einsum("...id,...jd->...ij", x, y, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(x**2, axis=-1)[..., :, None] + jnp.sum(y**2, axis=-1)[..., None, :]
    distances = jnp.sqrt(jnp.maximum(squares - 2 * products, 0) / dim + SOFTENING**2)
    others = 1 - jnp.eye(count, dtype=x.dtype)
    pairs = float(count * (count - 1))  # may exceed 32 bits
    return jnp.sum(distances * others, axis=(-2, -1)) / pairs


TEMPERATURES = (0.02, 0.05, 0.2)  # in units of the mean distance
_SMALLEST = 1e-30


def drift_loss(
    x: Float[Array, "*p b d"],
    y: Float[Array, "*p m d"],
    *,
    temperatures: Sequence[float] = TEMPERATURES,
) -> Float[Array, "*p"]:
    """Mean squared distance between generated x and fixed targets x + V, in units of distances.

    V is the sum of the drifts at all temperatures > 0, each divided by its root mean square. The
    value does not measure a distance. Its gradient in x is -2 V over the number of elements.
    """
    fixed_x, fixed_y = jax.lax.stop_gradient((x, y))
    distances, scale = _distances(fixed_x, fixed_y)
    targets = fixed_x = fixed_x / scale
    for temperature in temperatures:
        field = _field(fixed_x, fixed_y / scale, -distances / temperature)
        square = jnp.mean(field**2, axis=(-2, -1), keepdims=True)
        targets += field * jax.lax.rsqrt(jnp.maximum(square, _SMALLEST))
    return jnp.mean((x / scale - targets) ** 2, axis=(-2, -1))


def _distances(x: Array, y: Array) -> tuple[Array, Array]:
    """Distances (*p, b, b + m) to other x and to y over their mean, and the mean (*p, 1, 1).

    The distance of a sample to itself is infinite.
    """
    count = x.shape[-2]
    others = jnp.concatenate([x, y], axis=-2)
    products = jnp.einsum("...id,...jd->...ij", x, others, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(x**2, axis=-1)[..., None] + jnp.sum(others**2, axis=-1)[..., None, :]
    distances = jnp.sqrt(jnp.maximum(squares - 2 * products, 0))
    is_itself = jnp.eye(count, others.shape[-2], dtype=bool)
    total = jnp.sum(jnp.where(is_itself, 0, distances), axis=(-2, -1), keepdims=True)
    pairs = float(count * (others.shape[-2] - 1))
    scale = jnp.maximum(total / pairs, 1e-12)
    return jnp.where(is_itself, jnp.inf, distances / scale), scale


def _field(x: Array, y: Array, logits: Array) -> Array:
    """Drift of generated x towards real y, for logits -distance / temperature.

    A is the geometric mean of two softmaxes of the logits: over all x and y that act on a sample,
    and over the samples. The drift is a sample's total repulsion times its A-weighted sum of y,
    less its total attraction times its A-weighted sum of the other x. It is 0 for equal sets if no
    sample is left out.
    """
    columns = jax.nn.logsumexp(logits, axis=-2, keepdims=True)
    rows = jax.nn.log_softmax(logits, axis=-1)
    repulsion, attraction = jnp.split(
        jnp.exp((rows + logits - columns) / 2), [x.shape[-2]], axis=-1
    )
    weighted = [
        jnp.einsum("...ij,...jd->...id", a, to, precision=jax.lax.Precision.HIGHEST)
        for a, to in ((attraction, y), (repulsion, x))
    ]
    repelled, attracted = (jnp.sum(a, axis=-1, keepdims=True) for a in (repulsion, attraction))
    return repelled * weighted[0] - attracted * weighted[1]


# Maps generated rows x (*p, b, d) and real rows y (*p, b, d) to losses (*p).
SetLoss = Callable[[Array, Array], Array]
SET_LOSSES: dict[str, SetLoss] = {
    "energy": energy_distance,
    "drift": drift_loss,
}


def image_set_loss(
    loss: SetLoss,
    x: Float[Array, "b h w c"],
    y: Float[Array, "b h w c"],
    key: PRNGKeyArray,
    *,
    patch_size: int,
    num_patches: int,
) -> Float[Array, ""]:
    """Loss between sets of images, plus its mean over sets of patches at random positions.

    Patches are at `num_patches` different positions, or at all positions if there are fewer. The
    key is consumed.
    """
    rows, columns = (side - patch_size + 1 for side in x.shape[1:3])
    positions = jax.random.permutation(key, rows * columns)[:num_patches]

    def patches(images: Array) -> Array:
        def patch(position: Array) -> Array:
            start = (0, position // columns, position % columns, 0)
            size = (len(images), patch_size, patch_size, images.shape[3])
            return jax.lax.dynamic_slice(images, start, size).reshape(len(images), -1)

        return jax.vmap(patch)(positions)

    whole = loss(x.reshape(len(x), -1), y.reshape(len(y), -1))
    return whole + jnp.mean(loss(patches(x), patches(y)))
