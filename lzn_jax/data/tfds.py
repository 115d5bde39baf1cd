"""Data sets prepared by TensorFlow Datasets, read without TensorFlow.

TFDS prepares each split once, as ArrayRecord or Parquet files with random access to records. Only
the preparation needs TensorFlow, and only for some data sets.
"""

import functools
import hashlib
import json
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from lzn_jax import files, parts
from lzn_jax.data import Examples
from lzn_jax.data.folder import examples_of, pairs_of
from lzn_jax.data.pixels import ENCODED_FIELDS, EncodedImages, Rows, UnreadableImageError
from lzn_jax.errors import UserError, explained, package
from lzn_jax.parts import word
from lzn_jax.progress import progress

# A split with images of the configured size is decoded into memory up to this many bytes.
_MAX_BYTES_DECODED = 2**30
_RECORDS_AT_A_TIME = 512
_CACHE_ABOVE = 10_000  # records
_DAMAGE = (RuntimeError, ValueError, OSError)  # raised when reading a damaged record


def load(data: ConfigDict, split: str) -> Examples:
    """The split in `data.train_split` or `data.test_split`. Labels are 0 without classes.

    With `data.captions`, each text of a record is an example. Raises UserError if the split is
    missing, needs TensorFlow, contains no images or other classes, or lacks texts for captions.
    """
    tfds_split = {"train": data.train_split, "test": data.test_split}[split]
    records = _Records(data.tfds_name, Path(data.path).expanduser(), tfds_split)
    num_classes = len(records.class_names) or 1
    if data.num_classes not in (1, num_classes):
        raise UserError(
            f"data.num_classes must be {num_classes} with {data.tfds_name}, got {data.num_classes}"
        )
    labels = records.labels() if data.num_classes > 1 else np.zeros(len(records), np.int32)
    pairs = pairs_of(records.texts(), records.name) if data.captions else None
    examples = examples_of(data, split, records, labels, pairs)
    shape = examples.images.shape
    # Only without a centre crop, because training views are crops of the whole images.
    is_whole = records.image_shape == shape[1:] and data.centre_crop == 1
    if is_whole and np.prod(shape) <= _MAX_BYTES_DECODED:
        return examples._replace(images=np.asarray(examples.images))
    return examples


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the data set's classes, or one empty name for a single class."""
    records = _Records(data.tfds_name, Path(data.path).expanduser(), data.train_split)
    return records.class_names if data.num_classes > 1 else ("",)


def arrays(
    name: str, folder: Path, split: str, size: int, *, channels: int
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]:
    """Images and labels of a small data set of square images, loaded into memory."""
    records = _Records(name, folder, split)
    data = ConfigDict({"image_size": size, "channels": channels, "skip_unreadable": False})
    return np.asarray(EncodedImages(records, data)), records.labels()


