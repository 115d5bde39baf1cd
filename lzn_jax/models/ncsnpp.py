"""NCSN++ in LZN: an image encoder, a rectified-flow decoder and a one-pass decoder.

NCSN++ was proposed by Song et al. (arXiv:2011.13456). LZN (arXiv:2509.15591) uses its downward half
as the image encoder. The anchor is the sum of taps on all feature maps. The whole network is the
decoder, with the latent appended to the time embedding.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lzn_jax import parts
from lzn_jax.models.dropout import Dropout
from lzn_jax.models.norm import GroupNorm
from lzn_jax.parts import (
    Field,
    choice,
    count,
    counts,
    flag,
    knob,
    knobs,
    positive,
    require,
    share_below_1,
)

# Scale of layers that should start near zero, but not at zero, where gradients would vanish.
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
    """Group normalisation with at most 32 equal groups of at least 4 channels."""
    most = min(channels // 4, 32)
    groups = max(groups for groups in range(1, most + 1) if channels % groups == 0)
    return GroupNorm(groups, 1e-6, dtype, name=name)


def downsample(images: Float[Array, "b h w c"], fir: bool) -> Float[Array, "b h//2 w//2 c"]:
    """Halves even height and width by the FIR filter (1, 3, 3, 1) / 8 per axis, or by 2x2 means."""
    rows, columns = (_doubling(side // 2, fir).T / 2 for side in images.shape[1:3])
    return _resampled(images, rows, columns)


def upsample(images: Float[Array, "b h w c"], fir: bool) -> Float[Array, "b 2*h 2*w c"]:
    """Doubles height and width by the FIR filter (1, 3, 3, 1) / 4, or by nearest neighbours."""
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
    # Uses products with small matrices, since interleaving rows and columns copies on a TPU.
    matrices = (jnp.asarray(matrix, images.dtype) for matrix in (rows, columns))
    return jnp.einsum("bhwc,ih,jw->bijc", images, *matrices, precision=jax.lax.Precision.HIGHEST)


def space_to_depth(
    images: Float[Array, "b h w c"], size: int
) -> Float[Array, "b h//{size} w//{size} {size}**2*c"]:
    """Turns patches of size x size pixels into single pixels. Size must divide h and w."""
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
        h = Dropout(self.dropout)(h, train)
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
    """Maps features to an image with the given channels, in float32 or better."""

    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, h: Float[Array, "b h w d"]) -> Float[Array, "b h w c"]:
        h = nn.silu(group_norm(h.shape[-1], self.dtype, "norm")(h))
        image = conv3x3(self.channels, self.dtype, "conv", NEAR_ZERO)(h)
        return image.astype(at_least_float32(self.dtype))


class LatentTap(nn.Module):
    """Contribution of one feature map to the anchor, by projection, flattening and a small MLP."""

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


MAX_NOISE_LEVEL = 999.0  # the noise level of the network at t = 1
MIN_FOURIER_TIME = 1e-5  # keeps the logarithm finite at t = 0


class NCSNpp(nn.Module):
    """Fields and layers that the networks of this module share.

    Level l halves the feature map l times. Patches of more than one pixel are ours. The original
    uses none.
    """

    features: int = knob(Field(int, "channels of the first level", minimum=4, multiple_of=4))
    channel_multipliers: tuple[int, ...] = knob(
        counts("channels of each level as multiples of features, finest level first", nonempty=True)
    )
    num_res_blocks: int = knob(count("residual blocks of each level"))
    attention_resolutions: tuple[int, ...] = knob(
        counts("widths of feature maps with attention, in patches", ())
    )
    dropout: float = knob(share_below_1("dropout rate of the residual blocks", 0.0))
    fir: bool = knob(flag("resample with the FIR filter (1, 3, 3, 1)", False))
    progressive_input: str = knob(choice("input pyramid", "none", "input_skip"))
    patch_size: int = knob(
        count("side of the patches of pixels that become one pixel", 1, divides="data.image_size")
    )
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def down_path(self, patches: Array, embedding: Array | None, train: bool) -> list[Array]:
        """Computes feature maps from the first convolution to the deepest level, in order."""
        h = conv3x3(self.features, self.dtype, "input_conv")(patches)
        maps, pyramid = [h], patches
        for level, multiplier in enumerate(self.channel_multipliers):
            channels = self.features * multiplier
            for i in range(self.num_res_blocks):
                h = self._block(f"down_{level}_block_{i}", channels)(h, embedding, train)
                h = self._attend(f"down_{level}_attention_{i}", h)
                maps.append(h)
            if level == len(self.channel_multipliers) - 1:
                break
            h = self._block(f"down_{level}_resample", channels, "down")(h, embedding, train)
            if self.progressive_input == "input_skip":
                pyramid = downsample(pyramid, self.fir)
                h = dense(channels, self.dtype, f"down_{level}_input_skip")(pyramid) + h
            maps.append(h)
        return maps

    def middle(self, h: Array, embedding: Array | None, train: bool) -> Array:
        """Applies block, attention and block at the deepest level."""
        h = self._block("middle_block_0", h.shape[-1])(h, embedding, train)
        h = SelfAttention(self.dtype, name="middle_attention")(h)
        return self._block("middle_block_1", h.shape[-1])(h, embedding, train)

    def _block(
        self, name: str, channels: int, resample: Literal["down", "up"] | None = None
    ) -> nn.Module:
        block = nn.remat(ResidualBlock, static_argnums=3) if self.remat else ResidualBlock
        return block(channels, self.dropout, self.fir, self.dtype, resample, name=name)

    def _attend(self, name: str, h: Array) -> Array:
        width = h.shape[2]
        if width not in self.attention_resolutions:
            return h
        return SelfAttention(self.dtype, name=name)(h)


class NCSNppEncoder(NCSNpp, kw_only=True):
    """Image encoder by the downward half of NCSN++ with taps on feature maps.

    The anchor is the sum of the taps' outputs.
    """

    latent_dim: int
    tap_channels: int = knob(count("channels of each latent tap", 20))
    tap_units: int = knob(count("hidden units of the MLP of each tap", 200))
    tap_layers: int = knob(Field(int, "dense layers of the MLP of each tap", 2, minimum=2))
    tap_resolutions: tuple[int, ...] | None = knob(
        counts("widths of feature maps with taps, in patches, None = all", None, nonempty=True)
    )

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b q"]:
        """Anchors of images in [-1, 1]. `train` turns on dropout (rng 'dropout')."""
        maps = self.down_path(space_to_depth(images, self.patch_size), None, train)
        maps.append(self.middle(maps[-1], None, train))
        sizes = self.latent_dim, self.tap_channels, self.tap_units, self.tap_layers
        outputs = [
            LatentTap(*sizes, self.dtype, name=f"tap_{i}")(h)
            for i, h in enumerate(maps)
            if self.tap_resolutions is None or h.shape[2] in self.tap_resolutions
        ]
        return sum(outputs[1:], start=outputs[0])


class NCSNppDecoder(NCSNpp, kw_only=True):
    """Velocity network of a rectified flow: NCSN++ conditioned on time, latents and labels."""

    progressive: str = knob(choice("output pyramid", "none", "output_skip"))
    time_embedding: str = knob(choice("embedding of time", "positional", "fourier"))
    fourier_scale: float = knob(positive("standard deviation of the Fourier frequencies", 16.0))
    scale_by_sigma: bool = knob(flag("divide the output by the noise level", False))

    @nn.compact
    def __call__(
        self,
        x_t: Float[Array, "b h w c"],
        t: Float[Array, " b"],
        latents: Float[Array, "b q"] | None,
        labels: Float[Array, "b k"] | None,
        *,
        train: bool,
    ) -> Float[Array, "b h w c"]:
        """Velocity at x_t, with noise at t = 0 and data at t = 1. `train` turns on dropout.

        t is clipped to [0, 1], for 'fourier' to [1e-5, 1]. `labels` are one-hot. Latents or labels
        that are None are left out of the network.
        """
        earliest = MIN_FOURIER_TIME if self.time_embedding == "fourier" else 0.0
        s = MAX_NOISE_LEVEL * jnp.clip(t.astype(at_least_float32(t.dtype)), earliest, 1.0)
        sizes = self.features, self.time_embedding, self.fourier_scale
        embed = TimeEmbedding(*sizes, self.dtype, name="conditioning")
        embedding, patches = embed(s, latents, labels), space_to_depth(x_t, self.patch_size)
        skips = self.down_path(patches, embedding, train)
        h = self.middle(skips[-1], embedding, train)
        velocity = self.up_path(h, skips, embedding, patches.shape[-1], train)
        velocity = depth_to_space(velocity, self.patch_size)
        return velocity / s[:, None, None, None] if self.scale_by_sigma else velocity

    def up_path(
        self, h: Array, skips: list[Array], embedding: Array, patch_channels: int, train: bool
    ) -> Array:
        """Patches from the output of the middle. Consumes the maps in `skips`, last map first."""
        outputs = []
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            channels = self.features * multiplier
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(f"up_{level}_block_{i}", channels)(h, embedding, train)
            h = self._attend(f"up_{level}_attention", h)
            if level == 0 or self.progressive == "output_skip":
                head = OutputHead(patch_channels, self.dtype, name=f"up_{level}_output")
                outputs.append(head(h))
            if level > 0:
                h = self._block(f"up_{level}_resample", channels, "up")(h, embedding, train)
        patches = outputs[0]
        for output in outputs[1:]:
            patches = upsample(patches, self.fir) + output
        return patches


class NCSNppGenerator(NCSNpp, kw_only=True):
    """One-pass decoder from latents to images, by the middle and upward half of NCSN++.

    `progressive_input` has no effect, since there is no input image.
    """

    image_shape: tuple[int, int, int]
    progressive_input: str = "none"

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b q"], condition: Float[Array, "b d"] | None, *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Images of latents and a condition. `train` turns on dropout (rng 'dropout')."""
        height, width, channels = self.image_shape
        height, width = height // self.patch_size, width // self.patch_size
        patch_channels = self.patch_size**2 * channels
        inputs = latents if condition is None else jnp.concatenate([latents, condition], axis=1)
        embedding = dense(4 * self.features, self.dtype, "embedding_0")(inputs)
        embedding = dense(4 * self.features, self.dtype, "embedding_1")(nn.silu(embedding))
        levels = list(enumerate(self.channel_multipliers))
        deepest, multiplier = levels[-1]
        height, width, channels = height >> deepest, width >> deepest, self.features * multiplier
        h = dense(height * width * channels, self.dtype, "input")(inputs)
        h = self.middle(h.reshape(-1, height, width, channels), embedding, train)
        for level, multiplier in reversed(levels):
            channels = self.features * multiplier
            for i in range(self.num_res_blocks):
                h = self._block(f"up_{level}_block_{i}", channels)(h, embedding, train)
            h = self._attend(f"up_{level}_attention", h)
            if level > 0:
                h = self._block(f"up_{level}_resample", channels, "up")(h, embedding, train)
        patches = OutputHead(patch_channels, self.dtype, name="output")(h)
        return depth_to_space(patches, self.patch_size)


