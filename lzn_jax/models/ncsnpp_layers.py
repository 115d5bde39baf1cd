"""Building blocks of NCSN++ (Song et al., arXiv:2011.13456): resampling, blocks, embeddings.

Images are NHWC. Convolutions and dense layers compute in the `dtype` of the module. Parameters are
float32; normalisation, softmax and embeddings are computed in float32 or better.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lzn_jax.models.norm import GroupNorm

# Scale of layers that should start at zero: not exactly zero, so that no gradient vanishes.
NEAR_ZERO = 1e-10
SQRT_2 = math.sqrt(2.0)


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """float32, or float64 if `dtype` is float64."""
    return jnp.promote_types(dtype, jnp.float32)


def fan_average(scale: float = 1.0) -> nn.initializers.Initializer:
    """Uniform initialiser with variance scale / mean(fan in, fan out)."""
    return nn.initializers.variance_scaling(scale, "fan_avg", "uniform")


def conv3x3(channels: int, dtype: DTypeLike, name: str, scale: float = 1.0) -> nn.Conv:
    """3x3 convolution that keeps the image size."""
    return nn.Conv(
        channels, (3, 3), padding=1, dtype=dtype, kernel_init=fan_average(scale), name=name
    )


def dense(units: int, dtype: DTypeLike, name: str, scale: float = 1.0) -> nn.Dense:
    """Linear map of the last axis, which is a 1x1 convolution for images."""
    return nn.Dense(units, dtype=dtype, kernel_init=fan_average(scale), name=name)


def group_norm(channels: int, dtype: DTypeLike, name: str) -> GroupNorm:
    """Group normalisation with the most groups, up to 32, of equal size and at least 4 channels."""
    most = min(channels // 4, 32)
    groups = max(groups for groups in range(1, most + 1) if channels % groups == 0)
    return GroupNorm(groups, 1e-6, dtype, name=name)


def downsample(images: Float[Array, "b h w c"], fir: bool) -> Float[Array, "b h//2 w//2 c"]:
    """Halves even height and width: FIR filter (1, 3, 3, 1) / 8 per axis, or 2x2 means."""
    rows, columns = (_doubling(side // 2, fir).T / 2 for side in images.shape[1:3])
    return _resampled(images, rows, columns)


def upsample(images: Float[Array, "b h w c"], fir: bool) -> Float[Array, "b 2*h 2*w c"]:
    """Doubles height and width: FIR filter (1, 3, 3, 1) / 4 per axis, or nearest neighbour."""
    rows, columns = (_doubling(side, fir) for side in images.shape[1:3])
    return _resampled(images, rows, columns)


def _doubling(side: int, fir: bool) -> np.ndarray:
    """Matrix (2 side, side) that doubles an axis, with zeros outside."""
    taps = np.array((1, 3, 3, 1)) / 4 if fir else np.array((0, 1, 1, 0))
    matrix = np.zeros((2 * side + 2, side))
    for i in range(side):
        matrix[2 * i : 2 * i + 4, i] = taps
    return matrix[1:-1]


def _resampled(images: Array, rows: np.ndarray, columns: np.ndarray) -> Array:
    # Products with small matrices: interleaved rows and columns are copies on a TPU.
    matrices = (jnp.asarray(matrix, images.dtype) for matrix in (rows, columns))
    return jnp.einsum("bhwc,ih,jw->bijc", images, *matrices, precision=jax.lax.Precision.HIGHEST)


def space_to_depth(
    images: Float[Array, "b h w c"], size: int
) -> Float[Array, "b h//{size} w//{size} {size}**2*c"]:
    """Turns patches of size x size pixels into single pixels; size must divide h and w."""
    b, h, w, c = images.shape
    blocks = images.reshape(b, h // size, size, w // size, size, c)
    return blocks.swapaxes(2, 3).reshape(b, h // size, w // size, size * size * c)


def depth_to_space(
    patches: Float[Array, "b h w d"], size: int
) -> Float[Array, "b h*{size} w*{size} d//{size}**2"]:
    """Inverse of `space_to_depth`."""
    b, h, w, _ = patches.shape
    blocks = patches.reshape(b, h, w, size, size, -1)
    return blocks.swapaxes(2, 3).reshape(b, h * size, w * size, -1)


def sinusoidal_embedding(s: Float[Array, " b"], features: int) -> Float[Array, "b {features}"]:
    """Sines, then cosines, of s in [0, 999] at geometric frequencies from 1 down to 1e-4."""
    half = features // 2
    frequencies = 10_000.0 ** (-np.arange(half) / (half - 1))
    angles = s[:, None] * jnp.asarray(frequencies, s.dtype)
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, features % 2)))


def fourier_embedding(x: Float[Array, " b"], frequencies: Float[Array, " f"]) -> Array:
    """Sines, then cosines, of 2 pi * frequency * x: (b, 2 f)."""
    angles = x[:, None] * frequencies * (2 * math.pi)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """Embeds the noise level s together with latents and labels, if any.

    `kind` is 'positional' or 'fourier'. Fourier frequencies are drawn once from
    N(0, fourier_scale^2) and stored in the collection `constants`, which is not trained.
    """

    features: int
    kind: str
    fourier_scale: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        s: Float[Array, " b"],
        latents: Float[Array, "b q"] | None,
        labels: Float[Array, "b k"] | None,
    ) -> Float[Array, "b d"]:
        if self.kind == "fourier":
            frequencies = self.variable("constants", "frequencies", self._draw_frequencies)
            embedding = fourier_embedding(jnp.log(s), frequencies.value)
        else:
            embedding = sinusoidal_embedding(s, self.features)
        conditions = [part for part in (latents, labels, embedding) if part is not None]
        h = dense(4 * self.features, self.dtype, "dense_0")(jnp.concatenate(conditions, axis=-1))
        return dense(4 * self.features, self.dtype, "dense_1")(nn.silu(h))

    def _draw_frequencies(self) -> Float[Array, " f"]:
        key = self.make_rng("params")
        return self.fourier_scale * jax.random.normal(key, (self.features,), jnp.float32)


class ResidualBlock(nn.Module):
    """BigGAN residual block, optionally conditioned on an embedding and resampling by two."""

    channels: int
    dropout: float
    fir: bool
    dtype: DTypeLike
    resample: Literal["down", "up"] | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b d"] | None, train: bool
    ) -> Float[Array, "b h2 w2 c2"]:
        h = nn.silu(group_norm(x.shape[-1], self.dtype, "norm_0")(x))
        h, shortcut = self._resample(h), self._resample(x)
        h = conv3x3(self.channels, self.dtype, "conv_0")(h)
        if embedding is not None:
            shift = dense(self.channels, self.dtype, "embedding_dense")(nn.silu(embedding))
            h = h + shift[:, None, None, :]
        h = nn.silu(group_norm(self.channels, self.dtype, "norm_1")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv3x3(self.channels, self.dtype, "conv_1", NEAR_ZERO)(h)
        if self.resample or x.shape[-1] != self.channels:
            shortcut = dense(self.channels, self.dtype, "shortcut")(shortcut)
        return (shortcut + h) / SQRT_2

    def _resample(self, x: Array) -> Array:
        if self.resample == "down":
            return downsample(x, self.fir)
        if self.resample == "up":
            return upsample(x, self.fir)
        return x


class SelfAttention(nn.Module):
    """Single-head self-attention over all pixels, with a residual connection."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        batch, height, width, channels = x.shape
        pixels = x.reshape(batch, height * width, channels)
        h = group_norm(channels, self.dtype, "norm")(pixels)
        query, key, value = (
            dense(channels, self.dtype, name, 0.1)(h) for name in ("query", "key", "value")
        )
        scores = jnp.einsum(
            "bqc,bkc->bqk", query, key, preferred_element_type=at_least_float32(self.dtype)
        )
        weights = nn.softmax(scores / math.sqrt(channels)).astype(value.dtype)
        h = jnp.einsum("bqk,bkc->bqc", weights, value)
        h = dense(channels, self.dtype, "out", NEAR_ZERO)(h)
        return ((pixels + h) / SQRT_2).reshape(x.shape)


