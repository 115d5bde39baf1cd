"""Group normalisation in the layout of its input.

Sums run over the pixels of each channel first and then over the channels of a group. A reshape to
groups of few channels, as in flax, would be padded to the 128 lanes of a TPU.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class GroupNorm(nn.Module):
    """Group normalisation over pixels, if any, and the channels of a group.

    Parameters are the same as in `flax.linen.GroupNorm`. Statistics are computed in float32 or
    better.
    """

    num_groups: int  # a divisor of the number of channels
    epsilon: float
    dtype: DTypeLike = jnp.float32  # of the result
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()

    @nn.compact
    def __call__(self, x: Float[Array, "b *pixels c"]) -> Float[Array, "b *pixels c"]:
        shape = x.shape[-1:]
        scale = jnp.asarray(self.param("scale", self.scale_init, shape))  # it may be NumPy's
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros_init(), shape))
        return group_norm(x, scale, bias, self.num_groups, self.epsilon).astype(self.dtype)


def group_norm(
    x: Float[Array, "b *pixels c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    num_groups: int,
    epsilon: float,
) -> Float[Array, "b *pixels c"]:
    """(x - mean) / sqrt(variance + epsilon) · scale + bias by groups, in float32 or better.

    One pass over x sums x less the group's value at the central pixel, for mean and variance. A
    mean that is large compared to the deviation then costs no digits. In bfloat16, x itself is
    summed: rounding of x loses more digits, and on TPUs the product that computes x also sums it.
    """
    batch, *sides, channels = x.shape
    pixels, in_group = tuple(range(1, x.ndim - 1)), channels // num_groups
    count = math.prod(sides) * in_group

    def mean(sums: Array) -> Array:  # (b, c) -> (b, groups)
        return sums.reshape(batch, num_groups, in_group).sum(-1) / count

    def spread(values: Array) -> Array:  # (b, groups) -> (b, c)
        return jnp.repeat(values, in_group, axis=1)

    def over_pixels(values: Array) -> Array:
        return jnp.expand_dims(values, pixels)

    with jax.named_scope("norm"):
        is_rounded = x.dtype == jnp.bfloat16
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if not is_rounded:
            central = x[(slice(None), *(side // 2 for side in sides))]
            shift = central.reshape(batch, num_groups, in_group).mean(-1)
            x -= over_pixels(jax.lax.stop_gradient(spread(shift)))
        first, second = mean(x.sum(pixels)), mean(jnp.square(x).sum(pixels))
        variance = jnp.maximum(second - first**2, 0)
        factor = spread(jax.lax.rsqrt(variance + epsilon)) * scale
        return x * over_pixels(factor) + over_pixels(bias - spread(first) * factor)