def check_resolutions(values: Mapping[str, Any], network: str) -> None:
    """Requires that each level halves the one before it."""
    size = values["data.image_size"] // values[f"{network}.patch_size"]
    multipliers = values[f"{network}.channel_multipliers"]
    most = (size & -size).bit_length()
    require(
        len(multipliers) <= most,
        f"{network}.channel_multipliers must have at most {most} entries, one for each halving of "
        f"the {size} patches of an image's side and one more, got {multipliers}",
    )
    widths = [size >> level for level in range(len(multipliers))]
    for name in (f"{network}.attention_resolutions", f"{network}.tap_resolutions"):
        resolutions = values.get(name) or ()
        require(
            set(resolutions) <= set(widths),
            f"{name} must contain only widths of {network} feature maps, "
            f"which are {', '.join(map(str, widths))}, got {resolutions}",
        )


def check_decoder(values: Mapping[str, Any]) -> None:
    check_resolutions(values, "decoder")
    require(
        not values["decoder.scale_by_sigma"] or values["decoder.time_embedding"] == "fourier",
        "decoder.scale_by_sigma must be False unless decoder.time_embedding is 'fourier', got True",
    )


parts.add(
    "encoder",
    "ncsnpp",
    NCSNppEncoder,
    knobs(NCSNppEncoder, "encoder"),
    check=functools.partial(check_resolutions, network="encoder"),
)
