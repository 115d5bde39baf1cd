"""Data sets by name, and images given on the command line."""

import functools
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Bool, UInt8
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.configuration import UserError
from lzn_jax.data import decoding, folder, validation
from lzn_jax.data.decoding import UnreadableImageError
from lzn_jax.data.examples import EncodedImages, Examples, Images, evenly_spaced

_MAX_SEEN = 1000  # training images whose background is compared

_Result = TypeVar("_Result")
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
        return np.stack([_read(file, self._prepared) for file in np.array(self.files)[rows]])

    def _prepared(self, encoded: bytes) -> UInt8[np.ndarray, "h w c"]:
        return decoding.prepare(encoded, self._data)

    def read(self, is_light: bool | None = None) -> UInt8[np.ndarray, "n h w c"]:
        """All images, see `read_image`.

        One log line counts inverted images, one cropped, resized and grey-converted ones.
        """
        read = functools.partial(read_image, data=self._data, is_light=is_light)
        images, is_inverted = zip(*(_read(file, read) for file in self.files), strict=True)
        if any(is_inverted):
            _log.info(
                "of %d images: %d inverted to the background of the training images; "
                "--config.data.invert_input=False keeps them",
                len(self), sum(is_inverted),
            )  # fmt: skip
        changes = (decoding.changes(file.read_bytes(), self._data) for file in self.files)
        counts = Counter(itertools.chain.from_iterable(changes))
        if counts:
            summary = ", ".join(f"{count} {change}" for change, count in sorted(counts.items()))
            _log.info("of %d images: %s", len(self), summary)
        return np.stack(images)


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


def read_image(
    encoded: bytes, data: ConfigDict, is_light: bool | None = None
) -> tuple[UInt8[np.ndarray, "h w c"], bool]:
    """A user's image with the size and channels of `data`, and whether it was inverted.

    `data.invert_input` decides that; if it is None, grey images are inverted whose background is
    not as light as the data's, `is_light`. Raises UnreadableImageError if it cannot be decoded.
    """
    image, is_inverted = decoding.prepare(encoded, data), data.get("invert_input")
    if is_inverted is None:
        differs = is_light not in (None, *_have_light_background(image[None]).tolist())
        is_inverted = data.channels == 1 and differs
    return 255 - image if is_inverted else image, is_inverted


def background(data: ConfigDict) -> bool | None:
    """Whether the background of the training images is light.

    None if it differs, if images have colours, or if they cannot be read, which is logged.
    """
    if data.channels != 1 or data.get("invert_input") is not None:
        return None
    try:
        images = load(data, "train").images
        return is_light(images[evenly_spaced(min(len(images), _MAX_SEEN), len(images))])
    except UserError as error:
        _log.warning("no image is inverted, as training images cannot be read: %s", error)
        return None


def is_light(images: UInt8[np.ndarray, "n h w c"]) -> bool | None:
    """Whether images have a light background; None unless nine in ten agree."""
    share = np.mean(_have_light_background(images))
    return None if 0.1 < share < 0.9 else bool(share > 0.5)


def _have_light_background(images: UInt8[np.ndarray, "n h w c"]) -> Bool[np.ndarray, " n"]:
    """Whether more than half of an image's border is lighter than middle grey."""
    is_light = images.mean(axis=-1) > 127.5
    is_border = np.pad(np.zeros_like(is_light[0, 1:-1, 1:-1]), 1, constant_values=True)
    return is_light[:, is_border].mean(axis=1) > 0.5


def _read(file: Path, use: Callable[[bytes], _Result]) -> _Result:
    try:
        return use(file.read_bytes())
    except (UnreadableImageError, OSError) as error:
        raise UserError(f"{file} is not a readable image: {error}") from error
