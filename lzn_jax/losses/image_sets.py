"""Losses between sets of images: of whole images and of patches."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lzn_jax.losses.drift import drift_loss
from lzn_jax.losses.energy import energy_distance

# Losses between generated rows x (*p, b, d) and real rows y (*p, b, d), each a number (*p).
SET_LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "energy": energy_distance,
    "drift": drift_loss,
    "sinkhorn": functools.partial(drift_loss, balanced=True),
}


def image_set_loss(
    loss: Callable[[Array, Array], Array],
    x: Float[Array, "b h w c"],
    y: Float[Array, "b h w c"],
    key: PRNGKeyArray,
    *,
    patch_size: int,
    num_patches: int,
    beside: Float[Array, "b q"] | None = None,
) -> Float[Array, ""]:
    """A loss between sets of images plus its mean over sets of patches at random positions.

    Uses `num_patches` different positions, or all if there are fewer. The key is consumed. With
    `beside`, which stays fixed, the sets are of pairs of an image and its row of `beside`: row i is
    that of x_i and of y_i.
    """
    rows, columns = (side - patch_size + 1 for side in x.shape[1:3])
    positions = jax.random.permutation(key, rows * columns)[:num_patches]

    def as_rows(images: Array) -> Array:
        flat = images.reshape(len(images), -1)
        if beside is None:
            return flat
        # As if it had as many dimensions as the pixels, so that patches are compared as images are.
        scale = (flat.shape[1] / beside.shape[1]) ** 0.5
        return jnp.concatenate([flat, scale * jax.lax.stop_gradient(beside)], axis=1)

    def patches(images: Array) -> Array:
        def patch(position: Array) -> Array:
            start = (0, position // columns, position % columns, 0)
            size = (len(images), patch_size, patch_size, images.shape[3])
            return as_rows(jax.lax.dynamic_slice(images, start, size))

        return jax.vmap(patch)(positions)

    return loss(as_rows(x), as_rows(y)) + jnp.mean(loss(patches(x), patches(y)))
