"""Folders of image files: one flat folder, or a folder for each class, with or without splits.

    PATH/*.png                      one class, no test split (CelebA-HQ, LSUN)
    PATH/CLASS/*.jpg                classes, no test split
    PATH/train/CLASS/*, PATH/val/CLASS/*    ImageNet, AFHQ; also test/ or validation/

The test split is the first of test/, val/ and validation/; for a data set with classes it is the
first with class folders, because ImageNet's test/ has none. Labels number the class folders of the
training split by name. With `data.captions` a metadata file contains the texts (see metadata.py).
"""

import contextlib
import csv
import functools
import itertools
import logging
import math
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax.configuration import parse_json, schema_of, with_defaults
from lzn_jax.data import Examples, pixels, set_apart
from lzn_jax.data.pixels import (
    MAX_NAMED,
    EncodedImages,
    Images,
    UnreadableImageError,
    _have_light_background,
    evenly_spaced,
)
from lzn_jax.errors import UserError

FILES = ("metadata.jsonl", "metadata.csv")


def find(folder: Path, root: Path) -> Path:
    """Metadata file of the images in `folder`: the nearest in it and its parents up to `root`.

    Raises UserError if there is none, or if one folder contains two.
    """
    for place in (folder, *folder.parents):
        files = [place / name for name in FILES if (place / name).is_file()]
        if len(files) == 2:
            raise UserError(f"{place} holds both {' and '.join(FILES)}: remove one of them")
        if files:
            return files[0]
        if place == root:
            break
    raise UserError(
        f"{folder} has no {' or '.join(FILES)} with file_name and text: write one, or set "
        "data.captions to False"
    )


def read(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, name, text) of each row; raises UserError naming a malformed line."""
    rows = _jsonl(path) if path.suffix == ".jsonl" else _csv(path)
    for line, values in rows:
        name, text = values.get("file_name"), values.get("text")
        if not isinstance(name, str) or not isinstance(text, str):
            raise _error(path, line, "must have file_name and text, both of them strings")
        yield line, posixpath.normpath(name), text


def _jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in _lines(path):
        try:
            values = parse_json(line) if line.strip() else None
        except ValueError as error:
            raise _error(path, number, "is not valid JSON") from error
        if isinstance(values, dict):
            yield number, values
        elif line.strip():
            raise _error(path, number, 'must have the form {"file_name": "1.png", "text": "a cat"}')


def _csv(path: Path) -> Iterator[tuple[int, dict]]:
    reader = csv.DictReader((line for _, line in _lines(path)), strict=True)
    try:
        if not {"file_name", "text"} <= set(reader.fieldnames or ()):
            raise _error(path, 1, "must name the columns file_name and text")
        for values in reader:
            if None in values:  # fields beyond those in the first line
                raise _error(path, reader.line_num, "has too many fields: put texts in quotes")
            yield reader.line_num, values
    except csv.Error as error:
        raise _error(path, reader.reader.line_num, f"is not valid CSV: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and contents of lines, with line ends and without a byte order mark."""
    number = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _error(path, number, "is not encoded in UTF-8") from error


def _error(path: Path, line: int, fault: str) -> UserError:
    return UserError(f"line {line} of {path} {fault}")


MISSING = -1  # index of a missing image

# Image indices (p,), non-empty texts (p,), and descriptions of texts and images that form no pair.
Pairs = tuple[Int[np.ndarray, " p"], np.ndarray, tuple[str, ...]]

_log = logging.getLogger(__name__)


def make(entries: Iterable[tuple[int, str, str]], count: int, name: Callable[[int], str]) -> Pairs:
    """Pairs of `count` images, by image, given entries (image, text, description of the entry).

    Texts of MISSING images, empty texts, repeated pairs and images without a text are left out; the
    log counts them and lists the first 20 of each kind. Raises UserError if there is no pair.
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
    _log_left_out(left_out)
    if len(rows) == 0:
        raise UserError(
            f"no image has a text, the first is {name(0)}: add texts or set data.captions to False"
        )
    order = np.argsort(rows, kind="stable")
    texts = np.array([text for _, text in kept], object)
    return rows[order], texts[order], tuple(left_out)


def _log_left_out(left_out: Iterable[str]) -> None:
    counts: Counter[str] = Counter()
    for fault in left_out:
        kind = fault.partition(":")[0]
        counts[kind] += 1
        if counts[kind] <= MAX_NAMED:
            _log.warning("left out, not a pair: %s", fault)
    for kind, count in counts.items():
        _log.warning("left out in total: %s (%d)", kind, count)


MAX_OWN_SIDE = 64  # pixels; images of equal size keep it up to this side
SIDE = 32  # side of all other images
HOLDOUT = 10  # without a test folder, one in ten images is a test image

_OF_TRAINING = (
    *("training.batch_size", "training.queries", "latent.context_size"),
    *("evaluation.num_samples", "evaluation.context_sizes"),
)
_OF_TEST = ("evaluation.batch_sizes",)


def resolved(values: Mapping[str, Any], stated: Collection[str]) -> dict[str, Any]:
    """The values, where None is replaced by a value derived from the images.

    Numbers of images that are not in `stated` are limited to the images in the folder. One log line
    lists the changed fields. Values of other data sets are unchanged. Raises UserError for a
    missing or empty folder.
    """
    fields = schema_of(values)
    values = with_defaults(values, fields)
    if values["data.name"] != "image_folder" or values.get("data.path") is None:
        return values
    values["data.path"] = str(Path(values["data.path"]).expanduser().absolute())
    is_known = all(values[n] is not None for n, field in fields.items() if field.from_data)
    if is_known and not Path(values["data.path"]).is_dir():
        return values  # reported when it is read
    derived = {} if is_known else _from_files(values)
    derived |= _limited(values | derived, stated)
    if derived:
        named = ", ".join(
            f"{name.removeprefix('data.')}={value}" for name, value in derived.items()
        )
        _log.info("from the images in %s: %s", values["data.path"], named)
    return values | derived


def _from_files(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for fields that are None, from class folders and file headers."""
    classes, side, is_grey = survey(Path(values["data.path"]), values["data.class_name"])
    grid = math.lcm(*(_grid(values, network) for network in ("encoder", "decoder")))
    side = side if side is not None and side <= MAX_OWN_SIDE else SIDE
    derived = {
        "data.image_size": math.ceil(side / grid) * grid,
        "data.channels": 1 if is_grey else 3,
        "data.num_classes": classes,
    }
    return {name: value for name, value in derived.items() if values[name] is None}