class _Records(Rows):
    """Encoded images, labels and texts of one split."""

    def __init__(self, name: str, folder: Path, split: str) -> None:
        library = package("tensorflow_datasets", "tensorflow-datasets array_record")
        unprepared = (
            f"{folder} holds no data set {name} that is readable without TensorFlow",
            f"prepare it once, with TensorFlow installed, by tfds build {name} --data_dir={folder} "
            "--file_format=array_record, or correct data.path",
        )
        with explained(
            *unprepared, (library.core.DatasetNotFoundError, ValueError, AssertionError)
        ):
            builder = library.builder(name, data_dir=folder)  # never downloads
            if not builder.is_prepared():
                raise ValueError("it is not prepared")
        features = builder.info.features
        self._name, self._split, self._features = name, split, features
        self._image_key = _only_key(features, library.features.Image)
        self._label_key = _only_key(features, library.features.ClassLabel)
        if self._image_key is None:
            raise UserError(f"{name} must have exactly one image feature: choose another data set")
        self.image_shape = features[self._image_key].shape
        self.class_names = tuple(features[self._label_key].names) if self._label_key else ()
        self._fingerprint = Path(builder.data_path, "dataset_info.json").read_bytes()
        # Our decoder converts colour spaces and bit depths, which TFDS leaves unchanged.
        decoders = {self._image_key: library.decode.SkipDecoding()}
        splits = ", ".join(builder.info.splits)
        with (
            explained(*unprepared, NotImplementedError),
            explained(f"{name} has no split {split!r}", f"its splits are {splits}", ValueError),
        ):
            self._source = builder.as_data_source(split=split, decoders=decoders)
        super().__init__(np.arange(len(self._source)))

    def read(self, index: int) -> bytes:
        """Content of the record's image file."""
        try:
            return bytes(self._source[int(self._rows[index])][self._image_key])
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise UnreadableImageError(f"its record is damaged: {reason}") from error

    def name(self, index: int) -> str:
        """Number and split of the record."""
        return f"record {self._rows[index]} of {self._name}'s split {self._split}"

    def labels(self) -> Int[np.ndarray, " n"]:
        """Labels of all records. Raises UserError for a damaged record."""
        labels = self._cached("label", lambda record: int(record[self._label_key]))
        return np.array(labels, np.int32)

    def texts(self) -> list[list[str]]:
        """Texts of each record, from the only text feature except file names.

        Raises UserError for a damaged record, or unless there is exactly one such feature.
        """
        suffixes = ("filename", "file_name")
        paths = [path for path in _strings(self._features) if not path[-1].endswith(suffixes)]
        if len(paths) != 1:
            names = ", ".join("/".join(path) for path in paths) or "none"
            raise UserError(f"{self._name} must have exactly one text feature, got {names}")

        def texts_of(record: Any) -> list[str]:
            values = functools.reduce(operator.getitem, paths[0], record)
            return [text.decode(errors="replace") for text in np.ravel(values).tolist()]

        texts: list[list[str]] = self._cached("text", texts_of)
        return texts

    def _cached(self, noun: str, read: Callable[[Any], Any]) -> list[Any]:
        """`read(record)` of all records.

        TFDS stores labels and texts with the images, so this takes minutes for ImageNet. The user's
        cache folder therefore stores the values of a large split.
        """
        text = f"{self._name} {self._split} {len(self)}".encode()
        digest = hashlib.sha256(self._fingerprint + text).hexdigest()[:16]
        cached = files.cache_folder() / f"{noun}s-{digest}.json"
        values: list[Any] = []
        if len(self) > _CACHE_ABOVE and cached.is_file():
            values = json.loads(cached.read_bytes())
            return values
        damage = f"{self._name}'s split {self._split} has a damaged record"
        with (
            explained(damage, "prepare it again", _DAMAGE),
            progress(len(self), f"reading {noun}s", unit="record", brief=True) as bar,
        ):
            for start in range(0, len(self), _RECORDS_AT_A_TIME):
                rows = range(start, min(start + _RECORDS_AT_A_TIME, len(self)))
                values += map(read, self._source.__getitems__(list(rows)))
                bar.update(len(rows))
        if len(self) > _CACHE_ABOVE:
            files.write_bytes(cached, json.dumps(values).encode())
        return values


def _only_key(features: Any, kind: type) -> str | None:
    keys = [key for key, feature in features.items() if isinstance(feature, kind)]
    return keys[0] if len(keys) == 1 else None


def _strings(features: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of string features, also inside sequences and nested features."""
    inner = getattr(features, "feature", features)  # feature of a sequence
    if hasattr(inner, "items"):
        for key, feature in inner.items():
            yield from _strings(feature, (*path, key))
    elif np.dtype(getattr(inner, "np_dtype", None)) == object:
        yield path


parts.add(
    "data",
    "tfds",
    "lzn_jax.data.tfds",
    ENCODED_FIELDS
    | {
        "data.path": word("data_dir of TensorFlow Datasets"),
        "data.tfds_name": word("data set of TensorFlow Datasets, as NAME/CONFIG:VERSION"),
        "data.train_split": word("split of training images, in TFDS's notation", "train"),
        "data.test_split": word("split of test images, in TFDS's notation", "test"),
    },
)
