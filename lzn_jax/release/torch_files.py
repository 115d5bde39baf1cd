"""Tensors of PyTorch's files (.pt, .pth), read and written without PyTorch.

Such a file is a zip archive of stored (not compressed) entries: `data.pkl`, a pickle of the object
that was saved, and `data/<key>`, the bytes of each tensor's storage. Before PyTorch 1.6 it was a
stream: pickles, of which the fourth is the object, then the storages. A pickle is a program, and an
unpickler runs it. The machine here knows the instructions that build containers, numbers and
strings, and no other: it has none that imports a module, calls a function or sets an attribute.
"""

import collections
import dataclasses
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path as FilePath
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from lzn_jax.configuration import UserError

# Keys and indices that lead from the saved object to a tensor.
Path = tuple[Any, ...]

_DTYPES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_NAMES = {_DICT, _TENSOR, _PARAMETER} | {f"torch.{name}" for name in _DTYPES}
_MAX_DIMENSIONS = 64  # of PyTorch and NumPy both
_MAX_DEPTH = 100

# What a stream starts with: a pickle of a magic number, one of its version.
_STREAM_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STREAM_VERSION = 1001


@dataclasses.dataclass(frozen=True)
class _Name:
    """An imported name: never more than the name."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """The flat array that a file holds under a key."""

    key: str
    dtype: np.dtype
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor that was not read: a view, in elements, of a storage in the file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """The type that an array of it would have."""
        return self.storage.dtype


class _Refused(Exception):
    """Why a file is not read."""


# What the standard library raises on damaged archives and pickles.
_DAMAGE = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
)


def read(
    path: str | os.PathLike[str],
    want: Callable[[Path], bool] = lambda path: True,
    *,
    streams: bool = False,
) -> Any:
    """The object that torch.save wrote: dicts, lists, tuples, numbers, strings and tensors.

    A tensor whose path (the keys and indices that lead to it) `want` agrees to is a read-only
    NumPy array, a view where several share a storage; any other is a StoredTensor, whose bytes
    stay in the file. float, double, half, bfloat16 (ml_dtypes), integers and bool are read.
    `streams` admits the format before PyTorch 1.6, which has no checksums. Raises UserError for a
    file that is none, is damaged, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            return _read(file, want, streams)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except (_Refused, OSError) as error:
        raise UserError(f"{path} cannot be read as a PyTorch file: {_line(error)}") from error


