"""Folders of image files: one flat folder, or a folder for each class, with or without splits.

    PATH/*.png                      one class, no test split (CelebA-HQ, LSUN)
    PATH/CLASS/*.jpg                classes, no test split
    PATH/train/CLASS/*, PATH/val/CLASS/*    ImageNet, AFHQ; also test/ or validation/

The test split is the first of test/, val/ and validation/. For a data set with classes it is the
first with class folders, since ImageNet's test/ contains none. Labels number the class folders of
the training split by name. With `data.captions`, each row of metadata.jsonl or metadata.csv
(`file_name`, `text`) is an example.
"""

import contextlib
import csv
import dataclasses
import io
import logging
import os
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import parts
from lzn_jax.data import Examples, label_names, pixels, set_apart
from lzn_jax.data.pixels import (
    ENCODED_FIELDS,
    MAX_NAMED,
    EncodedImages,
    Images,
    Rows,
    UnreadableImageError,
)
from lzn_jax.errors import UserError
from lzn_jax.files import parse_json
from lzn_jax.parts import Field, count_or_0, word

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
TEST_FOLDERS = ("test", "val", "validation")
METADATA = ("metadata.jsonl", "metadata.csv")
MISSING = -1  # index of a missing image

_log = logging.getLogger(__name__)


def load(data: ConfigDict, split: str) -> Examples:
    """One split of a folder, its images decoded on access.

    With `data.class_name`, the split is that class folder. If `data.num_classes` is 1, all images
    below the split's folder get label 0. `data.holdout` images replace a test folder and are not
    used for training. They are drawn with `data.holdout_seed`, stratified by class or by their
    first text. A hold-out of 0 puts all images into both splits. With `data.captions`, each text of
    an image is an example, and all texts of a held-out image are in the test split.

    Raises UserError for a folder that is missing, empty, without metadata or with other classes,
    and for a hold-out that leaves no training images of a class.
    """
    folder, names, labels = _list(data, split)
    pairs = _pairs(folder, names, Path(data.path).expanduser()) if data.get("captions") else None
    return examples_of(data, split, Files(folder, names), labels, pairs)


def examples_of(
    data: ConfigDict, split: str, source: Any, labels: Int[np.ndarray, " n"], pairs: Any
) -> Examples:
    """One split of encoded images, like `held_out`. `pairs` are Pairs, or None without texts."""
    rows, texts, left_out = pairs or (np.arange(len(labels)), None, ())
    images = EncodedImages(source.at(rows), data)
    return held_out(data, split, Examples(images, labels[rows], texts, left_out, image_ids=rows))


