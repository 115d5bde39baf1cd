"""The Hugging Face Hub's client, and download of the paper's released checkpoints.

The client downloads each file once into its cache and resumes broken downloads.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from lzn_jax import files
from lzn_jax.errors import UserError, explained, package

ORIGIN_FILE = "released.json"  # in the work folder: origin of a released checkpoint
REPOSITORY = "microsoft/latent-zoning-networks"
# By the config's name, from the release's README.
FILES = {
    "afhq_cat_gen": "lzn1/case_study_1_afhqcat/000003000-000060000.pt",
    "celebahq_gen": "lzn1/case_study_1_celebahq/000002991-000350000.pt",
    "cifar10_gen": "lzn1/case_study_1_cifar10/000002000-000050000.pt",
    "cifar10_joint": "lzn1/case_study_3/000008000-000200000.pt",
    "imagenet_repr": "lzn1/case_study_2/000032051-005000000.pt",
    "lsun_bedroom_gen": "lzn1/case_study_1_lsunbedroom/000000173-002050000.pt",
}


class Fetched(NamedTuple):
    """Path in the cache and origin: `repository`, `revision`, `file` and `sha256`."""

    path: Path
    origin: dict[str, str]


def check_name(name: str) -> None:
    """Raises UserError for a name of no released checkpoint."""
    if name not in FILES:
        raise UserError(f"there is no released model {name!r}: the names are {', '.join(FILES)}")


def fetch(name: str) -> Fetched:
    """Released checkpoint of the config `name`, downloaded unless it is cached.

    Raises UserError if the download fails. A file that differs from the Hub's checksum also raises
    UserError, and leaves the cache.
    """
    file, download = FILES[name], hub_client().hf_hub_download
    remedy = "run the same command again, or use a local file with --checkpoint=FILE.pt"
    with explained(f"{file} cannot be fetched from {REPOSITORY}", remedy):
        path = Path(download(REPOSITORY, file))
    digest = files.digest(path)
    # The cache names files by the Hub's checksums if the file system supports links.
    expected = Path(os.readlink(path)).name if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", expected) and digest != expected:
        forget(path)
        raise UserError(
            f"{path.name} is damaged: its sha256 is {digest}, the Hub's {expected}; it was removed "
            "from the cache: run the same command again"
        )
    revision = path.parents[file.count("/")].name  # snapshots/REVISION/FILE
    origin = {"repository": REPOSITORY, "revision": revision, "file": file, "sha256": digest}
    return Fetched(path, origin)


def hub_client() -> Any:
    """The Hub's client huggingface_hub. Raises UserError if it is missing."""
    return package("huggingface_hub", "-e '.[hub]'")


def forget(path: Path) -> None:
    """Removes a file from the client's cache, so that it is downloaded again."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
