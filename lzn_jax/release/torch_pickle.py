"""The pickles in PyTorch's files, run and written without PyTorch.

A pickle is a program, and an unpickler runs it. The machine here knows the instructions that build
containers, numbers and strings, and no other: it has none that imports a module, calls a function
or sets an attribute.
"""

import collections
import dataclasses
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

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


@dataclasses.dataclass(frozen=True)
class _Name:
    """An imported name: never more than the name."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
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

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """The type that an array of it would have."""
        return self.storage.dtype


class Refused(Exception):
    """Why a file is not read."""


# What the standard library raises on damaged archives and pickles.
DAMAGE = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
)


def one_line(error: Exception) -> str:
    """The start of what an error says, on a line."""
    return " ".join(str(error).split())[:200]


_MARK = object()


class Machine:
    """Runs a pickle's instructions on a stack; refuses those that it does not know.

    The instructions are described in the standard library's pickletools. `storages` are those that
    the pickle names, by key.
    """

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, program: bytes | BinaryIO) -> Any:
        """The object that a pickle builds; of a file, the one that starts at its position."""
        try:
            for instruction, argument, _ in pickletools.genops(program):
                self._step(instruction.name, argument)
            (result,) = self._stack
        except DAMAGE as error:
            raise Refused(f"its pickle is damaged: {one_line(error)}") from error
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
                raise Refused(f"its pickle has the instruction {name}")

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
        raise Refused(f"it holds {name[:100]!r}, which is no tensor or plain container")
    return _Name(name)


def _built(function: Any, arguments: Any) -> Any:
    """What a call would return: the calls that torch.save writes, by name."""
    match function, arguments:
        case _Name(name=name), () if name == _DICT:
            return {}
        case _Name(name=name), (StoredTensor() as tensor, bool(), _) if name == _PARAMETER:
            return tensor
        case _Name(name=name), (Storage() as storage, offset, shape, strides, bool(), _, *_) if (
            name == _TENSOR
        ):
            return _tensor(storage, offset, shape, strides)
        case _:
            raise ValueError("a call that PyTorch does not write")


def _storage(persistent_id: Any) -> Storage:
    match persistent_id:
        # A stream adds a sixth item, which is None unless the storage is a view of another.
        case ("storage", _Name(name=name), str(key), str(), int(size), *rest) if (
            size >= 0 and rest in ([], [None])
        ):
            return Storage(key, _DTYPES[name.removeprefix("torch.")], size)
        case _:
            raise ValueError("no storage")


def _tensor(storage: Storage, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    """The view; it must lie inside its storage."""
    if not len(shape) == len(strides) <= _MAX_DIMENSIONS:
        raise ValueError("shape and strides differ in length or are too long")
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides)):
        raise ValueError("shape and strides must be whole numbers")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > 0 and last >= storage.size:
        raise Refused(f"a tensor of shape {shape} reaches beyond its storage")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def instructions(value: Any, arrays: list[np.ndarray]) -> bytes:
    """Those that put a value on an unpickler's stack; its arrays are added to `arrays`."""
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
            return _pickled(value, arrays) + pickle.TUPLE
        case list():
            return pickle.EMPTY_LIST + _pickled(value, arrays) + pickle.APPENDS
        case dict():
            is_ordered = isinstance(value, collections.OrderedDict)
            empty = _call(_DICT, pickle.MARK) if is_ordered else pickle.EMPTY_DICT
            parts = (part for item in value.items() for part in item)
            return empty + _pickled(parts, arrays) + pickle.SETITEMS
        case np.ndarray():
            arrays.append(value)
            kind = next(kind for kind, dtype in _DTYPES.items() if dtype == value.dtype)
            storage = ("storage", _Name(f"torch.{kind}"), str(len(arrays) - 1), "cpu", value.size)
            strides = tuple(math.prod(value.shape[i + 1 :]) for i in range(value.ndim))
            arguments = _pickled([storage], arrays) + pickle.BINPERSID
            rest: tuple[Any, ...] = (0, value.shape, strides, False, collections.OrderedDict())
            arguments += b"".join(instructions(item, arrays) for item in rest)
            return _call(_TENSOR, arguments)
        case _:
            raise TypeError(f"a {type(value).__name__} is no value of such a file")


def _pickled(items: Iterable[Any], arrays: list[np.ndarray]) -> bytes:
    """Those that put a mark and items above it."""
    return pickle.MARK + b"".join(instructions(item, arrays) for item in items)


def _call(function: str, arguments: bytes) -> bytes:
    """Instructions that call a function, given those that put a mark and its arguments."""
    return instructions(_Name(function), []) + arguments + pickle.TUPLE + pickle.REDUCE
