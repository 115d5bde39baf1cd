"""Weights of the FID InceptionV3 from the user's file."""

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lzn_jax.configuration import UserError
from lzn_jax.evaluation import cache
from lzn_jax.evaluation.inception import InceptionV3
from lzn_jax.release import torch_files

# What the name of a leaf is in PyTorch.
_TORCH_LEAVES: dict[tuple[str, ...], str] = {
    ("conv", "kernel"): "conv.weight",
    ("fc", "kernel"): "fc.weight",
    ("bn", "scale"): "bn.weight",
    ("bn", "bias"): "bn.bias",
    ("bn", "mean"): "bn.running_mean",
    ("bn", "var"): "bn.running_var",
}
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth?$")


class InceptionWeights(NamedTuple):
    """Variables of `InceptionV3` and the hash of their names and values."""

    variables: dict[str, Any]
    key: str


def load_inception(path: str | os.PathLike[str]) -> InceptionWeights:
    """Weights from PyTorch's FID file (pt_inception-2015-12-05-6726825d.pth).

    A file whose name ends in a hash, as that one's does, must have it: the first 8 hexadecimal
    digits of its SHA-256. Raises UserError for a file that is missing, damaged or not of this
    network: a tensor that is missing, left over or of another shape is named.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; the Inception weights of FID are pytorch-fid's "
            "pt_inception-2015-12-05-6726825d.pth"
        )
    arrays = _read_torch(path)
    parts = [part for name in sorted(arrays) for part in ("/".join(name), arrays[name])]
    variables = traverse_util.unflatten_dict(jax.tree.map(jnp.asarray, arrays))
    return InceptionWeights(variables, cache.key_of(*parts))


def from_torch(state: Mapping[str, np.ndarray], source: str) -> dict[tuple[str, ...], np.ndarray]:
    """Flat variables from a state dict in PyTorch's names; `source` is what errors name.

    Convolutions turn from OIHW to HWIO, the classes' weights from (1008, 2048) to (2048, 1008).
    Batch counters and the classes' bias, which no metric takes, are left.
    """
    state = {name: array for name, array in state.items() if not _is_unused(name)}
    arrays = {}
    for name, shape in _shapes().items():
        torch_name = ".".join((*name[1:-2], _TORCH_LEAVES[name[-2:]]))
        if torch_name not in state:
            raise UserError(f"{source} is not the FID Inception network: it lacks {torch_name}")
        array = state.pop(torch_name)
        order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}.get(array.ndim, range(array.ndim))
        arrays[name] = _checked(array.transpose(order), shape, torch_name, source)
    if state:
        raise UserError(f"{source} is not the FID Inception network: {min(state)} is left over")
    return arrays


def _is_unused(torch_name: str) -> bool:
    return torch_name.endswith(".num_batches_tracked") or torch_name == "fc.bias"


def _read_torch(path: Path) -> dict[tuple[str, ...], np.ndarray]:
    expected = _HASH_IN_NAME.search(path.name)
    if expected is not None:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()[:8]
        if found != expected[1]:
            raise UserError(
                f"{path} is not what its name says: its SHA-256 starts with {found}, "
                f"not {expected[1]}; download it again, or rename it if it was saved anew"
            )
    state = torch_files.read(path, streams=True)  # the original file is of 2019
    if not isinstance(state, dict) or not all(isinstance(a, np.ndarray) for a in state.values()):
        raise UserError(f"{path} is not a state dict: tensors by name are expected")
    return from_torch(state, str(path))


def _checked(array: np.ndarray, shape: tuple[int, ...], name: str, source: str) -> np.ndarray:
    if array.shape != shape or array.dtype != np.float32:
        raise UserError(
            f"{source} is not the FID Inception network: {name} is {array.dtype}{array.shape}, "
            f"not float32{shape} (as Flax lays it out)"
        )
    return array


@functools.cache
def _shapes() -> dict[tuple[str, ...], tuple[int, ...]]:
    """Shape of each variable by its path, from the network itself."""
    image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    variables = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables).items()}