class OutputHead(nn.Module):
    """Features to an image with the given channels, in float32 or better."""

    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, h: Float[Array, "b h w d"]) -> Float[Array, "b h w c"]:
        h = nn.silu(group_norm(h.shape[-1], self.dtype, "norm")(h))
        image = conv3x3(self.channels, self.dtype, "conv", NEAR_ZERO)(h)
        return image.astype(at_least_float32(self.dtype))


class LatentTap(nn.Module):
    """Contribution of one feature map to the anchor: projected, flattened, then a small MLP."""

    latent_dim: int
    channels: int
    units: int
    layers: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, h: Float[Array, "b h w c"]) -> Float[Array, "b {self.latent_dim}"]:
        h = nn.silu(dense(self.channels, self.dtype, "project")(h))
        # Channel-major, as in released checkpoints.
        h = h.transpose(0, 3, 1, 2).reshape(h.shape[0], -1)
        for i in range(self.layers - 1):
            h = nn.silu(self._dense(self.units, h.shape[-1], f"dense_{i}")(h))
        h = self._dense(self.latent_dim, h.shape[-1], f"dense_{self.layers - 1}")(h)
        return h.astype(at_least_float32(self.dtype))

    def _dense(self, units: int, fan_in: int, name: str) -> nn.Dense:
        bound = 1 / math.sqrt(fan_in)

        def uniform(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return nn.Dense(units, dtype=self.dtype, kernel_init=uniform, bias_init=uniform, name=name)
