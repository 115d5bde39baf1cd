"""A diffusion transformer as the network of the image decoder's flow."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from lzn_jax import parts
from lzn_jax.decoders.flow import FIELDS, FlowDecoder
from lzn_jax.parts import count, knob


class DiT(nn.Module):
    """Transformer on patches, modulated by time, latents and condition (arXiv:2212.09748)."""

    patch_size: int = knob(count("side of a patch in pixels, a divisor of the image's", 2))
    features: int = knob(count("width, a multiple of the heads", 64))
    num_layers: int = knob(count("transformer blocks", 3))
    num_heads: int = knob(count("attention heads", 4))

    @nn.compact
    def __call__(self, x: Any, t: Any, latents: Any, condition: Any, *, train: bool) -> Any:
        """Velocity at images x (b, h, w, c) and times t (b,)."""
        rate = jnp.exp(-jnp.linspace(0, jnp.log(1e4), self.features // 2))
        angles = 1000 * t[:, None] * rate
        given = [part for part in (latents, condition) if part is not None]
        embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles), *given], axis=1)
        embedding = nn.silu(nn.Dense(self.features)(nn.silu(nn.Dense(self.features)(embedding))))
        (b, height, width, c), side = x.shape, self.patch_size
        grid = b, height // side, side, width // side, side, c
        patches = x.reshape(grid).transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, side * side * c)
        h = nn.Dense(self.features)(patches)
        h += self.param("places", nn.initializers.normal(0.02), h.shape[1:])
        for _ in range(self.num_layers):
            h = h + self._gated(h, embedding, nn.MultiHeadAttention(self.num_heads))
            inner = nn.Sequential([nn.Dense(4 * self.features), nn.gelu, nn.Dense(self.features)])
            h = h + self._gated(h, embedding, inner)
        out = nn.Dense(side * side * c, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(h))
        out = out.reshape(b, height // side, width // side, side, side, c)
        return out.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)

    def _gated(self, h: Any, embedding: Any, layer: Any) -> Any:
        """A layer after a norm, with scale, shift and gate of the embedding; 0 at first."""
        modulation = nn.Dense(3 * self.features, kernel_init=nn.initializers.zeros)(embedding)
        scale, shift, gate = jnp.split(modulation[:, None], 3, axis=2)
        norm = nn.LayerNorm(use_bias=False, use_scale=False)(h)
        return gate * layer((1 + scale) * norm + shift)


parts.add("decoder", "dit", (DiT, FlowDecoder.from_config), parts.knobs(DiT, "decoder") | FIELDS)
