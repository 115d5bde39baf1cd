"""SHA-256 checksums of files, by which damaged checkpoints are detected."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from lzn_jax.run import reporting

FILE = "SHA256SUMS"


class DamagedError(Exception):
    """A file is not what was written; the message names it."""


def add_files(folder: Path, names: Iterable[str]) -> None:
    """Adds the files `names` of a folder to its list of checksums, in the format of `sha256sum`."""
    listed = _listed(folder) | {name: _of_file(folder / name) for name in names}
    lines = [f"{digest}  {name}\n" for name, digest in listed.items()]
    reporting.write_bytes(folder / FILE, "".join(lines).encode())


def verify_files(folder: Path, parts: Iterable[str]) -> bool:
    """Verifies files of a folder against its list of checksums; returns False without a list.

    Covers all files in the subfolders `parts` and the listed files next to these subfolders.
    Raises DamagedError for a file that differs, is missing or has no checksum.
    """
    if not (folder / FILE).exists():
        return False
    recorded = {n: d for n, d in _listed(folder).items() if "/" not in n or _top(n) in parts}
    outside = {name for name in recorded if "/" not in name and (folder / name).is_file()}
    present = {name for name in files_below(folder) if _top(name) in parts} | outside
    for name in sorted(present | recorded.keys()):
        if name not in recorded:
            raise DamagedError(f"file {name} has no checksum")
        if name not in present:
            raise DamagedError(f"file {name} is missing")
        if _of_file(folder / name) != recorded[name]:
            raise DamagedError(f"file {name} differs from its checksum")
    return True


def files_below(folder: Path) -> Iterator[str]:
    """Relative paths of all files below a folder except hidden ones and the list of checksums."""
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
        raise DamagedError(f"file {FILE} is not a list of checksums")
    return listed


def _of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
