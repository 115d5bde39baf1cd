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
    digests = listed(folder) | {name: _of_file(folder / name) for name in names}
    lines = [f"{digest}  {name}\n" for name, digest in digests.items()]
    reporting.write_bytes(folder / FILE, "".join(lines).encode())


def verify_files(folder: Path, parts: Iterable[str]) -> bool:
    """Verifies files of a folder against its list of checksums; returns False without a list.

    Covers all files in the subfolders `parts` and the listed files next to these subfolders.
    Raises DamagedError for a file that differs, is missing or has no checksum.
    """
    if not (folder / FILE).exists():
        return False
    recorded = {name for name in listed(folder) if "/" not in name or _top(name) in parts}
    outside = {name for name in recorded if "/" not in name and (folder / name).is_file()}
    present = {name for name in files_below(folder) if _top(name) in parts} | outside
    verify(folder, sorted(present | recorded))
    return True


def verify(folder: Path, names: Iterable[str]) -> None:
    """Verifies the files `names` of a folder.

    Raises DamagedError for a file that differs, is missing or has no checksum.
    """
    recorded = listed(folder)
    for name in names:
        if name not in recorded:
            raise DamagedError(f"file {name} has no checksum")
        if not (folder / name).is_file():
            raise DamagedError(f"file {name} is missing")
        if _of_file(folder / name) != recorded[name]:
            raise DamagedError(f"file {name} differs from its checksum")


def files_below(folder: Path) -> Iterator[str]:
    """Relative paths of all files below a folder except hidden ones and the list of checksums."""
    for path in sorted(folder.rglob("[!.]*")):
        if path.is_file() and path.name != FILE:
            yield path.relative_to(folder).as_posix()


def listed(folder: Path) -> dict[str, str]:
    """Checksums of a folder by file name; empty without a list.

    Raises DamagedError if the file is not a list of checksums.
    """
    path = folder / FILE
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    digests = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if "" in digests:
        raise DamagedError(f"file {FILE} is not a list of checksums")
    return digests


def _top(name: str) -> str:
    return name.partition("/")[0]


def _of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
