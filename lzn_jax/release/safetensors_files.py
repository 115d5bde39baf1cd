"""Tensors of safetensors files as NumPy arrays, and one line for a file that cannot be read."""

import os
from collections.abc import Callable

import numpy as np
from safetensors import SafetensorError, safe_open

from lzn_jax.configuration import UserError


def read(
    path: str | os.PathLike[str], want: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """The tensors whose names `want` agrees to; the others' bytes stay in the file.

    bfloat16 comes as ml_dtypes'. Raises UserError for a file that is none, or is damaged anywhere
    but in the tensors' values.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys() if want(name)}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    # AttributeError: a type that NumPy has not, as float8.
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as a safetensors file: {reason}") from error
