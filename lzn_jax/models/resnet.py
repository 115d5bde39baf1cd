"""ResNet with group normalisation and an MLP head: LZN's encoder for representations (paper D.2).

Blocks are the bottlenecks of He et al. (arXiv:1512.03385). Images are NHWC. Convolutions pad
symmetrically, unlike XLA's 'SAME' at stride 2.
"""

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
from lzn_jax.parts import choice, count, counts, knob, knobs, require

EXPANSION = 4  # ratio of a bottleneck's output channels to its width
EPSILON = 1e-5  # added to variances in normalisations

_ONES = nn.initializers.ones_init()
# Uniform in +- 1 / sqrt(fan in).
_KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ResNet(nn.Module):
    """Maps images in [-1, 1] to anchors or to pooled features.

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
        del train  # group normalisation does not change in training
        x = self._stem((images + 1) / 2)
        bottleneck = nn.remat(Bottleneck) if self.remat else Bottleneck
        stages = zip(self.stage_sizes, self.stage_widths, strict=True)
        for stage, (size, width) in enumerate(stages):
            for i in range(size):
                stride, name = 2 if i == 0 and stage > 0 else 1, f"stage_{stage}_block_{i}"
                x = bottleneck(width, stride, i == 0, self.norm_groups, self.dtype, name=name)(x)
        pooled = jnp.mean(x.astype(at_least_float32(self.dtype)), axis=(1, 2))
        # Also for 'backbone', so that initialisation creates all parameters.
        anchors = self._head(pooled)
        return pooled if features == "backbone" else anchors

    def _stem(self, x: Array) -> Array:
        size, stride = (3, 1) if self.stem == "small" else (7, 2)
        x = conv(self.stem_width, size, stride, self.dtype, "stem_conv_0")(x)
        x = nn.relu(GroupNorm(self.norm_groups, EPSILON, self.dtype, name="stem_norm_0")(x))
        if self.stem == "small":
            return x
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

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
    norm_groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        shortcut = self._project(x) if self.projects else x
        h = conv(self.width, 1, 1, self.dtype, "conv_0")(x)
        h = nn.relu(self._norm("norm_0")(h))
        h = conv(self.width, 3, self.stride, self.dtype, "conv_1")(h)
        h = nn.relu(self._norm("norm_1")(h))
        h = conv(EXPANSION * self.width, 1, 1, self.dtype, "conv_2")(h)
        # The scale starts at zero, so that each block is initially its shortcut.
        h = self._norm("norm_2", nn.initializers.zeros_init())(h)
        return nn.relu(shortcut + h)

    def _project(self, x: Array) -> Array:
        x = conv(EXPANSION * self.width, 1, self.stride, self.dtype, "shortcut_conv")(x)
        return self._norm("shortcut_norm")(x)

    def _norm(self, name: str, scale_init: nn.initializers.Initializer = _ONES) -> GroupNorm:
        return GroupNorm(self.norm_groups, EPSILON, self.dtype, scale_init, name=name)


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
    padding: str | Sequence[tuple[int, int]],
    *,
    precision: jax.lax.PrecisionLike,
    **layout: Any,
) -> Array:
    """1x1 convolution, computed as a matrix product except on TPUs.

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
    groups = fields["norm_groups"]
    for name in ("stem_width", "stage_widths", "head_dim"):
        got = fields[name]
        require(
            all(width % groups == 0 for width in (got if isinstance(got, tuple) else (got,))),
            f"encoder.{name} must be a multiple of {groups}, as encoder.norm_groups is "
            f"{groups}, got {got}",
        )
    dim, got = values["latent.dim"], fields["head_dim"]
    require(got == dim, f"encoder.head_dim must be latent.dim {dim}, got {got}")


parts.add("encoder", "resnet", ResNet, knobs(ResNet, "encoder"), check=_check_widths)
