"""Folders of image files: one flat folder, or a folder for each class, with or without splits.

    PATH/*.png                      one class, no test split (CelebA-HQ, LSUN)
    PATH/CLASS/*.jpg                classes, no test split
    PATH/train/CLASS/*, PATH/val/CLASS/*    ImageNet, AFHQ; also test/ or validation/

The test split is the first of test/, val/ and validation/; for a data set with classes it is the
first with class folders, because ImageNet's test/ has none. Labels number the class folders of the
training split by name. With `data.captions` a metadata file contains the texts (see metadata.py).
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax.configuration import UserError
from lzn_jax.data import metadata, pairs
from lzn_jax.data.decoding import UnreadableImageError
from lzn_jax.data.examples import EncodedImages, Examples, evenly_spaced
from lzn_jax.data.validation import set_apart

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
TEST_FOLDERS = ("test", "val", "validation")
MAX_HEADERS = 1000  # files read to find sizes and colours
GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})  # Pillow's


def load(data: ConfigDict, split: str) -> Examples:
    """One split of a folder, its images decoded on access.

    With `data.class_name` the split is that class folder. With `data.num_classes` 1 all images
    below the split's folder have label 0. `data.holdout` images, drawn with `data.holdout_seed`
    and stratified by class or by their first text, are the test split in place of a test folder and
    are not used for training; with 0 both splits contain all images. With `data.captions` each text
    of an image is an example, and all texts of a held-out image are in the test split.

    Raises UserError for a folder that is missing, empty, without metadata or with other classes,
    and for a hold-out that leaves no training images of a class.
    """
    root = Path(data.path).expanduser()
    folder = _split_folder(root, data, split)
    names, labels = _list(folder, data, class_names(data))
    rows, texts, left_out = np.arange(len(names)), None, tuple[str, ...]()
    if data.get("captions"):
        rows, texts, left_out = _pairs(folder, names, data)
    if data.holdout:
        images, first = np.unique(rows, return_index=True)  # with captions, only images with a text
        strata = labels[images] if texts is None else texts[first]
        seed = data.get("holdout_seed", 0)
        is_test = set_apart(strata, None, data.holdout, seed, "data.holdout")
        if len(missing := np.setdiff1d(labels[images], labels[images[~is_test]])):
            raise UserError(
                f"data.holdout={data.holdout} leaves no training image of the class "
                f"{class_names(data)[missing[0]]}: lower it, or draw others with data.holdout_seed"
            )
        is_chosen = np.isin(rows, images[is_test == (split == "test")])
        rows, texts = rows[is_chosen], None if texts is None else texts[is_chosen]
    names, labels = names[rows], labels[rows]
    encoded = EncodedImages(Files(folder, names), labels, data)
    return Examples(encoded, labels, texts, left_out, image_ids=rows)


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the training split's class folders by label.

    Raises UserError if their number is not `data.num_classes`.
    """
    folder = _split_folder(Path(data.path).expanduser(), data, "train")
    if data.num_classes == 1:
        return (data.class_name or "",)
    if data.class_name is not None:
        raise UserError(f"data.num_classes must be 1 with data.class_name, got {data.num_classes}")
    names = tuple(_class_folders(folder))
    if len(names) != data.num_classes:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(
            f"data.num_classes must be the number of class folders in {folder}, {len(names)} "
            f"({shown or 'none'}), or 1 for a single class, got {data.num_classes}"
        )
    return names


def image_names(
    folder: Path, prefix: str = "", above: frozenset[str] = frozenset()
) -> Iterator[bytes]:
    """Relative paths of the image files at any depth below a folder, unsorted, without hidden ones.

    Only reads directory entries, so a million files take seconds. Raises UserError for a folder
    that cannot be listed, or that links to one above it; `above` are the real paths of these.
    """
    if (real := os.path.realpath(folder / prefix)) in above:
        raise UserError(f"{folder / prefix} is a folder above it, by a link: remove the link")
    for entry in _entries(folder / prefix):
        path = f"{prefix}{entry.name}"
        if _is_image(entry):
            yield os.fsencode(path)
        elif _is_folder(entry):
            yield from image_names(folder, f"{path}/", above | {real})


def count(data: ConfigDict, split: str) -> int:
    """Number of image files in the folder of a split, including held-out ones."""
    return len(_list(_split_folder(Path(data.path), data, split), data, class_names(data))[0])


def has_test_folder(path: str) -> bool:
    """Whether a data set's folder contains a test folder."""
    return any((Path(path) / name).is_dir() for name in TEST_FOLDERS)


