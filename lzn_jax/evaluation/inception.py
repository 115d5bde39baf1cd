"""The FID InceptionV3, with weights from the user's file."""

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

from lzn_jax.errors import UserError
from lzn_jax.evaluation.features import INCEPTION, Extractor, Outputs
from lzn_jax.release import torch_files

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
        settings = {"use_bias": False, "precision": Precision.HIGHEST, "name": "conv"}
        x = nn.Conv(self.features, self.kernel, self.stride, self.padding, **settings)(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


def _conv(features: int, height: int = 1, width: int = 1) -> ConvUnit:
    return ConvUnit(features, (height, width), parent=None)


def _halve(features: int) -> ConvUnit:
    return ConvUnit(features, (3, 3), 2, "VALID", parent=None)


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
        one = _branch(x, "branch1x1", _conv(64))
        five = _branch(x, "branch5x5", _conv(48), _conv(64, 5, 5))
        three = _branch(x, "branch3x3dbl", _conv(64), _conv(96, 3, 3), _conv(96, 3, 3))
        pooled = _branch(_average_pool(x), "branch_pool", _conv(self.pool_features))
        return jnp.concatenate([one, five, three, pooled], axis=-1)


class BlockB(nn.Module):
    """Mixed_6a, from 35 x 35 to 17 x 17."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = _branch(x, "branch3x3", _halve(384))
        double = _branch(x, "branch3x3dbl", _conv(64), _conv(96, 3, 3), _halve(96))
        return jnp.concatenate([three, double, _halving_pool(x)], axis=-1)


class BlockC(nn.Module):
    """Mixed_6b to 6e, on maps of 17 x 17."""

    inner: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        reduce, row, column = _conv(self.inner), _conv(self.inner, 1, 7), _conv(self.inner, 7, 1)
        one = _branch(x, "branch1x1", _conv(192))
        seven = _branch(x, "branch7x7", reduce, row, _conv(192, 7, 1))
        double = _branch(x, "branch7x7dbl", reduce, column, row, column, _conv(192, 1, 7))
        pooled = _branch(_average_pool(x), "branch_pool", _conv(192))
        return jnp.concatenate([one, seven, double, pooled], axis=-1)


class BlockD(nn.Module):
    """Mixed_7a, from 17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = _branch(x, "branch3x3", _conv(192), _halve(320))
        seven = _branch(
            x, "branch7x7x3", _conv(192), _conv(192, 1, 7), _conv(192, 7, 1), _halve(192)
        )
        return jnp.concatenate([three, seven, _halving_pool(x)], axis=-1)


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


_UNUSED = re.compile(r".*\.num_batches_tracked|fc\.bias")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth?$")


def inception_extractor(path: str | os.PathLike[str]) -> Extractor:
    """The FID Inception network with weights from `path`, read by `load_inception`."""
    return Extractor(INCEPTION, load_inception(path), inception_outputs)


def load_inception(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Variables of `InceptionV3` from PyTorch's FID file (pt_inception-2015-12-05-6726825d.pth).

    A file name that ends in a hash, as that one does, must contain the first 8 hexadecimal digits
    of the file's SHA-256. Raises UserError if the file is missing, damaged or not of this network;
    the message names a tensor that is missing, left over or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; the Inception weights of FID are pytorch-fid's "
            "pt_inception-2015-12-05-6726825d.pth"
        )
    if match := _HASH_IN_NAME.search(path.name):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
        if digest != match[1]:
            raise UserError(
                f"{path} does not match the hash in its name: its SHA-256 starts with {digest}, "
                f"not {match[1]}; download it again, or rename it if you saved it yourself"
            )
    return from_torch(torch_files.read(path, streams=True), str(path))  # the file dates from 2019


def from_torch(state: Any, source: str) -> dict[str, Any]:
    """Variables from a PyTorch state dict; `source` names it in errors.

    Ignores batch counters and the bias of the class logits, which no metric uses.
    """
    used = named_tensors(state, source, lambda name: _UNUSED.fullmatch(name) is None)
    return convert(InceptionV3(), 75, used, f"{source} is not the FID Inception network")


def named_tensors(state: Any, source: str, is_used: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Used tensors of a state dict read from `source`; raises UserError for anything else."""
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
) -> dict[str, Any]:
    """Variables of a network as float32 NumPy arrays, from exactly its tensors by name.

    Raises UserError, starting with `refusal`, that names a tensor that is missing, left over, or of
    another shape or dtype.
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
    """Tensor of that name; raises UserError for a wrong dtype or shape (None: any size but 0)."""
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