def _grid(values: Mapping[str, Any], network: str) -> int:
    """Number of pixels by which a network requires an image's side to be divisible."""
    levels = len(values.get(f"{network}.channel_multipliers", (1,)))
    patch: int = values.get(f"{network}.patch_size", 1)
    return patch * 2 ** (levels - 1)


def _limited(values: Mapping[str, Any], stated: Collection[str]) -> dict[str, Any]:
    """A hold-out if there is no test folder, and limits for numbers above those of the folder."""
    is_held_out = values["data.holdout"] is not None
    limited = [name for name in (*_OF_TRAINING, *_OF_TEST) if name in values and name not in stated]
    if not limited and (is_held_out or has_test_folder(values["data.path"])):
        return {}
    data = ConfigDict({n[5:]: v for n, v in values.items() if n.startswith("data.")})
    train, limits = count(data, "train"), dict[str, Any]()
    if not is_held_out and not has_test_folder(data.path) and train > 1:
        data.holdout = limits["data.holdout"] = max(train // HOLDOUT, 1)
    test = data.holdout or (train if data.holdout == 0 else count(data, "test"))
    train -= data.holdout or 0
    if train <= 0:
        return {}  # reported when it is read
    for name in limited:
        most = train if name in _OF_TRAINING else test
        limits[name] = _at_most(values[name], most)
    if "training.batch_size" in limits:  # a multiple of the queries
        part = limits.get("training.queries", values.get("training.queries")) or 1
        limits["training.batch_size"] -= limits["training.batch_size"] % part
    return {name: value for name, value in limits.items() if value != values[name]}


def _at_most(value: Any, most: int) -> Any:
    """The value with `most` as its upper bound; for a tuple, the distinct bounded numbers."""
    if isinstance(value, tuple):
        return tuple(sorted({min(each, most) for each in value}))
    return None if value is None else min(value, most)


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


def _pairs(folder: Path, names: np.ndarray, data: ConfigDict) -> Pairs:
    """Pairs of the named images of a folder and their texts in the metadata file."""
    path = find(folder, Path(data.path).expanduser())
    others = {entry.name for entry in _entries(path.parent) if _is_folder(entry)}
    prefix = "" if folder == path.parent else f"{folder.relative_to(path.parent).as_posix()}/"
    numbers = {prefix + os.fsdecode(name): row for row, name in enumerate(names)}
    entries = (
        (numbers.get(name, MISSING), text, f"{name} in line {line} of {path}")
        for line, name, text in read(path)
        # Other lines belong to another split or class.
        if name.startswith(prefix) or name.partition("/")[0] not in others
    )
    return make(entries, len(names), Files(folder, names).name)


_Result = TypeVar("_Result")


def file_names(images: Images) -> list[str]:
    """Path of each image of a data set; empty strings if images are not separate files."""
    if isinstance(images, EncodedImages) and isinstance(images.source, Files):
        return [images.source.name(row) for row in range(len(images))]
    return [""] * len(images)


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
        return pixels.prepare(encoded, self._data)

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
        changes = (pixels.changes(file.read_bytes(), self._data) for file in self.files)
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
        files = [root / os.fsdecode(name) for name in sorted(image_names(root))]
    if not files:
        raise UserError(f"{root} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return ImageFiles(files, data)


def read_image(
    encoded: bytes, data: ConfigDict, is_light: bool | None = None
) -> tuple[UInt8[np.ndarray, "h w c"], bool]:
    """A user's image with the size and channels of `data`, and whether it was inverted.

    `data.invert_input` decides that; if it is None, grey images are inverted whose background is
    not as light as the data's, `is_light`. Raises UnreadableImageError if it cannot be decoded.
    """
    image, is_inverted = pixels.prepare(encoded, data), data.get("invert_input")
    if is_inverted is None:
        differs = is_light not in (None, *_have_light_background(image[None]).tolist())
        is_inverted = data.channels == 1 and differs
    return 255 - image if is_inverted else image, is_inverted


def _read(file: Path, use: Callable[[bytes], _Result]) -> _Result:
    try:
        return use(file.read_bytes())
    except (UnreadableImageError, OSError) as error:
        raise UserError(f"{file} is not a readable image: {error}") from error