def _read(file: BinaryIO, want: Callable[[Path], bool], streams: bool) -> Any:
    start = file.read(len(_STREAM_START))
    container: _Archive | _Stream
    if streams and start == _STREAM_START:
        container = _Stream(file)
    # zipfile looks at a file's end only, where a zip can hide behind anything.
    elif start.startswith(b"PK\x03\x04"):
        container = _Archive(file)
    else:
        raise _Refused("it is not in PyTorch's zip format (torch.save of PyTorch 1.6 or later)")
    return _Reader(container.array, want, container.budget).read(container.saved, ())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class _Archive:
    """A zip archive: the object it holds, and the storages that were read from it.

    `budget` is the length of the object's pickle.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
        except _DAMAGE as error:
            raise _Refused(f"its zip archive is damaged: {_line(error)}") from error
        names = self._zip.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise _Refused("it must hold one data.pkl in one folder")
        self._folder = pickles[0].removesuffix("data.pkl")
        self._storages: dict[_Storage, np.ndarray] = {}
        if f"{self._folder}byteorder" in names:
            order = self._entry("byteorder")
            if order != b"little":
                raise _Refused(f"its byte order is {order[:20]!r}, not little")
        pickle = self._entry("data.pkl")
        self.saved, self.budget = _Machine().run(pickle), len(pickle)

    def _entry(self, name: str) -> bytes:
        try:
            info = self._zip.getinfo(f"{self._folder}{name}")
            # PyTorch stores; a small file that unpacks to a huge one is no checkpoint.
            if info.compress_type != zipfile.ZIP_STORED:
                raise _Refused(f"its entry {name} is compressed")
            return self._zip.read(info)
        except _DAMAGE as error:
            raise _Refused(f"its entry {name} is damaged: {_line(error)}") from error

    def array(self, tensor: StoredTensor) -> np.ndarray:
        storage = tensor.storage
        if storage not in self._storages:
            content = self._entry(f"data/{storage.key}")
            if len(content) != storage.nbytes:
                raise _Refused(f"its entry data/{storage.key} has a wrong length")
            self._storages[storage] = np.frombuffer(content, storage.dtype)
        return _view(self._storages[storage], tensor)


class _Stream:
    """A file of PyTorch before 1.6, from behind the magic number on; attributes as of an archive.

    Pickles of the version, of the system, of the object and of the storages' keys; then, key by
    key, a storage's length (int64) and its elements.
    """

    def __init__(self, file: BinaryIO) -> None:
        if _Machine().run(file) != _STREAM_VERSION:
            raise _Refused(f"its version is not {_STREAM_VERSION}")
        match _Machine().run(file):
            case {"little_endian": True}:
                start = file.tell()
            case _:
                raise _Refused("its byte order is not little")
        machine = _Machine()
        self.saved = machine.run(file)
        self.budget = file.tell() - start
        keys = _Machine().run(file)
        self._storages: dict[_Storage, np.ndarray] = {}
        for key in keys if isinstance(keys, list) else []:
            storage = machine.storages.get(key) if isinstance(key, str) else None
            if storage is None:
                raise _Refused("it has a storage that no tensor is of")
            self._storages[storage] = _read_storage(file, storage)

    def array(self, tensor: StoredTensor) -> np.ndarray:
        if tensor.storage not in self._storages:
            raise _Refused(f"it lacks the storage {tensor.storage.key}")
        return _view(self._storages[tensor.storage], tensor)


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
    if file.read(8) != storage.size.to_bytes(8, "little"):
        raise _Refused(f"its storage {storage.key} has a wrong length")
    # A file's size, not what it says, bounds the memory that is taken.
    content = file.read(min(storage.nbytes, os.fstat(file.fileno()).st_size))
    if len(content) != storage.nbytes:
        raise _Refused(f"it ends within the storage {storage.key}")
    return np.frombuffer(content, storage.dtype)


def _view(flat: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    strides = tuple(stride * flat.itemsize for stride in tensor.strides)
    try:
        return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    except (ValueError, OverflowError) as error:
        raise _Refused(f"a tensor of shape {tensor.shape} is too large") from error


class _Reader:
    """Copies the saved object, tensors that are wanted as arrays.

    A pickle can make few bytes stand for endlessly many items, by containers that hold one another;
    an honest one has a byte for each at least, which is the budget.
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
            raise _Refused("its containers hold themselves or are nested too deep")
        if isinstance(value, dict):
            if not all(isinstance(key, str | int | float | None) for key in value):
                raise _Refused("a key is neither a string nor a number")
            return {key: self.read(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.read(item, (*path, i)) for i, item in enumerate(value))
        if isinstance(value, StoredTensor):
            return self._array(value) if self._want(path) else value
        if not isinstance(value, str | int | float | None):
            raise _Refused(f"it holds a {type(value).__name__} as a value")
        return value


_MARK = object()


class _Machine:
    """Runs a pickle's instructions on a stack; refuses those that it does not know.

    The instructions are described in the standard library's pickletools. `storages` are those that
    the pickle names, by key.
    """

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self, program: bytes | BinaryIO) -> Any:
        """The object that a pickle builds; of a file, the one that starts at its position."""
        try:
            for instruction, argument, _ in pickletools.genops(program):
                self._step(instruction.name, argument)
            (result,) = self._stack
        except _DAMAGE as error:
            raise _Refused(f"its pickle is damaged: {_line(error)}") from error
        return result

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            case "MARK":
                stack.append(_MARK)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._popped(int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "APPEND" | "APPENDS":
                items = self._popped(1) if name == "APPEND" else self._since_mark()
                self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._popped(2) if name == "SETITEM" else self._since_mark()
                self._top(dict).update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(_name(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_name(f"{module}.{name}"))
            case "BINPERSID":
                storage = _storage(stack.pop())
                self.storages[storage.key] = storage
                stack.append(storage)
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_built(function, arguments))
            case "BUILD":  # attributes of a state dict: nothing that is of use
                stack.pop()
                self._top(dict)
            case _:
                raise _Refused(f"its pickle has the instruction {name}")

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ValueError(f"{kind.__name__} expected")
        return self._stack[-1]

    def _popped(self, count: int) -> list[Any]:
        return [self._stack.pop() for _ in range(count)][::-1]

    def _since_mark(self) -> list[Any]:
        """Pops all items above the last mark, and the mark."""
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]


