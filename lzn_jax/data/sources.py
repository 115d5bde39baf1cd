"""Data sets by name, and images given on the command line."""

import itertools
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.configuration import UserError
from lzn_jax.data import decoding, folder, validation
from lzn_jax.data.decoding import UnreadableImageError
from lzn_jax.data.examples import EncodedImages, Examples, Images

_log = logging.getLogger(__name__)


def load(data: ConfigDict, split: Literal["train", "validation", "test"]) -> Examples:
    """One split of the data set in a config's `data` group.

    The validation split consists of `data.validation` training examples, drawn with
    `data.validation_seed`; the training split excludes them. Raises UserError for a data set that
    cannot be read, for an empty validation split and, without `data.skip_unreadable`, for texts or
    images that do not form a pair.
    """
    count = data.get("validation", 0)
    if split == "validation" and count == 0:
        raise UserError("there is no validation split: set data.validation to its size")
    examples = load_pairs_alone(data, "test" if split == "test" else "train")
    if examples.left_out and not data.skip_unreadable:
        raise UserError(
            f"{len(examples.left_out)} texts or images form no pair, the first is "
            f"{examples.left_out[0]}; --mode=check_data lists more, "
            "--config.data.skip_unreadable=True continues without them"
        )
    if split == "test" or count == 0:
        return examples
    groups = examples.image_ids if examples.groups is None else examples.groups
    is_apart = validation.set_apart(examples.labels, groups, count, data.validation_seed)
    return examples.at(np.flatnonzero(is_apart == (split == "validation")))


def load_pairs_alone(data: ConfigDict, split: Literal["train", "test"]) -> Examples:
    """As `load`, but texts and images that form no pair are no error; see `Examples.left_out`."""
    examples = parts.get("data", data.name).load(data, split)
    if not isinstance(examples, Examples):
        raise UserError(f"data {data.name!r} must load lzn_jax.data.Examples, got {examples!r}")
    columns = {"images": examples.images, "texts": examples.texts, **examples.more}
    for name, values in columns.items():
        if values is not None and len(values) != len(examples.labels):
            raise UserError(
                f"data {data.name!r} has {len(values)} {name} and {len(examples.labels)} labels"
            )
    return examples


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the data set's classes by label, empty for a class without a name.

    Raises UserError for a data set that cannot be read.
    """
    names: tuple[str, ...] = parts.get("data", data.name).class_names(data)
    return names


def label_names(data: ConfigDict) -> list[str]:
    """Name of each class by label, or the label itself if there is no name or it is unreadable."""
    try:
        names = class_names(data)
    except UserError:
        names = ("",) * data.num_classes
    # Names of folders may be invalid Unicode.
    written = (name.encode(errors="replace").decode() for name in names)
    return [name or str(label) for label, name in enumerate(written)]


def file_names(images: Images) -> list[str]:
    """Path of each image of a data set; empty strings if images are not separate files."""
    if isinstance(images, EncodedImages) and isinstance(images.source, folder.Files):
        return [images.source.name(row) for row in range(len(images))]
    return [""] * len(images)


def attribution(data: ConfigDict) -> str:
    """Attribution required by the data set's licence, or an empty string."""
    text: str = getattr(parts.get("data", data.name), "ATTRIBUTION", "")
    return text


def licence(data: ConfigDict) -> str:
    """Licence of the data set in words, or an empty string if it is not known."""
    text: str = getattr(parts.get("data", data.name), "LICENCE", "")
    return text or attribution(data)


class ImageFiles:
    """Image files as an array (n, h, w, c) uint8, decoded when indexed.

    `decoding.prepare` gives them the size and channels of `data`. Indexing raises UserError for a
    file that is not an image.
    """

    def __init__(self, files: list[Path], data: ConfigDict) -> None:
        self.files, self._data = files, data

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: slice | np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
        chosen = np.arange(len(self))[rows].tolist()
        return np.stack([_read_image(self.files[row], self._data) for row in chosen])

    def read(self) -> UInt8[np.ndarray, "n h w c"]:
        """All images; one log line counts cropped, resized and grey-converted ones."""
        images = self[:]
        changes = (decoding.changes(file.read_bytes(), self._data) for file in self.files)
        counts = Counter(itertools.chain.from_iterable(changes))
        if counts:
            summary = ", ".join(f"{count} {change}" for change, count in sorted(counts.items()))
            _log.info("of %d images: %s", len(self), summary)
        return images


def read_images(path: str, data: ConfigDict) -> UInt8[np.ndarray, "n h w c"]:
    """Images of one file or of all files in a folder, sorted by name; see `ImageFiles.read`."""
    return find_images(path, data).read()


def find_images(path: str, data: ConfigDict) -> ImageFiles:
    """One image file or all image files at any depth in a folder, sorted by name.

    Images get the size and channels of `data`. Raises UserError for a path without images.
    """
    root = Path(path)
    if not root.exists():
        raise UserError(f"there is no image or folder {root}")
    files = [root]
    if root.is_dir():
        files = [root / os.fsdecode(name) for name in sorted(folder.image_names(root))]
    if not files:
        raise UserError(f"{root} holds no images ({', '.join(folder.IMAGE_SUFFIXES)})")
    return ImageFiles(files, data)


def _read_image(file: Path, data: ConfigDict) -> np.ndarray:
    try:
        return decoding.prepare(file.read_bytes(), data)
    except (UnreadableImageError, OSError) as error:
        raise UserError(f"{file} is not a readable image: {error}") from error
