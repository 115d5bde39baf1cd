"""Writes the files that torch.save writes, without PyTorch."""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from typing import Any, NamedTuple
from unittest import mock

import jax.numpy as jnp
import numpy as np

STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(jnp.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.int16): "ShortStorage",
    np.dtype(np.int8): "CharStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}
MODULES = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}


def _named(module, name):
    """A class that a pickle refers to by its name."""
    setattr(MODULES[module], name, type(name, (), {"__module__": module}))
    return getattr(MODULES[module], name)


_KINDS = {name: _named("torch", name) for name in [*STORAGES.values(), "QInt8Storage"]}
_REBUILD = _named("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = _named("torch._utils", "_rebuild_parameter")


class View(NamedTuple):
    """A tensor as a view, in elements, of the storage `key`; any of it may be wrong."""

    key: str
    offset: Any
    shape: Any
    strides: Any
    kind: str = "FloatStorage"


class Parameter(NamedTuple):
    """A tensor that PyTorch trains."""

    tensor: Any


class _Storage(NamedTuple):
    id: tuple


class _Pickler(pickle.Pickler):
    def __init__(self, file, storages, is_stream):
        super().__init__(file, protocol=2)
        self.storages, self.rest = storages, [None] * is_stream

    def persistent_id(self, value):
        return value.id if isinstance(value, _Storage) else None

    def reducer_override(self, value):
        if isinstance(value, Parameter):
            return _PARAMETER, (value.tensor, True, OrderedDict())
        if isinstance(value, np.ndarray):
            key, strides = str(len(self.storages)), np.empty(value.shape, np.int8).strides
            self.storages[key] = value
            value = View(key, 0, value.shape, strides, STORAGES[value.dtype])
        if not isinstance(value, View):
            return NotImplemented
        key, offset, shape, strides, kind = value
        storage = _Storage(("storage", _KINDS[kind], key, "cpu", 6, *self.rest))
        return _REBUILD, (storage, offset, shape, strides, False, OrderedDict())


def program(value, storages, is_stream=False):
    """A pickle of protocol 2; adds arrays to the storages."""
    file = io.BytesIO()
    with mock.patch.dict(sys.modules, MODULES):
        _Pickler(file, storages, is_stream).dump(value)
    return file.getvalue()


def write(path, value, *, storages=None, saved=None, **extra):
    """Saves a value whose arrays are tensors; `saved` is a pickle in its place."""
    storages = dict(storages or {})
    entries = {"data.pkl": saved or program(value, storages), **extra}
    entries |= {f"data/{key}": array.tobytes() for key, array in storages.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return path


def write_stream(path, value, *, storages=None, version=1001, keys=None, end=None):
    """Saves as PyTorch did before 1.6; any part may be wrong, and `end` cuts the file."""
    storages = dict(storages or {})
    saved = program(value, storages, True)
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, version, {})]
    parts += [saved, pickle.dumps(sorted(storages) if keys is None else keys, 2)]
    for key in sorted(storages):
        parts += [storages[key].size.to_bytes(8, "little"), storages[key].tobytes()]
    path.write_bytes(b"".join(parts)[:end])
    return path
