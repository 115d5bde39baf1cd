"""Writes the files that torch.save writes, and such as only an attacker would, without PyTorch."""

import struct
import zipfile

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


class Raw(bytes):
    """Instructions of a pickle, to stand where a value would."""


class View:
    """A tensor as a view, in elements, of the storage `key`; any of it may be wrong."""

    def __init__(self, key, offset, shape, strides, kind="FloatStorage", size=6):
        self.key, self.offset, self.shape, self.strides = key, offset, shape, strides
        self.kind, self.size = kind, size


def write(path, value, *, folder="archive", storages=None, compression=zipfile.ZIP_STORED, **extra):
    """Saves a value whose arrays are tensors; `storages` are more by key, `extra` more entries."""
    storages = dict(storages or {})
    pickle = program(value, storages)
    write_zip(
        path,
        {
            f"{folder}/data.pkl": pickle,
            f"{folder}/byteorder": b"little",
            **{f"{folder}/data/{key}": array.tobytes() for key, array in storages.items()},
            f"{folder}/version": b"3\n",
            **{f"{folder}/{name}": content for name, content in extra.items()},
        },
        compression,
    )


def write_zip(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}


def write_stream(path, value, *, storages=None, version=1001, system=SYSTEM, keys=None, end=None):
    """Saves as PyTorch did before 1.6; any part may be wrong, and `end` cuts the file."""
    storages = dict(storages or {})
    saved = program(value, storages).replace(b"tQ", b"NtQ")  # a persistent id has an item more
    content = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number
    content += program(version, {}) + program(system, {}) + saved
    content += program(sorted(storages) if keys is None else keys, {})
    for key in sorted(storages):
        content += struct.pack("<q", storages[key].size) + storages[key].tobytes()
    path.write_bytes(content[:end])


def program(value, storages):
    """A pickle of protocol 2."""
    return b"\x80\x02" + _push(value, storages) + b"."


def name(module, attribute):
    return Raw(b"c" + module.encode() + b"\n" + attribute.encode() + b"\n")


def call(function, *arguments):
    """REDUCE of a name with arguments."""
    return Raw(function + _push(arguments, {}) + b"R")


def _push(value, storages):
    match value:
        case Raw():
            return bytes(value)
        case None | bool():
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            return b"J" + struct.pack("<i", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(_push(item, storages) for item in value) + b"t"
        case list():
            return b"](" + b"".join(_push(item, storages) for item in value) + b"e"
        case dict():
            pairs = (_push(part, storages) for item in value.items() for part in item)
            # As a module's state dict: an OrderedDict with attributes.
            empty = name("collections", "OrderedDict") + b")R"
            return empty + b"(" + b"".join(pairs) + b"u}X\t\x00\x00\x00_metadata}sb"
        case View():
            return _view(value)
        case np.ndarray():
            key = str(len(storages))
            storages[key] = value
            strides = tuple(
                stride // value.itemsize for stride in np.empty(value.shape, value.dtype).strides
            )
            return _view(View(key, 0, value.shape, strides, STORAGES[value.dtype], value.size))


def _view(view):
    kind = name("torch", view.kind)
    storage = _push(("storage", kind, view.key, "cpu", view.size), {}) + b"Q"
    hooks = Raw(name("collections", "OrderedDict") + b")R")
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        Raw(storage), view.offset, view.shape, view.strides, False, hooks,
    )  # fmt: skip
