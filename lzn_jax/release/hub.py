"""The paper's released checkpoints by name, from the Hugging Face Hub.

The Hub's own client downloads, once, into its cache, with a bar; a connection that breaks is gone
on with.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from lzn_jax.configuration import UserError

REPOSITORY = "microsoft/latent-zoning-networks"
# By the name of their config, as the release's README lists them.
FILES = {
    "afhq_cat_gen": "lzn1/case_study_1_afhqcat/000003000-000060000.pt",
    "celebahq_gen": "lzn1/case_study_1_celebahq/000002991-000350000.pt",
    "cifar10_gen": "lzn1/case_study_1_cifar10/000002000-000050000.pt",
    "cifar10_joint": "lzn1/case_study_3/000008000-000200000.pt",
    "imagenet_repr": "lzn1/case_study_2/000032051-005000000.pt",
    "lsun_bedroom_gen": "lzn1/case_study_1_lsunbedroom/000000173-002050000.pt",
}


class Fetched(NamedTuple):
    """A checkpoint in the cache, and what it is: `repository`, `revision`, `file`, `sha256`."""

    path: Path
    origin: dict[str, str]


def check_name(name: str) -> None:
    """Raises UserError for a name that no released checkpoint has."""
    if name not in FILES:
        raise UserError(f"there is no released model {name!r}: the names are {', '.join(FILES)}")


def fetch(name: str) -> Fetched:
    """The released checkpoint of a config, downloaded unless the cache has it.

    Raises UserError where it cannot be had, and for one that differs from the Hub's checksum, which
    leaves the cache.
    """
    check_name(name)
    file = FILES[name]
    path = _download(file)
    with open(path, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    _check(path, digest)
    revision = path.parents[file.count("/")].name  # snapshots/REVISION/FILE
    origin = {"repository": REPOSITORY, "revision": revision, "file": file, "sha256": digest}
    return Fetched(path, origin)


def _download(file: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(
            "released models need the package huggingface_hub: pip install -e '.[hub]', or name a "
            "file that you have with --checkpoint=FILE.pt"
        ) from error
    try:
        return Path(hf_hub_download(REPOSITORY, file))
    except Exception as error:  # of its HTTP library, too, which is another in other versions
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{file} cannot be fetched from {REPOSITORY} ({reason}): run the same command again, "
            "or name a file that you have with --checkpoint=FILE.pt"
        ) from error


def _check(path: Path, digest: str) -> None:
    """The cache names files by the Hub's checksums, where the file system has links."""
    wanted = Path(os.readlink(path)).name if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", wanted) and digest != wanted:
        path.resolve().unlink()
        path.unlink()
        raise UserError(
            f"{path.name} is damaged: its sha256 is {digest}, the Hub's {wanted}; it was removed "
            "from the cache: run the same command again"
        )
