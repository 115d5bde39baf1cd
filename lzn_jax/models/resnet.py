"""ResNet with group normalisation and an MLP head: LZN's encoder for representations (paper D.2).

Bottleneck blocks of He et al. (arXiv:1512.03385), optionally with selective kernels (Li et al.,
arXiv:1903.06586) as in SimCLRv2 (arXiv:2006.10029). Images are NHWC. Convolutions pad
symmetrically, which differs from XLA's 'SAME' at stride 2.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lzn_jax import parts
from lzn_jax.models.ncsnpp import at_least_float32
from lzn_jax.models.norm import GroupNorm
from lzn_jax.parts import amount, choice, count, counts, knob, knobs, require

EXPANSION = 4  # ratio of a bottleneck's output channels to its width
MIN_SELECTION_UNITS = 32
EPSILON = 1e-5  # added to variances in normalisations

_ONES = nn.initializers.ones_init()
# Uniform in +- 1 / sqrt(fan in).
_KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ResNet(nn.Module):
    """Images in [-1, 1] to anchors or to pooled features.

    All stages but the first halve the image. `norm_groups` must divide every normalised width.
    """

    stage_sizes: tuple[int, ...] = knob(counts("blocks of each stage", nonempty=True))
    stage_widths: tuple[int, ...] = knob(
        counts("bottleneck width of each stage, 1/4 of its channels", nonempty=True)
    )
    head_dim: int = knob(count("outputs of the head, equal to latent.dim"))
    stem: Literal["imagenet", "small"] = knob(
        choice(
            "first layers, 'imagenet' = halve the image twice, 'small' = keep its size",
            "imagenet",
            "small",
        )
    )
    stem_width: int = knob(count("channels of the stem", 64))
    selective_kernel_ratio: float = knob(
        amount("hidden units over width in the selection between kernels, 0 = a single kernel", 0.0)
    )
    norm_groups: int = knob(count("groups of the normalisations", 32))
    head_layers: int = knob(count("dense layers of the head, each with a normalisation", 2))
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w c"],
        *,
        train: bool,
        features: Literal["head", "backbone"] = "head",
    ) -> Float[Array, "b d"]:
        """Anchors (b, head_dim), or the backbone's features (b, 4 x the last width)."""
        del train  # group normalisation is the same in training
        x = self._stem((images + 1) / 2)
        bottleneck = nn.remat(Bottleneck) if self.remat else Bottleneck
        fields = self.selective_kernel_ratio, self.norm_groups, self.dtype
        stages = zip(self.stage_sizes, self.stage_widths, strict=True)
        for stage, (size, width) in enumerate(stages):
            for i in range(size):
                stride, name = 2 if i == 0 and stage > 0 else 1, f"stage_{stage}_block_{i}"
                x = bottleneck(width, stride, i == 0, *fields, name=name)(x)
        pooled = jnp.mean(x.astype(at_least_float32(self.dtype)), axis=(1, 2))
        # Also for 'backbone', so that initialisation creates all parameters.
        anchors = self._head(pooled)
        return pooled if features == "backbone" else anchors

    def _stem(self, x: Array) -> Array:
        width, half = self.stem_width, self.stem_width // 2
        if self.stem == "small":
            return self._stem_conv(x, width, 3, 1, 0)
        if self.selective_kernel_ratio > 0:
            x = self._stem_conv(x, half, 3, 2, 0)
            x = self._stem_conv(x, half, 3, 1, 1)
            x = self._stem_conv(x, width, 3, 1, 2)
        else:
            x = self._stem_conv(x, width, 7, 2, 0)
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    def _stem_conv(self, x: Array, channels: int, size: int, stride: int, index: int) -> Array:
        x = conv(channels, size, stride, self.dtype, f"stem_conv_{index}")(x)
        norm = GroupNorm(self.norm_groups, EPSILON, self.dtype, name=f"stem_norm_{index}")
        return nn.relu(norm(x))

    def _head(self, x: Array) -> Array:
        units = [x.shape[-1]] * (self.head_layers - 1) + [self.head_dim]
        dtype = at_least_float32(self.dtype)
        for i, size in enumerate(units):
            x = dense(size, self.dtype, f"head_dense_{i}")(x if i == 0 else nn.relu(x))
            x = GroupNorm(self.norm_groups, EPSILON, dtype, name=f"head_norm_{i}")(x)
        return x


