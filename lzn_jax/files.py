"""Files that are written whole or not at all, and their checksums."""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lzn_jax.errors import UserError

FILE = "SHA256SUMS"


class DamagedError(Exception):
    """A file differs from what was written. The message names the file."""


def add_files(folder: Path, names: Iterable[str]) -> None:
    """Adds the files `names` of a folder to its list of checksums, in the format of `sha256sum`."""
    digests = listed(folder) | {name: digest(folder / name) for name in names}
    lines = [f"{checksum}  {name}\n" for name, checksum in digests.items()]
    write_bytes(folder / FILE, "".join(lines).encode())


def verify(folder: Path, names: Iterable[str]) -> None:
    """Raises DamagedError if a file of `names` differs, is missing or lacks a checksum."""
    recorded = listed(folder)
    for name in names:
        if name not in recorded:
            raise DamagedError(f"file {name} has no checksum")
        if not (folder / name).is_file():
            raise DamagedError(f"file {name} is missing")
        if digest(folder / name) != recorded[name]:
            raise DamagedError(f"file {name} differs from its checksum")


def files_below(folder: Path) -> Iterator[str]:
    """Relative paths of all files below a folder except hidden ones and the list of checksums."""
    for path in sorted(folder.rglob("[!.]*")):
        if path.is_file() and path.name != FILE:
            yield path.relative_to(folder).as_posix()


def listed(folder: Path) -> dict[str, str]:
    """Checksums of a folder's list by file name. Raises DamagedError for a bad list."""
    path = folder / FILE
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    digests = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    if "" in digests:
        raise DamagedError(f"file {FILE} is not a list of checksums")
    return digests


def digest(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """The user's cache folder, for files that can be computed again."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lzn_jax"


def is_writer() -> bool:
    """Whether this process writes the files of the run."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file atomically. Even after a crash, readers find the old or the new content.

    Creates the parent folder. With several processes, only the writer writes.
    """
    if not is_writer():
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError if it is not JSON or too deeply nested."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("too deeply nested") from error


def plain(value: object) -> Any:
    """Converts a value for JSON, with arrays as lists and non-finite numbers as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Writes `plain(value)` as indented JSON, atomically. Raises TypeError for other values."""
    write_bytes(path, f"{json.dumps(plain(value), indent=2, allow_nan=False)}\n".encode())


def write_csv(
    path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Iterable[object]]
) -> None:
    """Writes a table as .csv, atomically. File names that are not UTF-8 keep their bytes."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([header, *rows])
    write_bytes(path, table.getvalue().encode(errors="surrogateescape"))


def write_arrays(path: str | os.PathLike[str], **arrays: Any) -> None:
    """Writes arrays by name as .npz, atomically."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(path, content.getvalue())


def by_name(tree: object) -> dict[str, Any]:
    """Leaves of a tree by path, such as `variables/encoder/params/Dense_0/kernel`."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors by name as safetensors, atomically."""
    # The library stores the buffer of an array without regard to its strides.
    write_bytes(path, save({name: np.asarray(a, order="C") for name, a in tensors.items()}))


def read_tensors(
    path: str | os.PathLike[str], want: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """Tensors by name for which `want(name)` is true. Other tensors are not read.

    Raises UserError if the file is missing or not a complete safetensors file. Damaged values are
    not detected.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys() if want(name)}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    # AttributeError: a type that NumPy lacks, such as float8.
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as a safetensors file: {reason}") from error