def _name(name: str) -> _Name:
    if name not in _NAMES:
        raise _Refused(f"it holds {name[:100]!r}, which is no tensor or plain container")
    return _Name(name)


def _built(function: Any, arguments: Any) -> Any:
    """What a call would return: the calls that torch.save writes, by name."""
    match function, arguments:
        case _Name(name=name), () if name == _DICT:
            return {}
        case _Name(name=name), (StoredTensor() as tensor, bool(), _) if name == _PARAMETER:
            return tensor
        case _Name(name=name), (_Storage() as storage, offset, shape, strides, bool(), _, *_) if (
            name == _TENSOR
        ):
            return _tensor(storage, offset, shape, strides)
        case _:
            raise ValueError("a call that PyTorch does not write")


def _storage(persistent_id: Any) -> _Storage:
    match persistent_id:
        # A stream adds a sixth item, which is None unless the storage is a view of another.
        case ("storage", _Name(name=name), str(key), str(), int(size), *rest) if (
            size >= 0 and rest in ([], [None])
        ):
            return _Storage(key, _DTYPES[name.removeprefix("torch.")], size)
        case _:
            raise ValueError("no storage")


def _tensor(storage: _Storage, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    """The view; it must lie inside its storage."""
    if not len(shape) == len(strides) <= _MAX_DIMENSIONS:
        raise ValueError("shape and strides differ in length or are too long")
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides)):
        raise ValueError("shape and strides must be whole numbers")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > 0 and last >= storage.size:
        raise _Refused(f"a tensor of shape {shape} reaches beyond its storage")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def write(path: str | os.PathLike[str], value: Any) -> None:
    """Writes what torch.load reads: dicts, lists, tuples, numbers, strings, and arrays as tensors.

    An OrderedDict, which is what a state dict must be, stays one. The file appears once it is
    complete. Raises UserError where it cannot be written.
    """
    path = FilePath(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            _write(archive, value)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write(archive: zipfile.ZipFile, value: Any) -> None:
    arrays: list[np.ndarray] = []
    archive.writestr("archive/data.pkl", pickle.PROTO + b"\x02" + _pickled(value, arrays) + b".")
    archive.writestr("archive/byteorder", b"little")
    for key, array in enumerate(arrays):
        archive.writestr(f"archive/data/{key}", array.tobytes())
    archive.writestr("archive/version", b"3\n")


def _pickled(value: Any, arrays: list[np.ndarray]) -> bytes:
    """Instructions that put a value on an unpickler's stack; its arrays are added to `arrays`."""

    def pickled(items: Iterable[Any]) -> bytes:
        return pickle.MARK + b"".join(_pickled(item, arrays) for item in items)

    match value:
        case None | bool():
            return {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value]
        case int():
            return pickle.BININT + struct.pack("<i", value)
        case float():
            return pickle.BINFLOAT + struct.pack(">d", value)
        case str():
            content = value.encode()
            return pickle.BINUNICODE + struct.pack("<I", len(content)) + content
        case _Name(name=name):
            module, _, attribute = name.rpartition(".")
            return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()
        case tuple():
            return pickled(value) + pickle.TUPLE
        case list():
            return pickle.EMPTY_LIST + pickled(value) + pickle.APPENDS
        case dict():
            is_ordered = isinstance(value, collections.OrderedDict)
            empty = _call(_DICT, pickled(())) if is_ordered else pickle.EMPTY_DICT
            parts = (part for item in value.items() for part in item)
            return empty + pickled(parts) + pickle.SETITEMS
        case np.ndarray():
            arrays.append(value)
            kind = next(kind for kind, dtype in _DTYPES.items() if dtype == value.dtype)
            storage = ("storage", _Name(f"torch.{kind}"), str(len(arrays) - 1), "cpu", value.size)
            strides = tuple(math.prod(value.shape[i + 1 :]) for i in range(value.ndim))
            arguments = pickle.MARK + _pickled(storage, arrays) + pickle.BINPERSID
            rest: tuple[Any, ...] = (0, value.shape, strides, False, collections.OrderedDict())
            arguments += b"".join(_pickled(item, arrays) for item in rest)
            return _call(_TENSOR, arguments)
        case _:
            raise TypeError(f"a {type(value).__name__} is no value of such a file")


def _call(function: str, arguments: bytes) -> bytes:
    """Instructions that call a function, given those that put a mark and its arguments."""
    return _pickled(_Name(function), []) + arguments + pickle.TUPLE + pickle.REDUCE