def held_out(data: ConfigDict, split: str, examples: Examples) -> Examples:
    """The examples of a split under `data.holdout`, or all examples if it is not set.

    Raises UserError for a hold-out that leaves no training images of a class.
    """
    if not data.get("holdout"):
        return examples
    labels, ids, seed = examples.labels, examples.image_ids, data.get("holdout_seed", 0)
    strata = labels if examples.texts is None else examples.texts
    images = slice(None) if ids is None else np.unique(ids, return_index=True)[1]
    is_test = set_apart(strata, examples.units, data.holdout, seed, "data.holdout", images)
    if len(missing := np.setdiff1d(labels, labels[~is_test])):
        raise UserError(
            f"data.holdout={data.holdout} leaves no training image of the class "
            f"{label_names(data)[missing[0]]}: lower it, or change data.holdout_seed"
        )
    return examples.at(np.flatnonzero(is_test == (split == "test")))


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the training split's class folders by label.

    Raises UserError if their number is not `data.num_classes`.
    """
    folder = _split_folder(data, "train")
    if data.num_classes == 1 or (data.num_classes is None and data.class_name):
        return (data.class_name or "",)
    names = tuple(_entries(folder)[1])
    if data.num_classes not in (None, len(names)):
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(
            f"data.num_classes must be the number of class folders in {folder}, {len(names)} "
            f"({shown or 'none'}), or 1 for a single class, got {data.num_classes}"
        )
    return names


class Files(Rows):
    """Image files of a folder, as one array of names, which is cheap to copy to workers."""

    def __init__(self, folder: Path, names: np.ndarray) -> None:
        super().__init__(names)
        self._folder = folder

    def read(self, index: int) -> bytes:
        """Content of the file."""
        try:
            return Path(self.name(index)).read_bytes()
        except OSError as error:
            raise UnreadableImageError(str(error.strerror)) from error

    def name(self, index: int) -> str:
        """Path of the file."""
        return str(self._folder / os.fsdecode(self._rows[index]))


def file_names(images: Images) -> list[str]:
    """Path of each image of a data set, or empty strings if images are not separate files."""
    if isinstance(images, EncodedImages) and isinstance(images.source, Files):
        return [images.source.name(row) for row in range(len(images))]
    return [""] * len(images)


def _split_folder(data: ConfigDict, split: str) -> Path:
    root = Path(data.path).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: set data.path to the data set's folder")
    is_of_training = split == "train" or data.holdout is not None
    names = ("train", "") if is_of_training else TEST_FOLDERS
    folders = [root / name for name in names if (root / name).is_dir()]
    if not folders:
        raise UserError(
            f"{root} has no folder {', '.join(TEST_FOLDERS)}: set data.holdout to the number "
            "of training images to hold out for tests"
        )
    if not is_of_training and (data.num_classes > 1 or data.class_name is not None):
        folders.sort(key=lambda folder: not _entries(folder)[1])
    folder = folders[0] / (data.class_name or "")
    if not folder.is_dir():
        known = ", ".join(_entries(folders[0])[1][:20]) or "none"
        raise UserError(f"{folder} is no folder: the class folders beside it are {known}")
    return folder


def _list(data: ConfigDict, split: str) -> tuple[Path, np.ndarray, np.ndarray]:
    """Folder of a split, sorted names of its files and their labels."""
    classes = class_names(data)
    folder, names, labels = _split_folder(data, split), list[bytes](), list[int]()
    if data.num_classes > 1 and (unknown := sorted(set(_entries(folder)[1]) - set(classes))):
        raise UserError(f"{folder / unknown[0]} is a class without training images")
    for label, prefix in enumerate(f"{c}/" if data.num_classes > 1 else "" for c in classes):
        found = sorted(image_names(folder, prefix)) if (folder / prefix).is_dir() else []
        if not found:
            raise UserError(f"{folder / prefix} holds no images ({', '.join(IMAGE_SUFFIXES)})")
        names += found
        labels += [label] * len(found)
    return folder, np.array(names, np.bytes_), np.array(labels, np.int32)


def image_names(folder: Path, prefix: str, above: frozenset[str] = frozenset()) -> Iterator[bytes]:
    """Relative paths of image files at any depth. `above` are real paths of folders above."""
    if (real := os.path.realpath(folder / prefix)) in above:
        raise UserError(f"{folder / prefix} is a folder above it, by a link: remove the link")
    images, folders = _entries(folder / prefix)
    yield from (os.fsencode(prefix + name) for name in images)
    for name in folders:
        yield from image_names(folder, f"{prefix}{name}/", above | {real})


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the images and of the folders in a folder, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be listed: {error.strerror}") from error
    images = [entry.name for entry in shown if entry.name.lower().endswith(IMAGE_SUFFIXES)]
    others = {entry.name for entry in shown} - set(images)
    return images, sorted(name for name in others if os.path.isdir(folder / name))


# Image indices (p,), non-empty texts (p,), and descriptions of texts and images that form no pair.
Pairs = tuple[Int[np.ndarray, " p"], np.ndarray, tuple[str, ...]]


def make_pairs(
    entries: Iterable[tuple[int, str, str]], count: int, name: Callable[[int], str]
) -> Pairs:
    """Pairs of `count` images, sorted by image, from entries (image, text, description).

    Texts of MISSING images, empty texts, repeated pairs and images without a text are left out. The
    log lists the first 20. Raises UserError if there is no pair.
    """
    kept: dict[tuple[int, str], None] = {}
    left_out = []
    for image, text, entry in entries:
        if image == MISSING:
            left_out.append(f"a text without its image: {entry}")
        elif not text.strip():
            left_out.append(f"an empty text: {entry}")
        elif (image, text) in kept:
            left_out.append(f"a repeated pair: {entry}")
        else:
            kept[image, text] = None
    rows = np.array([image for image, _ in kept], np.int64)
    without_text = np.setdiff1d(np.arange(count), rows).tolist()
    left_out += [f"an image without a text: {name(image)}" for image in without_text]
    for fault in left_out[:MAX_NAMED]:
        _log.warning("left out, not a pair: %s", fault)
    if len(left_out) > MAX_NAMED:
        _log.warning("left out in total: %d texts and images", len(left_out))
    if len(rows) == 0:
        raise UserError(
            f"no image has a text, the first is {name(0)}: add texts or set data.captions to False"
        )
    order, texts = np.argsort(rows, kind="stable"), np.array([text for _, text in kept], object)
    return rows[order], texts[order], tuple(left_out)


def pairs_of(texts: Sequence[list[str]], name: Callable[[int], str]) -> Pairs:
    """Pairs of each image and its texts, like `make_pairs`."""
    entries = ((row, text, name(row)) for row, said in enumerate(texts) for text in said)
    return make_pairs(entries, len(texts), name)


def _pairs(folder: Path, names: np.ndarray, root: Path) -> Pairs:
    """Pairs of the named images of a folder and their texts in the metadata file."""
    path = _metadata(folder, root)
    others = _entries(path.parent)[1]
    prefix = "" if folder == path.parent else f"{folder.relative_to(path.parent).as_posix()}/"
    numbers = {prefix + os.fsdecode(name): row for row, name in enumerate(names)}
    entries = (
        (numbers.get(name, MISSING), text, f"{name} in line {line} of {path}")
        for line, name, text in _read_metadata(path)
        # Other lines belong to another split or class.
        if name.startswith(prefix) or name.partition("/")[0] not in others
    )
    return make_pairs(entries, len(names), Files(folder, names).name)


def _metadata(folder: Path, root: Path) -> Path:
    """Metadata file of the images in `folder`, the nearest in it or its parents up to `root`."""
    for place in (folder, *folder.parents):
        files = [place / name for name in METADATA if (place / name).is_file()]
        if len(files) == 2:
            raise UserError(f"{place} holds both {' and '.join(METADATA)}: remove one of them")
        if files:
            return files[0]
        if place == root:
            break
    raise UserError(
        f"{folder} has no {' or '.join(METADATA)} with file_name and text: write one, or set "
        "data.captions to False"
    )


def _read_metadata(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, name, text) of each row. Raises UserError for a malformed file."""
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            # A blank line of JSON is an empty string.
            lines = (parse_json(line) if line.strip() else "" for line in file)
            rows: Any = csv.DictReader(file, strict=True) if path.suffix == ".csv" else lines
            for place, row in enumerate(rows, 1):
                number = getattr(rows, "line_num", place)
                if row == "":
                    continue
                # Fields beyond those in the first line of a CSV file are in a column None.
                is_whole = isinstance(row, dict) and None not in row
                name, text = (row.get(key) if is_whole else None for key in ("file_name", "text"))
                if not isinstance(name, str) or not isinstance(text, str):
                    raise UserError(
                        f"line {number} of {path} must have file_name and text, both of them "
                        "strings, and texts in quotes"
                    )
                yield number, posixpath.normpath(name), text
    except (OSError, csv.Error, ValueError) as error:
        raise UserError(f"{path} cannot be read after line {number}: {error}") from error


