"""Pickles in PyTorch's files, read without PyTorch and without executing code in them.

A pickle is a program. The standard library runs it here under two restrictions: only instructions
that build plain containers, numbers, strings and tensors are allowed, and imported names are
replaced by placeholders. Placeholders are named tuples, which no instruction can modify.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

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
_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_NAMES = {_DICT, _TENSOR, _PARAMETER, *_DTYPES}
_INSTRUCTIONS = {
    "PROTO", "FRAME", "STOP", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_LIST",
    "EMPTY_TUPLE", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM",
    "SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL",
    "STACK_GLOBAL", "BINPERSID", "REDUCE", "BUILD",
}  # fmt: skip
_MAX_DIMENSIONS = 64  # in both PyTorch and NumPy
_MAX_TUPLES = 50_000  # hashing more nested tuples would overflow the interpreter's stack


class Storage(NamedTuple):
    """A flat array in a file, by key; `size` in elements."""

    key: str
    dtype: np.dtype
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class StoredTensor(NamedTuple):
    """A tensor that was not read: a view of a storage, `offset` and `strides` in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return self.storage.dtype


class Refused(Exception):
    """Reason for which a file is not read."""


# Exceptions of the standard library for damaged archives and pickles.
DAMAGE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    AttributeError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
)


def one_line(error: Exception) -> str:
    """First 200 characters of an error message, on one line."""
    return " ".join(str(error).split())[:200]


class _Dict(dict):
    """A dict that ignores the attributes of a state dict in the file."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Name(NamedTuple):
    """Placeholder of an imported name; calls accept only arguments that PyTorch writes."""

    name: str

    def __call__(self, *arguments: Any) -> Any:
        match self.name, arguments:
            case str(name), () if name == _DICT:
                return _Dict()
            case str(name), (StoredTensor() as tensor, bool(), _) if name == _PARAMETER:
                return tensor
            case str(name), (Storage() as storage, offset, shape, strides, bool(), _, *_) if (
                name == _TENSOR
            ):
                return _tensor(storage, offset, shape, strides)
            case _:
                raise ValueError("a call that PyTorch does not write")


class Unpickler(pickle.Unpickler):
    """Reads the pickle at a file's position and leaves the file at its end.

    `storages` has the storages that the pickle refers to, by key.
    """

    def __init__(self, file: BinaryIO | io.BytesIO) -> None:
        super().__init__(io.BytesIO(_checked(file)))
        self.storages: dict[str, Storage] = {}

    def read(self) -> Any:
        """Object built by the pickle; raises Refused if the pickle is damaged or not allowed."""
        try:
            return self.load()
        except DAMAGE as error:
            raise Refused(f"its pickle is damaged: {one_line(error)}") from error

    def find_class(self, module: str, name: str) -> Any:
        """Placeholder for an imported name; raises Refused for names that tensors do not need."""
        name = f"{module}.{name}"
        if name not in _NAMES:
            raise Refused(f"it holds {name[:100]!r}, which is not a tensor or plain container")
        return _Name(name)

    def persistent_load(self, pid: Any) -> Storage:
        """Storage described by a persistent id."""
        match pid:
            # A stream has a sixth item, None unless the storage is a view of another one.
            case ("storage", _Name(name=name), str(key), str(), int(size), *rest) if (
                size >= 0 and rest in ([], [None])
            ):
                storage = self.storages[key] = Storage(key, _DTYPES[name], size)
                return storage
            case _:
                raise ValueError("not a storage")


def _checked(file: BinaryIO | io.BytesIO) -> bytes:
    """Bytes of the pickle at a file's position; raises Refused if it is unsafe to run.

    An unpickler allocates its memo up to any index, regardless of the file's size.
    """
    start, tuples = file.tell(), 0
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
            if instruction.name not in _INSTRUCTIONS:
                raise Refused(f"its pickle has the instruction {instruction.name}")
            if instruction.name in ("BINPUT", "LONG_BINPUT") and (argument or 0) > count:
                raise Refused("its pickle is damaged: more memory than instructions")
            tuples += instruction.name.startswith("TUPLE")
        if tuples > _MAX_TUPLES:
            raise Refused("its pickle has too many tuples")
    except DAMAGE as error:
        raise Refused(f"its pickle is damaged: {one_line(error)}") from error
    end = file.tell()
    file.seek(start)
    return file.read(end - start)


def _tensor(storage: Storage, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    """View of a storage; raises Refused if it exceeds the storage."""
    if not len(shape) == len(strides) <= _MAX_DIMENSIONS:
        raise ValueError("shape and strides differ in length or are too long")
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides)):
        raise ValueError("shape and strides must be whole numbers")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > 0 and last >= storage.size:
        raise Refused(f"a tensor of shape {shape} reaches beyond its storage")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))
