"""Transformers for texts: from tokens to an anchor, and from a latent to tokens.

Tokens are integers; 0 ends a text and pads it.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lzn_jax.parts import count, knob, share_below_1

_WIDTH = count("width")
_LAYERS = count("attention layers", 1)
_HEADS = count("attention heads, a divisor of the width", 4)
_DROPOUT = share_below_1("dropout rate of the layers", 0.0)
END = 0  # token at the end of a text, and padding


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then an MLP of four times the width.

    With `cached` the collection `cache` holds keys and values: the first call, with all positions,
    allocates it, and each further call is for one position, which attends to those before it.
    """

    num_heads: int
    dropout: float
    dtype: DTypeLike
    cached: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], mask: Bool[Array, "#b 1 #l l"], train: bool
    ) -> Float[Array, "b l d"]:
        """`mask` is True where a position (third axis) attends to another (last axis)."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        attention = nn.MultiHeadDotProductAttention(
            self.num_heads, dtype=self.dtype, decode=self.cached
        )
        h = attention(nn.LayerNorm(dtype=self.dtype)(x), mask=mask)
        x = x + drop(h)
        h = nn.Dense(4 * x.shape[-1], dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
        return x + drop(nn.Dense(x.shape[-1], dtype=self.dtype)(nn.gelu(h)))


class Encoder(nn.Module):
    """Tokens to an anchor: a convolution, transformer blocks, a mean over positions and an MLP."""

    vocabulary: int
    max_length: int
    latent_dim: int
    features: int = knob(_WIDTH)
    num_layers: int = knob(_LAYERS)
    num_heads: int = knob(_HEADS)
    dropout: float = knob(_DROPOUT)
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, tokens: Int[Array, "b l"], *, train: bool) -> Float[Array, "b q"]:
        """Anchors in float32; padding has no effect."""
        mask = is_text(tokens)
        x = _embedded(self, tokens, jnp.arange(tokens.shape[1]))
        x = x * mask[..., None]
        x = nn.gelu(nn.Conv(self.features, (3,), dtype=self.dtype)(x)) + x
        for layer in range(self.num_layers):
            x = _block(self, layer)(x, mask[:, None, None, :], train)
        x = nn.LayerNorm(dtype=self.dtype)(x) * mask[..., None]
        mean = jnp.sum(x, axis=1) / jnp.sum(mask, axis=1, keepdims=True)
        h = nn.gelu(nn.Dense(4 * self.features, dtype=self.dtype)(mean))
        return nn.Dense(self.latent_dim)(h.astype(jnp.float32))


class Decoder(nn.Module):
    """Logits of each token given the tokens before it and a latent, added at every position."""

    vocabulary: int
    max_length: int
    features: int = knob(_WIDTH)
    num_layers: int = knob(_LAYERS)
    num_heads: int = knob(_HEADS)
    dropout: float = knob(_DROPOUT)
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def __call__(
        self, tokens: Int[Array, "b l"], latents: Float[Array, "b q"], *, train: bool
    ) -> Float[Array, "b l v"]:
        """Logits in float32 of all tokens: those of token i depend on the tokens before it."""
        before = jnp.pad(tokens, [(0, 0), (1, 0)], constant_values=END)[:, :-1]
        return self.next_logits(before, jnp.arange(tokens.shape[1]), latents, train=train)

    @nn.compact
    def next_logits(
        self,
        before: Int[Array, "b l"],
        positions: Int[Array, " l"],
        latents: Float[Array, "b q"],
        *,
        train: bool = False,
        cached: bool = False,
    ) -> Float[Array, "b l v"]:
        """Logits in float32 of the tokens at `positions`, given the token `before` each.

        With `cached`, see `Block`, calls are for one position at a time, in order.
        """
        condition = nn.Dense(self.features, dtype=self.dtype)(latents)
        x = _embedded(self, before, positions) + condition[:, None]
        causal = nn.make_causal_mask(before, dtype=bool)
        for layer in range(self.num_layers):
            x = _block(self, layer, cached)(x, causal, train)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        return nn.Dense(self.vocabulary)(x.astype(jnp.float32))


def is_text(tokens: Int[Array, "b l"]) -> Bool[Array, "b l"]:
    """True up to and including the first end, so that an empty text has one position."""
    return jnp.cumsum(tokens == END, axis=1) - (tokens == END) == 0


def _block(network: Encoder | Decoder, layer: int, cached: bool = False) -> nn.Module:
    block = nn.remat(Block, static_argnums=3) if network.remat else Block
    return block(network.num_heads, network.dropout, network.dtype, cached, name=f"Block_{layer}")


def _embedded(network: Encoder | Decoder, tokens: Array, positions: Array) -> Array:
    table = network.param(
        "places", nn.initializers.normal(0.02), (network.max_length, network.features)
    )
    embed = nn.Embed(network.vocabulary, network.features, dtype=network.dtype)
    return embed(tokens) + table[positions].astype(network.dtype)
