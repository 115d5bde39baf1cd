"""Tensors of safetensors files, read with NumPy alone.

Such a file is the length of its header (8 bytes, the lowest first), the header, and the tensors'
bytes one after another. The header is JSON: each tensor's type, shape and range of bytes by name.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from lzn_jax.configuration import UserError

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_MAX_HEADER = 100_000_000  # of the format


class _Entry(NamedTuple):
    """What the header says of a tensor; its bytes are counted from the header's end."""

    begin: int
    end: int
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


def read(
    path: str | os.PathLike[str], want: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """The tensors, read-only, whose names `want` agrees to; the others' bytes stay in the file.

    Raises UserError for a file that is none, or is damaged anywhere but in the tensors' values.
    """
    try:
        with open(path, "rb") as file:
            return dict(_tensors(file, want))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as a safetensors file: {reason}") from error


def _tensors(file: BinaryIO, want: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray]]:
    entries = sorted(_entry(name, value) for name, value in _header(file).items())
    start, reached = file.tell(), 0
    for entry in entries:
        if entry.begin != reached:
            raise ValueError(f"the bytes of {entry.name[:100]!r} do not follow those before them")
        reached = entry.end
    size = os.fstat(file.fileno()).st_size - start
    if size != reached:
        raise ValueError(f"its tensors have {size} bytes, its header promises {reached}")
    for entry in entries:
        if want(entry.name):
            file.seek(start + entry.begin)
            content = file.read(entry.end - entry.begin)
            yield entry.name, np.frombuffer(content, entry.dtype).reshape(entry.shape)


def _header(file: BinaryIO) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER:
        raise ValueError("it does not begin with the length of a header")
    text = file.read(length)
    if len(text) != length:
        raise ValueError("it ends within its header")
    header = json.loads(text.decode(), object_pairs_hook=_without_repetition)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    return header


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("its header has a name twice")
    return dict(pairs)


def _entry(name: str, value: Any) -> _Entry:
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if (
            dtype in _DTYPES and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        ):
            if end - begin != math.prod(shape) * _DTYPES[dtype].itemsize:
                raise ValueError(f"the bytes of {name[:100]!r} do not make its shape")
            return _Entry(begin, end, name, _DTYPES[dtype], tuple(shape))
        case _:
            raise ValueError(f"its header gives {name[:100]!r} no type, shape and range of bytes")