MAX_HEADERS = 1000  # files read to find sizes and colours
GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})  # Pillow's
MAX_OWN_SIDE = 64  # pixels; images of equal size keep their size up to this side
SIDE = 32  # side of all other images
HOLDOUT = 10  # without a test folder, one in ten images is a test image


def has_test(data: ConfigDict) -> bool:
    """Whether a test folder exists."""
    return any((Path(data.path) / name).is_dir() for name in TEST_FOLDERS)


def facts(data: ConfigDict, asked: Collection[str]) -> dict[str, Any]:
    """What is `asked` of the images: values of `data`, numbers `train` and `test` of images.

    The path becomes absolute, and without a test split one in ten images is held out. Raises
    UserError for a missing or empty folder. The data set's module has a function `has_test`.
    """
    data_set, data, found = parts.get("data", data.name), ConfigDict(data), dict[str, Any]()
    is_open = not {"image_size", "channels", "num_classes"}.isdisjoint(asked)
    if "path" in data:
        folder = Path(data.path).expanduser().absolute()
        if folder.is_dir():
            found["path"] = data.path = str(folder)
        elif not is_open:
            return {}  # reported when it is read
    if is_open:
        classes = data.num_classes or len(data_set.class_names(data)) or 1
        if "image_size" in data:
            whole = {"num_classes": 1, "captions": False, "holdout": None, "image_size": None}
            source = data_set.load(ConfigDict({**data, **whole}), "train").images.source
            found["image_size"], found["channels"] = _size_and_channels(source)
        found["num_classes"] = data.num_classes = classes
    is_divided = data.holdout is not None or data_set.has_test(data)
    if not is_divided or not {"train", "test"}.isdisjoint(asked):
        found |= _counts(data, data_set, is_divided)
    return {name: value for name, value in found.items() if name in {"path", *asked}}


