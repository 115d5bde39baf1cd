"""NCSN++ in LZN: an image encoder, a rectified-flow decoder and a one-pass decoder.

The network is that of Song et al. (arXiv:2011.13456). LZN (arXiv:2509.15591) uses its downward half
as the image encoder, whose anchor is the sum of taps on all feature maps, and the whole network as
the decoder, with the latent appended to the time embedding.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lzn_jax.models.ncsnpp_layers import (
    LatentTap,
    OutputHead,
    ResidualBlock,
    SelfAttention,
    TimeEmbedding,
    at_least_float32,
    conv3x3,
    dense,
    depth_to_space,
    downsample,
    space_to_depth,
    upsample,
)

MAX_NOISE_LEVEL = 999.0  # the noise level of the network at t = 1
MIN_FOURIER_TIME = 1e-5  # keeps the logarithm finite at t = 0


class NCSNpp(nn.Module):
    """Fields and layers that the networks of this module share.

    Attributes:
      features: channels of the first level.
      channel_multipliers: level l halves the feature map l times and has
        features * channel_multipliers[l] channels.
      num_res_blocks: residual blocks of a level.
      attention_resolutions: widths, in patches, of the feature maps with attention.
      dropout: rate in the residual blocks.
      fir: resample with the filter (1, 3, 3, 1), else by nearest neighbour and 2x2 means.
      progressive_input: 'input_skip' adds the downsampled input at each level, 'none' does not.
      patch_size: side of the patches of pixels that become one pixel with more channels; 1 is the
        original, larger ones are ours.
      dtype: compute dtype.
      remat: recompute the activations of residual blocks in the backward pass.
    """

    features: int
    channel_multipliers: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    dropout: float
    fir: bool
    progressive_input: str
    patch_size: int = 1
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def patches(self, images: Array) -> Array:
        """Patches of images; raises ValueError for an image size that the levels do not divide."""
        _check_choice("progressive_input", self.progressive_input, ("none", "input_skip"))
        factor = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        height, width = images.shape[1:3]
        if height % factor or width % factor:
            raise ValueError(
                f"images are {height} x {width}, but {len(self.channel_multipliers)} levels of "
                f"{self.patch_size} x {self.patch_size} patches need height and width divisible by "
                f"{factor}"
            )
        return space_to_depth(images, self.patch_size)

    def down_path(self, patches: Array, embedding: Array | None, train: bool) -> list[Array]:
        """Feature maps from the first convolution to the deepest level, in execution order."""
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
        """Block, attention and block at the deepest level."""
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
    """Image encoder: downward half of NCSN++ with taps on feature maps.

    The anchor is the sum of the taps' outputs. `tap_resolutions` are the widths, in patches, of the
    feature maps with a tap; None: all feature maps.
    """

    latent_dim: int
    tap_channels: int = 20
    tap_units: int = 200
    tap_layers: int = 2
    tap_resolutions: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b q"]:
        """Anchors of images in [-1, 1]; `train` turns dropout on (rng 'dropout').

        Raises ValueError for an image size that the levels do not divide or if no feature map has
        one of the `tap_resolutions`.
        """
        maps = self.down_path(self.patches(images), None, train)
        maps.append(self.middle(maps[-1], None, train))
        sizes = self.latent_dim, self.tap_channels, self.tap_units, self.tap_layers
        outputs = [
            LatentTap(*sizes, self.dtype, name=f"tap_{i}")(h)
            for i, h in enumerate(maps)
            if self.tap_resolutions is None or h.shape[2] in self.tap_resolutions
        ]
        if not outputs:
            widths = sorted({h.shape[2] for h in maps})
            raise ValueError(f"tap_resolutions is {self.tap_resolutions}; widths are {widths}")
        return sum(outputs[1:], start=outputs[0])


class NCSNppDecoder(NCSNpp, kw_only=True):
    """Velocity network of a rectified flow: NCSN++ conditioned on time, latents and labels.

    Attributes:
      progressive: 'output_skip' sums the upsampled images of all levels, 'none' uses the finest
        level only.
      time_embedding: 'positional', sinusoidal in 999 t, or 'fourier', random Fourier features of
        log(999 t).
      fourier_scale: standard deviation of the Fourier frequencies.
      scale_by_sigma: divide the velocity by 999 t; requires 'fourier'.
    """

    progressive: str
    time_embedding: str
    fourier_scale: float = 16.0
    scale_by_sigma: bool = False

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
        """Velocity at x_t, with noise at t = 0 and data at t = 1; `train` turns dropout on.

        t is clipped to [0, 1], for 'fourier' to [1e-5, 1]. `labels` are one-hot; latents or
        labels of None are left out of the network. Raises ValueError for an unknown or
        contradictory field or an image size that the levels do not divide.
        """
        _check_choice("progressive", self.progressive, ("none", "output_skip"))
        _check_choice("time_embedding", self.time_embedding, ("positional", "fourier"))
        if self.scale_by_sigma and self.time_embedding != "fourier":
            raise ValueError("scale_by_sigma requires time_embedding 'fourier'")
        earliest = MIN_FOURIER_TIME if self.time_embedding == "fourier" else 0.0
        s = MAX_NOISE_LEVEL * jnp.clip(t.astype(at_least_float32(t.dtype)), earliest, 1.0)
        embedding = TimeEmbedding(
            self.features,
            self.time_embedding,
            self.fourier_scale,
            self.dtype,
            name="conditioning",
        )(s, latents, labels)
        patches = self.patches(x_t)
        skips = self.down_path(patches, embedding, train)
        h = self.middle(skips[-1], embedding, train)
        velocity = self.up_path(h, skips, embedding, patches.shape[-1], train)
        velocity = depth_to_space(velocity, self.patch_size)
        return velocity / s[:, None, None, None] if self.scale_by_sigma else velocity

    def up_path(
        self, h: Array, skips: list[Array], embedding: Array, patch_channels: int, train: bool
    ) -> Array:
        """Patches from the output of the middle; consumes the maps in `skips`, last one first."""
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
    """One-pass decoder from latents to images: the middle and the upward half of NCSN++.

    `progressive_input` has no effect, as there is no input image.
    """

    image_shape: tuple[int, int, int]
    progressive_input: str = "none"

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b q"], condition: Float[Array, "b d"] | None, *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Images of latents and a condition; `train` turns dropout on (rng 'dropout').

        Raises ValueError for an image size that the levels do not divide.
        """
        shape = jnp.zeros((1, *self.image_shape))
        _, height, width, patch_channels = self.patches(shape).shape
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


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be {' or '.join(map(repr, choices))}")
