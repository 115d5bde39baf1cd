"""FID's InceptionV3, with weights from the user's file."""

import functools
import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.lax import Precision
from jaxtyping import Array, Float, UInt8

from lzn_jax import torch_files
from lzn_jax.errors import UserError
from lzn_jax.evaluation.features import INCEPTION, Extractor, Outputs
from lzn_jax.models import Tree

INPUT_SIZE = 299
SPATIAL_CHANNELS = 7
Conv = functools.partial(nn.Conv, use_bias=False, precision=Precision.HIGHEST)


class ConvUnit(nn.Module):
    """Convolution, batch normalisation with stored statistics, ReLU."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.features, self.kernel, self.stride, self.padding, name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


_HALVE = ((3, 3), 2, "VALID")  # kernel, stride and padding


def _branch(x: Array, name: str, *units: tuple[Any, ...]) -> Array:
    """Applies units in sequence. If there are several, their names are numbered from 1."""
    for number, unit in enumerate(units, start=1):
        suffix = f"_{number}" if len(units) > 1 else ""
        x = ConvUnit(*unit, name=name + suffix)(x)
    return x


def _average_pool(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _halving_pool(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _block_a(x: Array, name: str, pool_features: int) -> Array:
    """Mixed_5b, 5c and 5d, on maps of 35 x 35."""
    one = _branch(x, f"{name}.branch1x1", (64,))
    five = _branch(x, f"{name}.branch5x5", (48,), (64, (5, 5)))
    three = _branch(x, f"{name}.branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3)))
    pooled = _branch(_average_pool(x), f"{name}.branch_pool", (pool_features,))
    return jnp.concatenate([one, five, three, pooled], axis=-1)


def _block_b(x: Array, name: str) -> Array:
    """Mixed_6a, from 35 x 35 to 17 x 17."""
    three = _branch(x, f"{name}.branch3x3", (384, *_HALVE))
    double = _branch(x, f"{name}.branch3x3dbl", (64,), (96, (3, 3)), (96, *_HALVE))
    return jnp.concatenate([three, double, _halving_pool(x)], axis=-1)


def _block_c(x: Array, name: str, inner: int) -> Array:
    """Mixed_6b to 6e, on maps of 17 x 17."""
    reduce, row, column = (inner,), (inner, (1, 7)), (inner, (7, 1))
    one = _branch(x, f"{name}.branch1x1", (192,))
    seven = _branch(x, f"{name}.branch7x7", reduce, row, (192, (7, 1)))
    double = _branch(x, f"{name}.branch7x7dbl", reduce, column, row, column, (192, (1, 7)))
    pooled = _branch(_average_pool(x), f"{name}.branch_pool", (192,))
    return jnp.concatenate([one, seven, double, pooled], axis=-1)


def _block_d(x: Array, name: str) -> Array:
    """Mixed_7a, from 17 x 17 to 8 x 8."""
    three = _branch(x, f"{name}.branch3x3", (192,), (320, *_HALVE))
    row, column = (192, (1, 7)), (192, (7, 1))
    seven = _branch(x, f"{name}.branch7x7x3", (192,), row, column, (192, *_HALVE))
    return jnp.concatenate([three, seven, _halving_pool(x)], axis=-1)


def _block_e(x: Array, name: str, pooled: Array) -> Array:
    """Mixed_7b and 7c, on maps of 8 x 8."""
    fork = _branch(x, f"{name}.branch3x3_1", (384,))
    deep_fork = _branch(x, f"{name}.branch3x3dbl", (448,), (384, (3, 3)))
    branches = [
        _branch(x, f"{name}.branch1x1", (320,)),
        _branch(fork, f"{name}.branch3x3_2a", (384, (1, 3))),
        _branch(fork, f"{name}.branch3x3_2b", (384, (3, 1))),
        _branch(deep_fork, f"{name}.branch3x3dbl_3a", (384, (1, 3))),
        _branch(deep_fork, f"{name}.branch3x3dbl_3b", (384, (3, 1))),
        _branch(pooled, f"{name}.branch_pool", (192,)),
    ]
    return jnp.concatenate(branches, axis=-1)


class InceptionV3(nn.Module):
    """The network after the resize."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Outputs:
        """Outputs for images in [-1, 1) of at least 75 x 75 pixels.

        features (b, 2048): pool_3, for FID, KID, precision and recall.
        spatial (b, s): mixed_6/conv, the first channels of Mixed_6d.branch1x1 after its ReLU, with
        s = 7 x 17 x 17 = 2023 for an input of 299 x 299, for sFID (Nash et al., arXiv:2103.03841).
        logits (b, 1008): pool_3 times the class weights, without bias, for the inception score.
        """
        x = ConvUnit(32, *_HALVE, name="Conv2d_1a_3x3")(x)
        x = ConvUnit(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = ConvUnit(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = ConvUnit(80, name="Conv2d_3b_1x1")(_halving_pool(x))
        x = ConvUnit(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x)
        x = _block_a(_halving_pool(x), "Mixed_5b", 32)
        x = _block_a(_block_a(x, "Mixed_5c", 64), "Mixed_5d", 64)
        x = _block_c(_block_b(x, "Mixed_6a"), "Mixed_6b", 128)
        x = _block_c(_block_c(x, "Mixed_6c", 160), "Mixed_6d", 160)
        spatial = x[..., :SPATIAL_CHANNELS].reshape(len(x), -1)
        x = _block_d(_block_c(x, "Mixed_6e", 192), "Mixed_7a")
        x = _block_e(x, "Mixed_7b", _average_pool(x))
        x = _block_e(x, "Mixed_7c", nn.max_pool(x, (3, 3), padding="SAME"))  # as in the graph
        features = jnp.mean(x, axis=(1, 2))
        classes = nn.Dense(1008, use_bias=False, precision=Precision.HIGHEST, name="fc")
        return Outputs(features, spatial, classes(features))


def inception_outputs(variables: dict, images: UInt8[Array, "b h w c"]) -> Outputs:
    """Outputs for RGB or grey pixels 0 ... 255 of any size, scaled as in TensorFlow's graph."""
    pixels = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
    pixels = resize_bilinear(pixels, INPUT_SIZE)
    return cast(Outputs, InceptionV3().apply(variables, (pixels - 128) / 128))


def resize_bilinear(images: Float[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """TensorFlow 1's bilinear resize, float32: pixel i of the result is at i * old size / new size.

    It uses neither half-pixel centres nor aligned corners nor antialiasing. Positions beyond the
    last pixel get its value.
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


_UNUSED = re.compile(r".*\.num_batches_tracked|fc\.bias")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth?$")


def inception_extractor(path: str | os.PathLike[str]) -> Extractor:
    """FID's Inception network with weights from `path`, read by `load_inception`."""
    return Extractor(INCEPTION, load_inception(path), inception_outputs)


def load_inception(path: str | os.PathLike[str]) -> dict[str, Tree]:
    """Variables of `InceptionV3` from PyTorch's FID file (pt_inception-2015-12-05-6726825d.pth).

    If the file name ends in a hash, like this one, the hash must be the first 8 hexadecimal digits
    of the file's SHA-256. Raises UserError if the file is missing, damaged or from another network.
    The message names a tensor that does not fit.
    """
    path = Path(path)
    if path.is_file() and (match := _HASH_IN_NAME.search(path.name)):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
        if digest != match[1]:
            raise UserError(
                f"{path}: its SHA-256 starts with {digest}, not {match[1]} as its name says; "
                "download it again, or rename it if you saved it yourself"
            )
    return from_torch(torch_files.read(path, streams=True), str(path))  # the file dates from 2019


def from_torch(state: Tree, source: str) -> dict[str, Tree]:
    """Variables from a PyTorch state dict, which errors call `source`.

    Ignores batch counters and the bias of the class logits, which no metric uses.
    """
    used = named_tensors(state, source, lambda name: _UNUSED.fullmatch(name) is None)
    return convert(InceptionV3(), 75, used, f"{source} is not the FID Inception network")


def named_tensors(
    state: Tree, source: str, is_used: Callable[[str], bool]
) -> dict[str, np.ndarray]:
    """Used tensors of a state dict read from `source`. Raises UserError for anything else."""
    if isinstance(state, dict):
        used = {str(name): array for name, array in state.items() if is_used(str(name))}
        if all(isinstance(array, np.ndarray) for array in used.values()):
            return used
    raise UserError(f"{source} is not a state dict: expected tensors by name")


_TORCH_LEAVES = dict(kernel="weight", scale="weight", mean="running_mean", var="running_var")
_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}  # OIHW from HWIO, by the number of axes of a kernel


def convert(
    network: nn.Module,
    image_size: int,
    state: Mapping[str, np.ndarray],
    refusal: str,
    dtypes: Collection[np.dtype] = (np.dtype(np.float32),),
) -> dict[str, Tree]:
    """Variables of a network as float32 NumPy arrays, from exactly its tensors by name.

    Raises UserError for a tensor that is missing, left over, or of another shape or dtype. The
    message starts with `refusal` and names the tensor.
    """
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    remaining, arrays = dict(state), {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        kind, axes = path[-1], tuple(range(leaf.ndim))
        if kind == "kernel":
            axes = _TORCH_AXES[leaf.ndim]
        name, shape = ".".join((*path[1:-1], _TORCH_LEAVES.get(kind, kind))), leaf.shape
        torch_shape = tuple(shape[axis] for axis in axes)
        array = checked_tensor(remaining, name, torch_shape, refusal, dtypes)
        arrays[path] = array.transpose(np.argsort(axes)).astype(np.float32, copy=False)
        del remaining[name]
    if remaining:
        raise UserError(f"{refusal}: {min(remaining)} is left over")
    return traverse_util.unflatten_dict(arrays)


def checked_tensor(
    state: Mapping[str, np.ndarray],
    name: str,
    shape: tuple[int | None, ...],
    refusal: str,
    dtypes: Collection[np.dtype],
) -> np.ndarray:
    """Tensor of that name. Raises UserError for a wrong dtype or shape (None: any size but 0)."""
    if name not in state:
        raise UserError(f"{refusal}: it lacks {name}")
    array = state[name]
    fits = array.ndim == len(shape) and all(
        size > 0 and expected in (None, size)
        for size, expected in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype not in dtypes:
        expected = str(shape).replace("None", "any")
        raise UserError(f"{refusal}: {name} is {array.dtype}{array.shape}, not float32{expected}")
    return array
