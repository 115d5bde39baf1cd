"""Writes safetensors files, and such as a careful reader must refuse."""

import json
import struct

import jax.numpy as jnp
import numpy as np

NAMES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(jnp.bfloat16): "BF16",
    np.dtype(np.int64): "I64",
    np.dtype(np.bool_): "BOOL",
}


def header_of(tensors):
    """What the header says of arrays that follow one another."""
    header, begin = {"__metadata__": {"format": "pt"}}, 0
    for name, array in tensors.items():
        end = begin + array.nbytes
        shape = list(array.shape)
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": shape,
            "data_offsets": [begin, end],
        }
        begin = end
    return header


def write(path, tensors, header=None):
    """The arrays by name; `header` is a dict, or text, to stand in place of the right one."""
    header = header_of(tensors) if header is None else header
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    content = b"".join(array.tobytes() for array in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path
