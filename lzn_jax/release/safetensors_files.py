"""Tensors of safetensors files as NumPy arrays."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lzn_jax.configuration import UserError
from lzn_jax.run import reporting


def read(
    path: str | os.PathLike[str], want: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """Tensors by name for which `want(name)` is true; other tensors are not read.

    bfloat16 is the type of ml_dtypes. Raises UserError if the file is missing, not a safetensors
    file, or damaged; damage to values is not detected.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys() if want(name)}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    # AttributeError: a type that NumPy lacks, such as float8.
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as a safetensors file: {reason}") from error


def by_name(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by path, such as `variables/encoder/params/Dense_0/kernel`."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors by name, atomically."""
    # The library stores the buffer of an array without regard to its strides.
    content = save({name: np.asarray(array, order="C") for name, array in tensors.items()})
    reporting.write_bytes(path, content)