def _size_and_channels(source: Any) -> tuple[int, int]:
    """Side and channels of images by at most 1000 file headers."""
    sizes, modes = set(), set()
    for row in pixels.evenly_spaced(min(len(source), MAX_HEADERS), len(source)).tolist():
        # An unreadable file is reported when training reads it.
        with contextlib.suppress(Exception), Image.open(io.BytesIO(source.read(row))) as image:
            sizes.add(image.size)
            modes.add(image.mode)
            if min(image.size) > MAX_OWN_SIDE and modes - GREY_MODES:
                break  # no further image would change the result
    side = min(sizes.pop()) if len(sizes) == 1 else SIDE
    return side if side <= MAX_OWN_SIDE else SIDE, 1 if modes and modes <= GREY_MODES else 3


def _counts(data: ConfigDict, data_set: Any, is_divided: bool) -> dict[str, int | None]:
    """Numbers of images by split, and the hold-out if there is no test split."""
    whole = ConfigDict({**data, "captions": False, "holdout": None})
    examples, holdout = data_set.load(whole, "train"), data.holdout
    train = len(examples.labels)
    if not is_divided and train > 1:
        holdout = max(train // HOLDOUT, 1)
    whole.holdout = holdout
    test = holdout or len(data_set.load(whole, "test").labels)
    with contextlib.suppress(UserError):  # a wrong hold-out is reported when it is read
        kept = len(held_out(whole, "train", examples).labels)  # groups may exceed the hold-out
        train, test = kept, train - kept or test
    return {"holdout": holdout, "train": train, "test": test}


_FROM_IMAGES = {
    name: dataclasses.replace(ENCODED_FIELDS[name], default=None, from_data=True)
    for name in ("data.image_size", "data.channels", "data.num_classes")
}
_HOLDOUT = "training images held out for tests, 0 = test on all of them, None = use a test split"
SPLIT_FIELDS = {  # of data sets with the `facts` above
    "data.num_classes": _FROM_IMAGES["data.num_classes"],
    "data.holdout": count_or_0(_HOLDOUT, None),
    "data.holdout_seed": Field(int, "seed of the hold-out", 0, minimum=0, below=2**32),
}
FIELDS = ENCODED_FIELDS | _FROM_IMAGES | SPLIT_FIELDS
parts.add(
    "data",
    "image_folder",
    "lzn_jax.data.folder",
    FIELDS
    | {
        "data.path": word("folder of images, class folders or train, val and test folders"),
        "data.class_name": word("the only class folder to read, None = all", None),
    },
)