class Bottleneck(nn.Module):
    """Residual block of a 1x1, a 3x3 (with the stride) and a 1x1 convolution."""

    width: int
    stride: int
    projects: bool
    selective_kernel_ratio: float
    norm_groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        shortcut = self._project(x) if self.projects else x
        h = conv(self.width, 1, 1, self.dtype, "conv_0")(x)
        h = nn.relu(self._norm("norm_0")(h))
        if self.selective_kernel_ratio > 0:
            fields = self.selective_kernel_ratio, self.norm_groups, self.dtype
            h = SelectiveKernel(self.width, self.stride, *fields, name="selective_kernel")(h)
        else:
            h = conv(self.width, 3, self.stride, self.dtype, "conv_1")(h)
            h = nn.relu(self._norm("norm_1")(h))
        h = conv(EXPANSION * self.width, 1, 1, self.dtype, "conv_2")(h)
        # The scale starts at zero, so that each block is initially its shortcut.
        h = self._norm("norm_2", nn.initializers.zeros_init())(h)
        return nn.relu(shortcut + h)

    def _project(self, x: Array) -> Array:
        stride = self.stride
        if self.selective_kernel_ratio > 0 and stride > 1:
            # Means include the zero padding of odd edges, as in SimCLRv2.
            x, stride = nn.avg_pool(x, (2, 2), strides=(2, 2), padding="SAME"), 1
        x = conv(EXPANSION * self.width, 1, stride, self.dtype, "shortcut_conv")(x)
        return self._norm("shortcut_norm")(x)

    def _norm(self, name: str, scale_init: nn.initializers.Initializer = _ONES) -> GroupNorm:
        return GroupNorm(self.norm_groups, EPSILON, self.dtype, scale_init, name=name)


class SelectiveKernel(nn.Module):
    """Two 3x3 convolutions, mixed per channel with weights that depend on the image.

    Both have the same kernel size, as in SimCLRv2, so one convolution of twice the width does.
    """

    width: int
    stride: int
    ratio: float
    norm_groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.width}"]:
        h = conv(2 * self.width, 3, self.stride, self.dtype, "conv")(x)
        h = nn.relu(GroupNorm(self.norm_groups, EPSILON, self.dtype, name="norm")(h))
        first, second = jnp.split(h, 2, axis=-1)
        summary = jnp.mean(first + second, axis=(1, 2))
        share = max(self.width * self.ratio, MIN_SELECTION_UNITS)
        units = math.ceil(share / self.norm_groups) * self.norm_groups
        hidden = dense(units, self.dtype, "squeeze")(summary)
        norm = GroupNorm(self.norm_groups, EPSILON, self.dtype, name="squeeze_norm")
        hidden = nn.relu(norm(hidden))
        logits = dense(2 * self.width, self.dtype, "select")(hidden)
        logits = logits.reshape(-1, 2, self.width).astype(at_least_float32(self.dtype))
        one, other = jnp.split(nn.softmax(logits, axis=1)[:, :, None, None], 2, axis=1)
        return (first * one[:, 0] + second * other[:, 0]).astype(self.dtype)


def dense(units: int, dtype: DTypeLike, name: str) -> nn.Dense:
    """Linear map without bias."""
    return nn.Dense(units, use_bias=False, dtype=dtype, kernel_init=_KERNEL_INIT, name=name)


def conv(channels: int, size: int, stride: int, dtype: DTypeLike, name: str) -> nn.Conv:
    """Convolution without bias, padded by half the kernel size on every side."""
    return nn.Conv(
        channels,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=_KERNEL_INIT,
        conv_general_dilated=_pointwise if size == 1 else None,
        name=name,
    )


def _pointwise(
    images: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Any,
    *,
    precision: jax.lax.PrecisionLike,
    **layout: Any,
) -> Array:
    """A 1x1 convolution, as a matrix product except on TPUs.

    The gradient of XLA's convolution is much slower on a CPU, while TPUs are faster with it.
    """

    def product(images: Array, kernel: Array) -> Array:
        pixels = images[:, :: strides[0], :: strides[1]]
        flat = pixels.reshape(-1, pixels.shape[-1])
        return jnp.matmul(flat, kernel[0, 0], precision=precision).reshape(*pixels.shape[:-1], -1)

    def convolution(images: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            images, kernel, strides, padding, precision=precision, **layout
        )

    return jax.lax.platform_dependent(images, kernel, tpu=convolution, default=product)


def _check_widths(values: Mapping[str, Any]) -> None:
    fields = {name.removeprefix("encoder."): values[name] for name in knobs(ResNet, "encoder")}
    num_stages, widths = len(fields["stage_sizes"]), fields["stage_widths"]
    require(
        len(widths) == num_stages,
        f"encoder.stage_widths must have {num_stages} entries, one for each of "
        f"encoder.stage_sizes, got {widths}",
    )
    # The stem with selective kernels has layers of half its width.
    groups, halves = fields["norm_groups"], 2 if fields["selective_kernel_ratio"] > 0 else 1
    divisors = {"stem_width": groups * halves, "stage_widths": groups, "head_dim": groups}
    for name, divisor in divisors.items():
        got = fields[name]
        require(
            all(width % divisor == 0 for width in (got if isinstance(got, tuple) else (got,))),
            f"encoder.{name} must be a multiple of {divisor}, as encoder.norm_groups is "
            f"{groups}, got {got}",
        )
    dim, got = values["latent.dim"], fields["head_dim"]
    require(got == dim, f"encoder.head_dim must be latent.dim {dim}, got {got}")


parts.add("encoder", "resnet", ResNet, knobs(ResNet, "encoder"), check=_check_widths)