def survey(root: Path, class_name: str | None) -> tuple[int, int | None, bool]:
    """(number of classes, shorter side in pixels, whether all images are grey) of training images.

    The number of classes is that of class folders, at least 1, and 1 with `class_name`. The side is
    None if sizes differ. Sizes and colours are read from the headers of at most 1000 files. Raises
    UserError for a folder that is missing or without images.
    """
    data = ConfigDict({"class_name": class_name, "num_classes": 1, "holdout": None})
    folder = _split_folder(root, data, "train")
    names, _ = _list(folder, data, ())
    sizes, modes = set(), set()
    for row in evenly_spaced(min(len(names), MAX_HEADERS), len(names)).tolist():
        # An unreadable file is reported when training reads it.
        with contextlib.suppress(Exception), Image.open(Files(folder, names).name(row)) as image:
            sizes.add(image.size)
            modes.add(image.mode)
    classes = 1 if class_name is not None else max(len(_class_folders(folder)), 1)
    side = min(min(size) for size in sizes) if len(sizes) == 1 else None
    return classes, side, bool(modes) and modes <= GREY_MODES


class Files:
    """Image files of a folder, as one array of names, which is cheap to copy to each worker."""

    def __init__(self, folder: Path, names: np.ndarray) -> None:
        self._folder, self._names = folder, names

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> bytes:
        """Content of the file."""
        try:
            return Path(self.name(index)).read_bytes()
        except OSError as error:
            raise UnreadableImageError(str(error.strerror)) from error

    def name(self, index: int) -> str:
        """Path of the file."""
        return os.path.join(self._folder, os.fsdecode(self._names[index]))

    def at(self, rows: np.ndarray) -> "Files":
        """The files at these rows."""
        return Files(self._folder, self._names[rows])


def _split_folder(root: Path, data: ConfigDict, split: str) -> Path:
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: set data.path to the data set's folder")
    if split == "train" or data.holdout is not None:
        folder = root / "train" if (root / "train").is_dir() else root
    else:
        folders = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
        if not folders:
            raise UserError(
                f"{root} has no folder {', '.join(TEST_FOLDERS)}: set data.holdout to the number "
                "of training images to hold out for tests"
            )
        needs_classes = data.num_classes > 1 or data.class_name is not None
        fitting = (path for path in folders if not needs_classes or _class_folders(path))
        folder = next(fitting, folders[0])
    if data.class_name is None:
        return folder
    if not (folder / data.class_name).is_dir():
        names = ", ".join(_class_folders(folder)[:20]) or "none"
        raise UserError(
            f"{folder} has no class folder {data.class_name}: its class folders are {names}"
        )
    return folder / data.class_name


def _class_folders(folder: Path) -> list[str]:
    return sorted(e.name for e in _entries(folder) if not _is_image(e) and _is_folder(e))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(IMAGE_SUFFIXES)


def _list(
    folder: Path, data: ConfigDict, classes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted names of a split's files and their labels."""
    if data.num_classes == 1:
        parts = [_sorted_names(folder)]
    else:
        unknown = sorted(set(_class_folders(folder)) - set(classes))
        if unknown:
            raise UserError(f"{folder / unknown[0]} is a class without training images")
        parts = [_sorted_names(folder, f"{name}/") for name in classes]
    labels = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return np.array([name for part in parts for name in part], np.bytes_), labels


def _sorted_names(folder: Path, prefix: str = "") -> list[bytes]:
    names = sorted(image_names(folder, prefix)) if (folder / prefix).is_dir() else []
    if not names:
        raise UserError(f"{folder / prefix} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return names


def _pairs(folder: Path, names: np.ndarray, data: ConfigDict) -> pairs.Pairs:
    """Pairs of the named images of a folder and their texts in the metadata file."""
    path = metadata.find(folder, Path(data.path).expanduser())
    others = {entry.name for entry in _entries(path.parent) if _is_folder(entry)}
    prefix = "" if folder == path.parent else f"{folder.relative_to(path.parent).as_posix()}/"
    numbers = {prefix + os.fsdecode(name): row for row, name in enumerate(names)}
    entries = (
        (numbers.get(name, pairs.MISSING), text, f"{name} in line {line} of {path}")
        for line, name, text in metadata.read(path)
        # Other lines belong to another split or class.
        if name.startswith(prefix) or name.partition("/")[0] not in others
    )
    return pairs.make(entries, len(names), Files(folder, names).name)
