"""NCSN++ as LZN uses it: an encoder from images to anchors and a rectified-flow decoder.

The network is that of Song et al. (arXiv:2011.13456). LZN (arXiv:2509.15591) takes its downward
half as image encoder, whose latent is a sum over taps on every feature map, and appends the latent
to the time embedding of the whole network as decoder.
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
    """Fields, downward path and middle, which the encoder and the decoder share.

    Patches of `patch_size` x `patch_size` pixels are seen as one pixel of more channels (ours; 1 is
    the original). Level l works at that size / 2^l with features * channel_multipliers[l] channels.
    `attention_resolutions` are feature-map widths in patches; `fir` resamples with the filter
    (1, 3, 3, 1), otherwise nearest neighbour and 2x2 means; `progressive_input` 'input_skip' adds
    the downsampled input at each level, 'none' does not; `dtype` is the compute dtype; with `remat`
    residual blocks keep nothing for their gradient and compute their insides again.
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
        """Images as the network sees them."""
        self._check_input(images)
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

    def _check_input(self, images: Array) -> None:
        _check_choice("progressive_input", self.progressive_input, ("none", "input_skip"))
        factor = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
        height, width = images.shape[1:3]
        if height % factor or width % factor:
            raise ValueError(
                f"images are {height} x {width}; {len(self.channel_multipliers)} levels of "
                f"{self.patch_size} x {self.patch_size} patches need height and width divisible by "
                f"{factor}"
            )


class NCSNppEncoder(NCSNpp, kw_only=True):
    """Image encoder: downward half of NCSN++ with a latent tap on every feature map.

    The latent is the sum of the taps' outputs. `tap_resolutions` restricts taps to feature maps of
    these widths in patches; None taps all.
    """

    latent_dim: int
    tap_channels: int = 20
    tap_units: int = 200
    tap_layers: int = 2
    tap_resolutions: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b q"]:
        """Anchors of images in [-1, 1]; `train` turns dropout on (rng 'dropout').

        Raises ValueError for an image size that the levels do not divide or when no feature map
        has one of the `tap_resolutions`.
        """
        maps = self.down_path(self.patches(images), None, train)
        maps.append(self.middle(maps[-1], None, train))
        tapped = [
            self._tap(f"tap_{i}")(h)
            for i, h in enumerate(maps)
            if self.tap_resolutions is None or h.shape[2] in self.tap_resolutions
        ]
        if not tapped:
            widths = sorted({h.shape[2] for h in maps})
            raise ValueError(f"tap_resolutions is {self.tap_resolutions}; widths are {widths}")
        return sum(tapped[1:], start=tapped[0])

    def _tap(self, name: str) -> LatentTap:
        return LatentTap(
            self.latent_dim,
            self.tap_channels,
            self.tap_units,
            self.tap_layers,
            self.dtype,
            name=name,
        )


class NCSNppDecoder(NCSNpp, kw_only=True):
    """Rectified-flow velocity network: NCSN++ conditioned on time, latents and labels.

    `progressive` 'output_skip' sums upsampled images of all levels, 'none' takes the top level's.
    `time_embedding` is sinusoidal in 999 t ('positional') or of random Fourier frequencies in
    log(999 t) ('fourier'); `scale_by_sigma` divides the velocity by 999 t and needs 'fourier'.
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
        """Velocity at x_t, with t = 0 noise and t = 1 data; `train` turns dropout on.

        t is clipped to [0, 1], for 'fourier' to [1e-5, 1]. `labels` are one-hot; latents or labels
        None leaves them out of the network. Raises ValueError for an unknown or contradictory
        field or an image size that the levels do not divide.
        """
        self._check_fields()
        s = self._noise_level(t)
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
        """Patches from the middle's output, consuming the downward path's maps from the last on."""
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

    def _noise_level(self, t: Array) -> Array:
        earliest = MIN_FOURIER_TIME if self.time_embedding == "fourier" else 0.0
        return MAX_NOISE_LEVEL * jnp.clip(t.astype(at_least_float32(t.dtype)), earliest, 1.0)

    def _check_fields(self) -> None:
        _check_choice("progressive", self.progressive, ("none", "output_skip"))
        _check_choice("time_embedding", self.time_embedding, ("positional", "fourier"))
        if self.scale_by_sigma and self.time_embedding != "fourier":
            raise ValueError("scale_by_sigma needs time_embedding 'fourier'")


class NCSNppGenerator(NCSNpp, kw_only=True):
    """Images of latents in one pass: the middle and the upward half of NCSN++.

    `progressive_input` has no meaning here: there is no input.
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
        raise ValueError(f"{name} is {value!r}; it can be {' or '.join(map(repr, choices))}")
