"""Cached results in files, each stored with a hash of its inputs."""

import hashlib
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from lzn_jax.run import processes, reporting

_KEY, _MAX_KEY = "key", 1000  # name, and bytes

_log = logging.getLogger(__name__)


def key_of(*parts: np.ndarray | str) -> str:
    """SHA-256, in hexadecimal, of arrays (dtype, shape and content) and strings, in order."""
    digest = hashlib.sha256()
    for part in parts:
        # A string is hashed as bytes, with a type name that differs from that of every array.
        kind = "text" if isinstance(part, str) else part.dtype.str
        array = np.frombuffer(part.encode(), np.uint8) if isinstance(part, str) else part
        digest.update(f"{kind}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def key_of_variables(variables: Mapping[str, Any]) -> str:
    """Hash of the names and values of a network's variables."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    return key_of(*(part for name in sorted(flat) for part in (name, np.asarray(flat[name]))))


def save(path: str | os.PathLike[str], key: str, **arrays: np.ndarray) -> None:
    """Writes named arrays and their key atomically to an .npz file."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {_KEY: np.array(key), **arrays}
    np.savez(buffer, **named)
    reporting.write_bytes(path, buffer.getvalue())


def load(path: str | os.PathLike[str], key: str) -> dict[str, np.ndarray] | None:
    """Arrays saved under the same key; None if the file is missing, damaged or has another key.

    Returns None in every process if any process cannot load the file: all must then recompute it.
    """
    arrays = _read(path, key)
    return arrays if processes.everywhere(arrays is not None) else None


def _read(path: str | os.PathLike[str], key: str) -> dict[str, np.ndarray] | None:
    if not Path(path).is_file():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            # Arrays of another key, which may be large, are not unpacked.
            if archive.zip.getinfo(f"{_KEY}.npy").file_size > _MAX_KEY or archive[_KEY] != key:
                return None
            return {name: archive[name] for name in archive if name != _KEY}
    except Exception as error:  # zipfile, zlib and NumPy raise almost anything on a damaged file
        _log.warning("%s cannot be read (%s): its content is computed again", path, error)
        return None
