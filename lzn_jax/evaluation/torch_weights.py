"""Flax variables of a network from tensors with PyTorch's names and layouts."""

import functools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from lzn_jax.configuration import UserError

_TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}  # OIHW from HWIO, by the number of axes of a kernel
_FLOAT32 = (np.dtype(np.float32),)


def convert(
    network: nn.Module,
    image_size: int,
    state: Mapping[str, Any],
    refusal: str,
    dtypes: Collection[np.dtype] = _FLOAT32,
) -> dict[str, Any]:
    """Variables of a network as float32 NumPy arrays, from exactly its tensors by name.

    Raises UserError, starting with `refusal`, that names a tensor that is missing, left over, or of
    another shape or dtype.
    """
    remaining, arrays = dict(state), {}
    for path, shape in _shapes(network, image_size).items():
        *layers, leaf = path[1:]
        name = ".".join((*layers, _TORCH_LEAVES.get(leaf, leaf)))
        axes = _TORCH_AXES[len(shape)] if leaf == "kernel" else tuple(range(len(shape)))
        torch_shape = tuple(shape[axis] for axis in axes)
        array = checked_tensor(remaining, name, torch_shape, refusal, dtypes)
        arrays[path] = array.transpose(np.argsort(axes)).astype(np.float32, copy=False)
        del remaining[name]
    if remaining:
        raise UserError(f"{refusal}: {min(remaining)} is left over")
    return traverse_util.unflatten_dict(arrays)


@functools.cache
def _shapes(network: nn.Module, image_size: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables).items()}


def checked_tensor(
    state: Mapping[str, Any],
    name: str,
    shape: tuple[int | None, ...],
    refusal: str,
    dtypes: Collection[np.dtype],
) -> np.ndarray:
    """Tensor of that name; raises UserError for a wrong dtype or shape (None: any size but 0)."""
    if name not in state:
        raise UserError(f"{refusal}: it lacks {name}")
    array: np.ndarray = state[name]
    fits = len(array.shape) == len(shape) and all(
        size > 0 and expected in (None, size)
        for size, expected in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype not in dtypes:
        expected = str(shape).replace("None", "any")
        raise UserError(f"{refusal}: {name} is {array.dtype}{array.shape}, not float32{expected}")
    return array
