"""InceptionV3 as FID uses it: the network of the TensorFlow graph `inception-2015-12-05`.

Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception architecture for computer
vision", CVPR 2016 (arXiv:1512.00567). That graph differs from other versions: it resizes images
without half-pixel centres, its average pools exclude padding, the last block has a max pool, and
there are 1008 classes. Layer names follow PyTorch's version, so they match the names in the weights
file. All computations are in full float32 precision, even on devices with a lower default.
"""

from typing import cast

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.lax import Precision
from jaxtyping import Array, Float, UInt8

from lzn_jax.evaluation.extractors import Outputs

INPUT_SIZE = 299
SPATIAL_CHANNELS = 7


class ConvUnit(nn.Module):
    """Convolution, batch normalisation with stored statistics, ReLU."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(
            self.features,
            self.kernel,
            self.stride,
            self.padding,
            use_bias=False,
            precision=Precision.HIGHEST,
            name="conv",
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


def _halve(features: int) -> ConvUnit:
    """Unbound 3x3 unit of stride 2 without padding."""
    return ConvUnit(features, (3, 3), 2, "VALID", parent=None)


def _conv(features: int, height: int = 1, width: int = 1) -> ConvUnit:
    return ConvUnit(features, (height, width), parent=None)


def _branch(x: Array, name: str, *units: ConvUnit) -> Array:
    """Applies units in sequence; their names are numbered from 1 if there are several."""
    for number, unit in enumerate(units, start=1):
        suffix = f"_{number}" if len(units) > 1 else ""
        x = unit.copy(name=name + suffix)(x)
    return x


def _average_pool(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _halving_pool(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2))


class BlockA(nn.Module):
    """Mixed_5b, 5c and 5d, on maps of 35 x 35."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        branches = [
            _branch(x, "branch1x1", _conv(64)),
            _branch(x, "branch5x5", _conv(48), _conv(64, 5, 5)),
            _branch(x, "branch3x3dbl", _conv(64), _conv(96, 3, 3), _conv(96, 3, 3)),
            _branch(_average_pool(x), "branch_pool", _conv(self.pool_features)),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockB(nn.Module):
    """Mixed_6a, from 35 x 35 to 17 x 17."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        branches = [
            _branch(x, "branch3x3", _halve(384)),
            _branch(x, "branch3x3dbl", _conv(64), _conv(96, 3, 3), _halve(96)),
            _halving_pool(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockC(nn.Module):
    """Mixed_6b to 6e, on maps of 17 x 17."""

    inner: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        reduce, row, column = _conv(self.inner), _conv(self.inner, 1, 7), _conv(self.inner, 7, 1)
        branches = [
            _branch(x, "branch1x1", _conv(192)),
            _branch(x, "branch7x7", reduce, row, _conv(192, 7, 1)),
            _branch(x, "branch7x7dbl", reduce, column, row, column, _conv(192, 1, 7)),
            _branch(_average_pool(x), "branch_pool", _conv(192)),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockD(nn.Module):
    """Mixed_7a, from 17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        row, column = _conv(192, 1, 7), _conv(192, 7, 1)
        branches = [
            _branch(x, "branch3x3", _conv(192), _halve(320)),
            _branch(x, "branch7x7x3", _conv(192), row, column, _halve(192)),
            _halving_pool(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockE(nn.Module):
    """Mixed_7b and 7c, on maps of 8 x 8; the graph has `max_pool` in the last block only."""

    max_pool: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        pooled = nn.max_pool(x, (3, 3), padding="SAME") if self.max_pool else _average_pool(x)
        fork = _branch(x, "branch3x3_1", _conv(384))
        deep_fork = _branch(x, "branch3x3dbl", _conv(448), _conv(384, 3, 3))
        branches = [
            _branch(x, "branch1x1", _conv(320)),
            _branch(fork, "branch3x3_2a", _conv(384, 1, 3)),
            _branch(fork, "branch3x3_2b", _conv(384, 3, 1)),
            _branch(deep_fork, "branch3x3dbl_3a", _conv(384, 1, 3)),
            _branch(deep_fork, "branch3x3dbl_3b", _conv(384, 3, 1)),
            _branch(pooled, "branch_pool", _conv(192)),
        ]
        return jnp.concatenate(branches, axis=-1)


class InceptionV3(nn.Module):
    """The network after the resize."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Outputs:
        """Outputs for images in [-1, 1) of at least 75 x 75 pixels.

        features (b, 2048): pool_3, for FID, precision and recall, KID.
        spatial (b, s): mixed_6/conv, the first channels of Mixed_6d.branch1x1 after its ReLU, with
        s = 7 x 17 x 17 = 2023 for an input of 299 x 299, for sFID (Nash et al., arXiv:2103.03841).
        logits (b, 1008): pool_3 times the class weights, without bias, for the inception score.
        """
        x = ConvUnit(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = ConvUnit(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = ConvUnit(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = ConvUnit(80, name="Conv2d_3b_1x1")(_halving_pool(x))
        x = ConvUnit(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = BlockA(32, name="Mixed_5b")(_halving_pool(x))
        x = BlockA(64, name="Mixed_5c")(x)
        x = BlockA(64, name="Mixed_5d")(x)
        x = BlockB(name="Mixed_6a")(x)
        x = BlockC(128, name="Mixed_6b")(x)
        x = BlockC(160, name="Mixed_6c")(x)
        x = BlockC(160, name="Mixed_6d")(x)
        spatial = x[..., :SPATIAL_CHANNELS].reshape(len(x), -1)
        x = BlockC(192, name="Mixed_6e")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(max_pool=False, name="Mixed_7b")(x)
        x = BlockE(max_pool=True, name="Mixed_7c")(x)
        features = jnp.mean(x, axis=(1, 2))
        classes = nn.Dense(1008, use_bias=False, precision=Precision.HIGHEST, name="fc")
        return Outputs(features, spatial, classes(features))


def inception_outputs(variables: dict, images: UInt8[Array, "b h w c"]) -> Outputs:
    """Outputs for RGB or grey pixels 0 ... 255 of any size, scaled as in the TensorFlow graph."""
    pixels = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
    pixels = resize_bilinear(pixels, INPUT_SIZE)
    return cast(Outputs, InceptionV3().apply(variables, (pixels - 128) / 128))


def resize_bilinear(images: Float[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """TensorFlow 1's bilinear resize, float32: pixel i of the result is at i * old size / new size.

    Uses neither half-pixel centres nor aligned corners nor antialiasing; positions beyond the last
    pixel take its value.
    """
    return _resize_axis(_resize_axis(images, size, axis=1), size, axis=2)


def _resize_axis(images: Float[Array, "b h w c"], size: int, axis: int) -> Array:
    length = images.shape[axis]
    position = np.arange(size) * (length / size)
    lower = np.floor(position).astype(int)
    share = np.expand_dims(position - lower, tuple(i for i in range(4) if i != axis))
    below = jnp.take(images, lower, axis=axis)
    above = jnp.take(images, np.minimum(lower + 1, length - 1), axis=axis)
    # In this form, constant images stay exactly constant.
    return below + jnp.asarray(share, images.dtype) * (above - below)
