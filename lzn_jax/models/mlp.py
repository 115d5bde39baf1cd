"""A small velocity network without convolutions, for images of few pixels."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class MLPDecoder(nn.Module):
    """Residual dense blocks with scale, shift and gate from time, latent and what else is told.

    Takes and gives what `NCSNppDecoder` does.
    """

    features: int
    num_blocks: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Float[Array, " b"],
        latents: Float[Array, "b q"] | None,
        told: Float[Array, "b d"] | None,
        *,
        train: bool,
    ) -> Float[Array, "b h w c"]:
        """The velocity at images x and times t in [0, 1]."""
        angles = 1000 * t[:, None] * jnp.exp(-jnp.linspace(0, jnp.log(1e4), self.features // 4))
        parts = [jnp.sin(angles), jnp.cos(angles)]
        parts += [part for part in (latents, told) if part is not None]
        condition = nn.silu(
            nn.Dense(self.features, dtype=self.dtype)(jnp.concatenate(parts, axis=1))
        )
        condition = nn.silu(nn.Dense(self.features, dtype=self.dtype)(condition))
        h = nn.Dense(self.features, dtype=self.dtype)(x.reshape(len(x), -1))
        for _ in range(self.num_blocks):
            zero = nn.initializers.zeros
            modulation = nn.Dense(3 * self.features, dtype=self.dtype, kernel_init=zero)(condition)
            scale, shift, gate = jnp.split(modulation, 3, axis=1)
            inner = nn.LayerNorm(dtype=self.dtype)(h) * (1 + scale) + shift
            inner = nn.silu(nn.Dense(self.features, dtype=self.dtype)(inner))
            inner = nn.Dropout(self.dropout, deterministic=not train)(inner)
            h = h + (1 + gate) * nn.Dense(self.features, dtype=self.dtype)(inner)
        h = nn.LayerNorm(dtype=self.dtype)(h)
        output = nn.Dense(x[0].size, kernel_init=nn.initializers.zeros)(h.astype(jnp.float32))
        return output.reshape(x.shape)
