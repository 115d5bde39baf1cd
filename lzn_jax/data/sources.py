"""Data sets by name, and images that a user names on the command line."""

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
    """One split of the data set that a config's `data` group names.

    `data.validation` training examples, chosen by `data.validation_seed`, are the validation split
    and no others. Raises UserError for a data set that cannot be read, without
    `data.skip_unreadable` for one that holds texts and images that are no pairs, and for a
    validation split of no examples.
    """
    count = data.get("validation", 0)
    if split == "validation" and count == 0:
        raise UserError("there is no validation split: set data.validation to its examples")
    examples = load_pairs_alone(data, "test" if split == "test" else "train")
    if examples.left_out and not data.skip_unreadable:
        raise UserError(
            f"no pairs are {len(examples.left_out)} texts or images, first {examples.left_out[0]}; "
            "--mode=check_data names more, --config.data.skip_unreadable=True goes on without"
        )
    if split == "test" or count == 0:
        return examples
    is_apart = validation.set_apart(examples.labels, examples.groups, count, data.validation_seed)
    return examples.at(np.flatnonzero(is_apart == (split == "validation")))


def load_pairs_alone(data: ConfigDict, split: Literal["train", "test"]) -> Examples:
    """As `load`, but what is no pair, in the result's `left_out`, is no error."""
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
    """Names of the data set's classes by label, empty where a class has none.

    Raises UserError for a data set that cannot be read.
    """
    names: tuple[str, ...] = parts.get("data", data.name).class_names(data)
    return names


def label_names(data: ConfigDict) -> list[str]:
    """Name of each label's class, or the label itself where no name can be read."""
    try:
        names = class_names(data)
    except UserError:
        names = ("",) * data.num_classes
    # Names of folders need not be Unicode.
    written = (name.encode(errors="replace").decode() for name in names)
    return [name or str(label) for label, name in enumerate(written)]


def file_names(images: Images) -> list[str]:
    """Path of each image of a data set; empty where images are no files of their own."""
    if isinstance(images, EncodedImages) and isinstance(images.source, folder.Files):
        return [images.source.name(row) for row in range(len(images))]
    return [""] * len(images)


def attribution(data: ConfigDict) -> str:
    """What pictures of the data set must say of their author, mostly nothing."""
    text: str = getattr(parts.get("data", data.name), "ATTRIBUTION", "")
    return text


class ImageFiles:
    """Image files as an array (n, h, w, c) uint8 whose rows are decoded when they are indexed.

    They have the size and channels of `data` and are prepared as those of an image folder are.
    Indexing raises UserError for a file that is no image.
    """

    def __init__(self, files: list[Path], data: ConfigDict) -> None:
        self.files, self._data = files, data

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: slice | np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
        chosen = np.arange(len(self))[rows].tolist()
        return np.stack([_read_image(self.files[row], self._data) for row in chosen])

    def read(self) -> UInt8[np.ndarray, "n h w c"]:
        """All images; one log line counts those that are cropped, resized or turned grey."""
        images = self[:]
        changes = (decoding.changes(file.read_bytes(), self._data) for file in self.files)
        counts = Counter(itertools.chain.from_iterable(changes))
        if counts:
            found = ", ".join(f"{count} {change}" for change, count in sorted(counts.items()))
            _log.info("of %d images: %s", len(self), found)
        return images


def read_images(path: str, data: ConfigDict) -> UInt8[np.ndarray, "n h w c"]:
    """An image file, or all image files below a folder by name; see `ImageFiles.read`."""
    return find_images(path, data).read()


def find_images(path: str, data: ConfigDict) -> ImageFiles:
    """An image file, or all image files below a folder by name, in the size and channels of `data`.

    Raises UserError for a path without images.
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
        raise UserError(f"{file} is not an image that can be read: {error}") from error
