"""Small networks without convolutions, for small images."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lzn_jax import parts
from lzn_jax.parts import Field, count, knob, knobs, share_below_1


class Blocks(nn.Module):
    """Fields that the networks of this module share."""

    features: int = knob(Field(int, "units of each layer", minimum=4, multiple_of=4))
    num_blocks: int = knob(count("residual blocks", 2))
    dropout: float = knob(share_below_1("dropout rate of the blocks", 0.0))
    dtype: DTypeLike = jnp.float32


class MLPDecoder(Blocks):
    """Residual dense blocks, modulated (scale, shift, gate) by time, latents and condition.

    Inputs and outputs are the same as for `NCSNppDecoder`, with samples of any shape.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b ..."],
        t: Float[Array, " b"],
        latents: Float[Array, "b q"] | None,
        condition: Float[Array, "b d"] | None,
        *,
        train: bool,
    ) -> Float[Array, "b ..."]:
        """Velocity at samples x of any shape and times t in [0, 1]."""
        angles = 1000 * t[:, None] * jnp.exp(-jnp.linspace(0, jnp.log(1e4), self.features // 4))
        parts = [jnp.sin(angles), jnp.cos(angles)]
        parts += [part for part in (latents, condition) if part is not None]
        embedding = jnp.concatenate(parts, axis=1)
        for _ in range(2):
            embedding = nn.silu(nn.Dense(self.features, dtype=self.dtype)(embedding))
        h = nn.Dense(self.features, dtype=self.dtype)(x.reshape(len(x), -1))
        for _ in range(self.num_blocks):
            zero = nn.initializers.zeros
            modulation = nn.Dense(3 * self.features, dtype=self.dtype, kernel_init=zero)(embedding)
            scale, shift, gate = jnp.split(modulation, 3, axis=1)
            inner = nn.LayerNorm(dtype=self.dtype)(h) * (1 + scale) + shift
            inner = nn.silu(nn.Dense(self.features, dtype=self.dtype)(inner))
            inner = nn.Dropout(self.dropout, deterministic=not train)(inner)
            h = h + (1 + gate) * nn.Dense(self.features, dtype=self.dtype)(inner)
        h = nn.LayerNorm(dtype=self.dtype)(h)
        output = nn.Dense(x[0].size, kernel_init=nn.initializers.zeros)(h.astype(jnp.float32))
        return output.reshape(x.shape)


class MLP(nn.Module):
    """Residual dense blocks between two dense layers."""

    features: int
    num_blocks: int
    num_outputs: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], train: bool) -> Float[Array, "b {self.num_outputs}"]:
        h = nn.Dense(self.features, dtype=self.dtype)(x)
        for _ in range(self.num_blocks):
            inner = nn.silu(nn.LayerNorm(dtype=self.dtype)(h))
            inner = nn.silu(nn.Dense(self.features, dtype=self.dtype)(inner))
            inner = nn.Dropout(self.dropout, deterministic=not train)(inner)
            h = h + nn.Dense(self.features, dtype=self.dtype)(inner)
        h = nn.silu(nn.LayerNorm(dtype=self.dtype)(h))
        return nn.Dense(self.num_outputs)(h.astype(jnp.float32))


class MLPEncoder(Blocks, kw_only=True):
    """Maps images to anchors by dense layers, like `NCSNppEncoder`."""

    latent_dim: int

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b q"]:
        """Anchors of images in [-1, 1]."""
        network = MLP(self.features, self.num_blocks, self.latent_dim, self.dropout, self.dtype)
        return network(images.reshape(len(images), -1), train)


class MLPGenerator(Blocks, kw_only=True):
    """Maps latents to images by dense layers, like `NCSNppGenerator`."""

    image_shape: tuple[int, int, int]

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b q"], condition: Float[Array, "b d"] | None, *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Images of latents."""
        inputs = latents if condition is None else jnp.concatenate([latents, condition], axis=1)
        size = self.image_shape[0] * self.image_shape[1] * self.image_shape[2]
        network = MLP(self.features, self.num_blocks, size, self.dropout, self.dtype)
        return network(inputs, train).reshape(-1, *self.image_shape)


parts.add("encoder", "mlp", MLPEncoder, knobs(MLPEncoder, "encoder"))
