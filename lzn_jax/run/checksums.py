"""SHA-256 of arrays and files: what tells a whole checkpoint from a damaged one."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lzn_jax.run import reporting, sharding

FILE = "SHA256SUMS"


class DamagedError(Exception):
    """Something is not what was written; the message says which array or file."""


def of_arrays(trees: Mapping[str, Any]) -> dict[str, str]:
    """Checksum of each array, by its path: of its dtype, shape and values in C order.

    An array has the same one on any devices, in one or several processes, in which all must call.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(trees)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _of_array(sharding.fetch(array))
        for path, array in leaves
    }


def _of_array(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def of_json(value: Any) -> str:
    """Checksum of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def verify(found: Mapping[str, str], recorded: Mapping[str, str], what: str) -> None:
    """Raises DamagedError that names the first of `what` (a kind) that is not as recorded."""
    for name in sorted(found.keys() | recorded.keys()):
        if name not in recorded:
            raise DamagedError(f"{what} {name} has no checksum")
        if name not in found:
            raise DamagedError(f"{what} {name} is missing")
        if found[name] != recorded[name]:
            raise DamagedError(f"{what} {name} differs from its checksum")


def add_files(folder: Path, names: Iterable[str]) -> None:
    """Adds checksums of files in a folder to its list, which `sha256sum -c` reads as well."""
    listed = _listed(folder) | {name: _of_file(folder / name) for name in names}
    lines = [f"{digest}  {name}\n" for name, digest in listed.items()]
    reporting.write_bytes(folder / FILE, "".join(lines).encode())


def verify_files(folder: Path, parts: Iterable[str]) -> bool:
    """Compares the files of a folder with its list of checksums; False if it has none.

    Looks at the files in its subfolders `parts`, and at those beside them that are in the list.
    Raises DamagedError for a file that differs, is missing or has no checksum.
    """
    if not (folder / FILE).exists():
        return False
    recorded = {n: d for n, d in _listed(folder).items() if "/" not in n or _top(n) in parts}
    beside = {name for name in recorded if "/" not in name and (folder / name).is_file()}
    present = {name for name in files_below(folder) if _top(name) in parts} | beside
    verify({name: _of_file(folder / name) for name in present}, recorded, "file")
    return True


def files_below(folder: Path) -> Iterator[str]:
    """Names of all files below a folder, but for hidden ones and the list of checksums."""
    for path in sorted(folder.rglob("[!.]*")):
        if path.is_file() and path.name != FILE:
            yield path.relative_to(folder).as_posix()


def _top(name: str) -> str:
    return name.partition("/")[0]


def _listed(folder: Path) -> dict[str, str]:
    path = folder / FILE
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if "" in listed:
        raise DamagedError(f"file {FILE} is no list of checksums")
    return listed


def _of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
