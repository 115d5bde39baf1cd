"""Losses between sets of images: of whole images and of patches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lzn_jax.losses.drift import drift_loss
from lzn_jax.losses.energy import energy_distance

# Loss between generated rows x (*p, b, d) and real rows y (*p, b, d), a number (*p).
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
    """A loss between sets of images plus its mean over sets of patches at random positions.

    Uses `num_patches` different positions, or all if there are fewer. The key is consumed.
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
