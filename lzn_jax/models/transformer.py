"""Transformers of texts: tokens to an anchor, and a latent to tokens, one after another.

Tokens are integers, 0 the end of a text and what fills it up behind its end.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

END = 0  # token at a text's end and behind it


class Block(nn.Module):
    """Self-attention and a dense layer of four times the width, each behind a norm (pre-norm).

    With `keeps` keys and values stay, in the collection `cache`: a first call, of all positions,
    makes room for them, and further ones are of one position, which sees those before it.
    """

    num_heads: int
    dropout: float
    dtype: DTypeLike
    keeps: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], mask: Bool[Array, "#b 1 #l l"], train: bool
    ) -> Float[Array, "b l d"]:
        """One layer; `mask` is True where a position (third axis) sees another (last axis)."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        attention = nn.MultiHeadDotProductAttention(
            self.num_heads, dtype=self.dtype, decode=self.keeps
        )
        h = attention(nn.LayerNorm(dtype=self.dtype)(x), mask=mask)
        x = x + drop(h)
        h = nn.Dense(4 * x.shape[-1], dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
        return x + drop(nn.Dense(x.shape[-1], dtype=self.dtype)(nn.gelu(h)))


class Encoder(nn.Module):
    """Tokens to an anchor: neighbours by a convolution, layers of attention, their mean, an MLP."""

    vocabulary: int
    max_length: int
    latent_dim: int
    features: int
    num_layers: int
    num_heads: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, tokens: Int[Array, "b l"], *, train: bool) -> Float[Array, "b q"]:
        """Anchors in float32; what is behind a text's end is not seen."""
        is_text = _is_text(tokens)
        x = _embedded(self, tokens, jnp.arange(tokens.shape[1]))
        x = x * is_text[..., None]
        x = nn.gelu(nn.Conv(self.features, (3,), dtype=self.dtype)(x)) + x
        for layer in range(self.num_layers):
            x = _block(self, layer)(x, is_text[:, None, None, :], train)
        x = nn.LayerNorm(dtype=self.dtype)(x) * is_text[..., None]
        mean = jnp.sum(x, axis=1) / jnp.sum(is_text, axis=1, keepdims=True)
        h = nn.gelu(nn.Dense(4 * self.features, dtype=self.dtype)(mean))
        return nn.Dense(self.latent_dim)(h.astype(jnp.float32))


class Decoder(nn.Module):
    """Logits of each token given those before it and a latent, which is added at each position."""

    vocabulary: int
    max_length: int
    features: int
    num_layers: int
    num_heads: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def __call__(
        self, tokens: Int[Array, "b l"], latents: Float[Array, "b q"], *, train: bool
    ) -> Float[Array, "b l v"]:
        """Logits in float32 of the tokens themselves: position i sees those before i."""
        before = jnp.pad(tokens, [(0, 0), (1, 0)], constant_values=END)[:, :-1]
        return self.after(before, jnp.arange(tokens.shape[1]), latents, train=train)

    @nn.compact
    def after(
        self,
        before: Int[Array, "b l"],
        places: Int[Array, " l"],
        latents: Float[Array, "b q"],
        *,
        train: bool = False,
        keeps: bool = False,
    ) -> Float[Array, "b l v"]:
        """Logits in float32 of the tokens at `places`, given the ones `before` them.

        `keeps` is that of `Block`: one place at a time, in order.
        """
        condition = nn.Dense(self.features, dtype=self.dtype)(latents)
        x = _embedded(self, before, places) + condition[:, None]
        causal = nn.make_causal_mask(before, dtype=bool)
        for layer in range(self.num_layers):
            x = _block(self, layer, keeps)(x, causal, train)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        return nn.Dense(self.vocabulary)(x.astype(jnp.float32))


def _is_text(tokens: Int[Array, "b l"]) -> Bool[Array, "b l"]:
    """Where a text stands, its end included, so that even an empty one has a position."""
    return jnp.cumsum(tokens == END, axis=1) - (tokens == END) == 0


def _block(network: Encoder | Decoder, layer: int, keeps: bool = False) -> nn.Module:
    block = nn.remat(Block, static_argnums=3) if network.remat else Block
    return block(network.num_heads, network.dropout, network.dtype, keeps, name=f"Block_{layer}")


def _embedded(network: Encoder | Decoder, tokens: Array, places: Array) -> Array:
    """Tokens and their places as vectors."""
    table = network.param(
        "places", nn.initializers.normal(0.02), (network.max_length, network.features)
    )
    embed = nn.Embed(network.vocabulary, network.features, dtype=network.dtype)
    return embed(tokens) + table[places].astype(network.dtype)
