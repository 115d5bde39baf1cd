"""Transformers of texts, from tokens to an anchor and from a latent to tokens.

Tokens are integers, and 0 ends a text and pads it.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from lzn_jax.models import Module, Tree
from lzn_jax.parts import count, knob, share_below_1

END = 0  # token at the end of a text, and padding


class Block(nn.Module):
    """Pre-norm transformer block of self-attention and an MLP of four times the width.

    With `cached`, the collection `cache` stores keys and values. The first call, with all
    positions, allocates it. Each further call is for one position, which attends to the positions
    before it.
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


class Transformer(nn.Module):
    """Fields and layers that both networks share."""

    vocabulary: int
    max_length: int
    features: int = knob(count("width"))
    num_layers: int = knob(count("attention layers", 1))
    num_heads: int = knob(count("attention heads, a divisor of the width", 4))
    dropout: float = knob(share_below_1("dropout rate of the layers", 0.0))
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def block(self, layer: int, cached: bool = False) -> nn.Module:
        """A block. If `remat`, its activations are computed again for gradients."""
        block = nn.remat(Block, static_argnums=3) if self.remat else Block
        return block(self.num_heads, self.dropout, self.dtype, cached, name=f"Block_{layer}")

    def embedded(
        self, tokens: Int[Array, "b l"], positions: Int[Array, " l"]
    ) -> Float[Array, "b l d"]:
        """Sum of the embeddings of tokens and of their positions."""
        normal = nn.initializers.normal(0.02)
        table = self.param("places", normal, (self.max_length, self.features))
        embed = nn.Embed(self.vocabulary, self.features, dtype=self.dtype)
        return embed(tokens) + table[positions].astype(self.dtype)


class Encoder(Transformer, kw_only=True):
    """Maps tokens to an anchor by convolution, transformer blocks, mean over positions and MLP."""

    latent_dim: int

    @nn.compact
    def __call__(self, tokens: Int[Array, "b l"], *, train: bool) -> Float[Array, "b q"]:
        """Anchors in float32. Padding has no effect."""
        mask = is_text(tokens)
        x = self.embedded(tokens, jnp.arange(tokens.shape[1]))
        x = x * mask[..., None]
        x = nn.gelu(nn.Conv(self.features, (3,), dtype=self.dtype)(x)) + x
        for layer in range(self.num_layers):
            x = self.block(layer)(x, mask[:, None, None, :], train)
        x = nn.LayerNorm(dtype=self.dtype)(x) * mask[..., None]
        mean = jnp.sum(x, axis=1) / jnp.sum(mask, axis=1, keepdims=True)
        h = nn.gelu(nn.Dense(4 * self.features, dtype=self.dtype)(mean))
        return nn.Dense(self.latent_dim)(h.astype(jnp.float32))


class Decoder(Transformer):
    """Logits of each token given the tokens before it and a latent, added at every position."""

    def __call__(
        self, tokens: Int[Array, "b l"], latents: Float[Array, "b q"], *, train: bool
    ) -> Float[Array, "b l v"]:
        """Logits in float32 of all tokens. Token i's logits depend on the tokens before it."""
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

        With `cached` (see `Block`), calls are for one position at a time, in order.
        """
        condition = nn.Dense(self.features, dtype=self.dtype)(latents)
        x = self.embedded(before, positions) + condition[:, None]
        causal = nn.make_causal_mask(before, dtype=bool)
        for layer in range(self.num_layers):
            x = self.block(layer, cached)(x, causal, train)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        return nn.Dense(self.vocabulary)(x.astype(jnp.float32))


def generate(
    decoder: Module,  # Decoder, or a network with its `next_logits`
    variables: Tree,
    keys: Key[Array, " b"],
    latents: Float[Array, "b q"],
    temperature: float,
    top_p: float,
) -> Int[Array, "b l"]:
    """Tokens of texts, drawn one after another, or the most likely tokens at temperature 0."""
    start = jnp.full(len(keys), END, jnp.int32)

    def next_logits(cache: Tree, *arguments: Array) -> tuple[Array, Tree]:
        own, method = {**variables, **cache}, "next_logits"
        return decoder.apply(own, *arguments, cached=True, method=method, mutable=["cache"])

    def chosen(logits: Array, position: Array) -> Array:
        if temperature > 0:
            position_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
            noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(position_keys)
            logits = likeliest(logits / temperature, top_p) + noise
        return jnp.argmax(logits, axis=1).astype(jnp.int32)

    def step(carry: tuple[Array, Tree], position: Array) -> tuple[tuple[Array, Tree], Array]:
        before, cache = carry
        logits, cache = next_logits(cache, before[:, None], position[None], latents)
        is_over = (position > 0) & (before == END)
        token = jnp.where(is_over, END, chosen(logits[:, 0], position))
        return (token, cache), token

    positions = jnp.arange(decoder.max_length)
    tokens = jnp.tile(start[:, None], len(positions))
    # A first call with all positions allocates the cache.
    shapes = jax.eval_shape(lambda: next_logits({}, tokens, positions, latents)[1])
    cache = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    _, tokens = jax.lax.scan(step, (start, cache), positions)
    return tokens.T


def likeliest(logits: Float[Array, "b v"], share: float) -> Float[Array, "b v"]:
    """Logits of the fewest tokens of total probability >= `share`, and -inf for other tokens."""
    if share == 1:  # avoids sorting
        return logits
    descending = jnp.sort(logits, axis=1, descending=True)
    p = jax.nn.softmax(descending, axis=1)
    is_kept = jnp.cumsum(p, axis=1) - p < share  # always true for the first
    least = jnp.min(descending, axis=1, keepdims=True, initial=jnp.inf, where=is_kept)
    return jnp.where(logits >= least, logits, -jnp.inf)


def is_text(tokens: Int[Array, "b l"]) -> Bool[Array, "b l"]:
    """True up to and including the first end token, so an empty text occupies one position."""
    return jnp.cumsum(tokens == END, axis=1) - (tokens == END) == 0
