"""Results kept in files, each with the hash of what it was computed from."""

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from lzn_jax.configuration import UserError
from lzn_jax.run import processes, reporting

_KEY = "key"

_log = logging.getLogger(__name__)


def key_of(*parts: np.ndarray | str) -> str:
    """SHA-256, in hexadecimal, of arrays (type, shape and content) and strings, in order."""
    digest = hashlib.sha256()
    for part in parts:
        # A string is an array of bytes of a type that no array has.
        kind = "text" if isinstance(part, str) else part.dtype.str
        array = np.frombuffer(part.encode(), np.uint8) if isinstance(part, str) else part
        digest.update(f"{kind}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def save(path: str | os.PathLike[str], key: str, **arrays: np.ndarray) -> None:
    """Writes named arrays and their key as .npz, atomically."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {_KEY: np.array(key), **arrays}
    np.savez(buffer, **named)
    reporting.write_bytes(path, buffer.getvalue())


def load(path: str | os.PathLike[str], key: str) -> dict[str, np.ndarray] | None:
    """The arrays that `save` wrote under the same key; None for no file, another key or damage.

    Of several processes all get them or none, so that what has to be computed is by all.
    """
    arrays = _read(path, key)
    return arrays if processes.everywhere(arrays is not None) else None


def _read(path: str | os.PathLike[str], key: str) -> dict[str, np.ndarray] | None:
    if not Path(path).is_file():
        return None
    try:
        arrays = reporting.read_arrays(path)
    except UserError as error:
        _log.warning("%s: it is computed anew", error)
        return None
    return arrays if str(arrays.pop(_KEY, "")) == key else None
