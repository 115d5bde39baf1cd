"""Tensors of PyTorch's files (.pt, .pth), read without PyTorch.

Such a file is a zip archive of uncompressed entries: `data.pkl`, a pickle of the saved object, and
`data/<key>`, the bytes of each tensor's storage. Before PyTorch 1.6, it was a stream of pickles,
the fourth with the object, followed by the storages. Installing PyTorch would take hundreds of
megabytes to read a few dicts of arrays.
"""

import io
import math
import os
import pickle
import pickletools
import struct
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


# Keys and indices that lead from the saved object to a tensor.
Path = tuple[Any, ...]

_MAX_DEPTH = 100

# Start of a stream: a pickle of a magic number. A pickle of the version follows.
_STREAM_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STREAM_VERSION = 1001


def read(
    path: str | os.PathLike[str],
    want: Callable[[Path], bool] = lambda path: True,
    *,
    streams: bool = False,
) -> Any:
    """Object saved by torch.save: dicts, lists, tuples, numbers, strings and tensors.

    A tensor is a read-only NumPy array if `want(path)` is true for the keys and indices that lead
    to it, and a view of its storage. Other tensors are StoredTensors and are not read. Supports
    float, double, half, bfloat16 (ml_dtypes), integers and bool. `streams` also allows the format
    before PyTorch 1.6, which has no checksums. Raises UserError if the file is missing, not a
    PyTorch file, damaged, or contains anything else.
    """
    try:
        with open(path, "rb") as file:
            return _read(file, want, streams)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except (Refused, OSError) as error:
        raise UserError(f"{path} cannot be read as a PyTorch file: {one_line(error)}") from error


def _read(file: BinaryIO, want: Callable[[Path], bool], streams: bool) -> Any:
    start = file.read(len(_STREAM_START))
    container: _Archive | _Stream
    if streams and start == _STREAM_START:
        container = _Stream(file)
    # zipfile reads only the end of a file, so a zip can follow arbitrary bytes.
    elif start.startswith(b"PK\x03\x04"):
        container = _Archive(file)
    else:
        raise Refused("it is not in PyTorch's zip format (torch.save of PyTorch 1.6 or later)")
    return _Reader(container.array, want, container.budget).read(container.saved, ())


class _Archive:
    """A zip archive with the saved object and the storages read so far.

    `budget` is the length in bytes of the object's pickle.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
        except DAMAGE as error:
            raise Refused(f"its zip archive is damaged: {one_line(error)}") from error
        names = self._zip.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise Refused("it must hold one data.pkl in one folder")
        self._folder = pickles[0].removesuffix("data.pkl")
        self._storages: dict[Storage, np.ndarray] = {}
        if f"{self._folder}byteorder" in names:
            order = self._entry("byteorder")
            if order != b"little":
                raise Refused(f"its byte order is {order[:20]!r}, not little")
        pickle = self._entry("data.pkl")
        self.saved, self.budget = Unpickler(io.BytesIO(pickle)).read(), len(pickle)

    def _entry(self, name: str) -> bytes:
        try:
            info = self._zip.getinfo(f"{self._folder}{name}")
            # PyTorch does not compress; a compressed entry could be a zip bomb.
            if info.compress_type != zipfile.ZIP_STORED:
                raise Refused(f"its entry {name} is compressed")
            return self._zip.read(info)
        except DAMAGE as error:
            raise Refused(f"its entry {name} is damaged: {one_line(error)}") from error

    def array(self, tensor: StoredTensor) -> np.ndarray:
        storage = tensor.storage
        if storage not in self._storages:
            content = self._entry(f"data/{storage.key}")
            if len(content) != storage.nbytes:
                raise Refused(f"its entry data/{storage.key} has the wrong length")
            self._storages[storage] = np.frombuffer(content, storage.dtype)
        return _view(self._storages[storage], tensor)


class _Stream:
    """A file of PyTorch before 1.6, read from after the magic number; attributes as in _Archive.

    Pickles of the version, the system, the object and the keys of storages, then for each key the
    length of the storage (int64) and its elements.
    """

    def __init__(self, file: BinaryIO) -> None:
        if Unpickler(file).read() != _STREAM_VERSION:
            raise Refused(f"its version is not {_STREAM_VERSION}")
        match Unpickler(file).read():
            case {"little_endian": True}:
                start = file.tell()
            case _:
                raise Refused("its byte order is not little")
        unpickler = Unpickler(file)
        self.saved = unpickler.read()
        self.budget = file.tell() - start
        keys = Unpickler(file).read()
        self._storages: dict[Storage, np.ndarray] = {}
        for key in keys if isinstance(keys, list) else []:
            storage = unpickler.storages.get(key) if isinstance(key, str) else None
            if storage is None:
                raise Refused("it has a storage that no tensor uses")
            self._storages[storage] = _read_storage(file, storage)

    def array(self, tensor: StoredTensor) -> np.ndarray:
        if tensor.storage not in self._storages:
            raise Refused(f"it lacks the storage {tensor.storage.key}")
        return _view(self._storages[tensor.storage], tensor)


def _read_storage(file: BinaryIO, storage: Storage) -> np.ndarray:
    if file.read(8) != storage.size.to_bytes(8, "little"):
        raise Refused(f"its storage {storage.key} has the wrong length")
    # The size of the file bounds the allocation; its contents may claim more.
    content = file.read(min(storage.nbytes, os.fstat(file.fileno()).st_size))
    if len(content) != storage.nbytes:
        raise Refused(f"it ends within the storage {storage.key}")
    return np.frombuffer(content, storage.dtype)


def _view(flat: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    strides = tuple(stride * flat.itemsize for stride in tensor.strides)
    try:
        return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    except (ValueError, OverflowError) as error:
        raise Refused(f"a tensor of shape {tensor.shape} is too large") from error


class _Reader:
    """Copies the saved object, with wanted tensors as arrays.

    A short pickle can describe exponentially many items by nested references to one container. A
    valid one has at least one byte per item, so its length in bytes is the budget of items.
    """

    def __init__(
        self,
        array: Callable[[StoredTensor], np.ndarray],
        want: Callable[[Path], bool],
        budget: int,
    ) -> None:
        self._array, self._want, self._budget = array, want, budget

    def read(self, value: Any, path: Path) -> Any:
        self._budget -= 1
        if self._budget < 0 or len(path) > _MAX_DEPTH:
            raise Refused("its containers contain themselves or are nested too deeply")
        if isinstance(value, StoredTensor):
            return self._array(value) if self._want(path) else value
        if isinstance(value, dict):
            if not all(isinstance(key, str | int | float | None) for key in value):
                raise Refused("a key is neither a string nor a number")
            return {key: self.read(item, (*path, key)) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.read(item, (*path, i)) for i, item in enumerate(value))
        if not isinstance(value, str | int | float | None):
            raise Refused(f"it holds a {type(value).__name__} as a value")
        return value
