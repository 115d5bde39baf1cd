"""Tensors of PyTorch's files (.pt, .pth), read without PyTorch, which takes hundreds of megabytes.

Such a file is a zip archive with `data.pkl`, a pickle of the saved object, and `data/<key>`, the
bytes of each tensor's storage. Before PyTorch 1.6, it was a stream of pickles followed by the
storages. The fourth pickle contained the object.
"""

import collections
import functools
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from lzn_jax.errors import UserError

_DTYPES: dict[str, np.dtype[Any]] = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
_STREAM_MAGIC, _STREAM_VERSION = 0x1950A86A20F9469CFC6C, 1001

Path = tuple[Any, ...]  # keys and indices that lead from the saved object to a tensor
Storages = Callable[[str], bytes]  # contents by key


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype


class StoredTensor(NamedTuple):
    """A tensor that was not read, as a view of a storage (`offset`, `strides` in elements)."""

    storage: _Storage
    offset: Any
    shape: Any
    strides: Any


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    return StoredTensor(storage, offset, shape, strides)


# Everything that a pickle may import. Nothing here leads to other objects of Python.
_IMPORTS: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    **{name: name for name in _DTYPES},
}


class _Unpickler(pickle.Unpickler):
    """Unpickles without running code. `dtypes` contains the types of storages by key."""

    def __init__(self, file: BinaryIO | io.BytesIO) -> None:
        super().__init__(file)
        self.dtypes: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module}.{name}"
        if name not in _IMPORTS:
            raise ValueError(f"it holds {name[:100]!r}, which is not a tensor or plain container")
        return _IMPORTS[name]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            # A stream contains a sixth item, None unless the storage is a view of another storage.
            case ("storage", str(name), str(key), str(), int(), *rest) if not any(rest):
                self.dtypes[key] = _DTYPES[name]
                return _Storage(key, _DTYPES[name])
        raise ValueError("a storage that PyTorch does not write")


def read(
    path: str | os.PathLike[str],
    want: Callable[[Path], bool] = lambda path: True,
    *,
    streams: bool = False,
) -> Any:
    """Object saved by torch.save, of dicts, lists, tuples, numbers, strings and tensors.

    A tensor is a read-only NumPy array, a view of its storage, if `want(path)` is true for the keys
    and indices that lead to it. Other tensors are StoredTensors and are not read. `streams` also
    allows the format before PyTorch 1.6, which lacks checksums. Raises UserError if the file is
    missing, not a PyTorch file, damaged, or contains anything else.
    """
    try:
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                saved, storages = _open_zip(file)
            elif streams:
                saved, storages = _open_stream(file)
            else:
                raise ValueError("it is not a whole file in PyTorch's zip format (1.6 or later)")
            return _resolved(saved, (), storages, want)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except Exception as error:  # pickle, zipfile and NumPy raise almost anything on a damaged file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read as a PyTorch file: {reason}") from error


def _open_zip(file: BinaryIO) -> tuple[Any, Storages]:
    archive = zipfile.ZipFile(file)
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it must hold one data.pkl in one folder")
    folder = pickles[0].removesuffix("data.pkl")
    saved = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
    return saved, functools.cache(lambda key: archive.read(f"{folder}data/{key}"))


def _open_stream(file: BinaryIO) -> tuple[Any, Storages]:
    """Reads pickles of magic number, version, system, object and keys, then length and elements."""
    file.seek(0)
    magic, version, _ = (_Unpickler(file).load() for _ in range(3))
    if (magic, version) != (_STREAM_MAGIC, _STREAM_VERSION):
        raise ValueError(f"it is not a stream of version {_STREAM_VERSION}")
    unpickler = _Unpickler(file)
    saved, contents = unpickler.load(), {}
    for key in _Unpickler(file).load():
        size = int.from_bytes(file.read(8), "little") * unpickler.dtypes[key].itemsize
        contents[key] = file.read(size)
    return saved, contents.__getitem__


def _resolved(value: Any, path: Path, storages: Storages, want: Callable[[Path], bool]) -> Any:
    """The saved object with wanted tensors as arrays. NumPy checks that views fit a storage."""
    if isinstance(value, StoredTensor):
        if not want(path):
            return value
        (key, dtype), offset, shape, strides = value
        content, size = storages(key), dtype.itemsize
        if not content and 0 not in shape:  # NumPy does not check views of no bytes
            raise ValueError(f"the storage {key} is empty")
        return np.ndarray(shape, dtype, content, size * offset, [size * n for n in strides])
    if isinstance(value, dict):
        return {k: _resolved(item, (*path, k), storages, want) for k, item in dict.items(value)}
    if type(value) in (list, tuple):
        items = (_resolved(item, (*path, i), storages, want) for i, item in enumerate(value))
        return type(value)(items)
    if not isinstance(value, str | int | float | None):
        raise ValueError(f"it holds a {type(value).__name__} as a value")
    return value
