"""Data sets that TensorFlow Datasets has prepared, read without TensorFlow.

TFDS writes each split once, as ArrayRecord or Parquet files that give any record by its number;
only that step needs TensorFlow, and for some data sets not even it does.
"""

import copy
import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from lzn_jax.configuration import UserError
from lzn_jax.data import pairs
from lzn_jax.data.decoding import UnreadableImageError
from lzn_jax.data.examples import EncodedImages, Examples, Images
from lzn_jax.run import reporting
from lzn_jax.run.progress import progress

# A split whose images have the right size already is kept in memory up to this many bytes.
_MAX_BYTES_DECODED = 2**30
_RECORDS_AT_A_TIME = 512
_CACHE_ABOVE = 10_000  # records
_DAMAGE = (RuntimeError, ValueError, OSError)  # what reading a damaged record raises


def load(data: ConfigDict, split: str) -> Examples:
    """The split that `data.train_split` or `data.test_split` names, labels 0 without classes.

    With `data.captions` each text of a record is an example. Raises UserError if the split is not
    there, needs TensorFlow, or has no images, no texts that are asked for, or other classes.
    """
    asked = {"train": data.train_split, "test": data.test_split}[split]
    records = _Records(data.tfds_name, Path(data.path).expanduser(), asked)
    found = len(records.class_names)
    if data.num_classes not in (1, found):
        raise UserError(
            f"data.num_classes must be {found or 1} with {data.tfds_name}, got {data.num_classes}"
        )
    labels = records.labels() if data.num_classes > 1 else np.zeros(len(records), np.int32)
    rows, texts, left_out = np.arange(len(records)), None, tuple[str, ...]()
    if data.get("captions"):
        said = (
            (row, text, records.name(row))
            for row, texts in enumerate(records.texts())
            for text in texts
        )
        rows, texts, left_out = pairs.make(said, len(records), records.name)
        records, labels = records.at(rows), labels[rows]
    images: Images = EncodedImages(records, labels, data)
    is_small = np.prod(images.shape) <= _MAX_BYTES_DECODED
    # Whole images alone, for training views are cropped from what is kept.
    is_whole = records.image_shape == images.shape[1:] and data.centre_crop == 1
    if is_small and is_whole:
        images = np.asarray(images)
    return Examples(images, labels, texts, left_out, groups=rows)


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the classes as the data set has them; one without a name if there are none."""
    records = _Records(data.tfds_name, Path(data.path).expanduser(), data.train_split)
    return records.class_names if data.num_classes > 1 else ("",)


def arrays(
    name: str, folder: Path, split: str, size: int, *, channels: int
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]:
    """Images and labels of a small data set of square images, all in memory."""
    records = _Records(name, folder, split)
    data = ConfigDict({"image_size": size, "channels": channels, "skip_unreadable": False})
    labels = records.labels()
    return np.asarray(EncodedImages(records, labels, data)), labels


class _Records:
    """The encoded images, the labels and the texts of one split."""

    def __init__(self, name: str, folder: Path, split: str) -> None:
        library = _import_library()
        builder = _builder(library, name, folder)
        features = builder.info.features
        self._name, self._split, self._features = name, split, features
        self._image_key = _only_key(features, library.features.Image)
        self._label_key = _only_key(features, library.features.ClassLabel)
        if self._image_key is None:
            raise UserError(f"{name} has no image feature, or several: choose another data set")
        self.image_shape = features[self._image_key].shape
        self.class_names: tuple[str, ...] = ()
        if self._label_key is not None:
            self.class_names = tuple(features[self._label_key].names)
        self._fingerprint = Path(builder.data_path, "dataset_info.json").read_bytes()
        # Our own decoder takes color spaces and depths that TFDS would leave as they are.
        decoders = {self._image_key: library.decode.SkipDecoding()}
        try:
            self._source = builder.as_data_source(split=split, decoders=decoders)
        except NotImplementedError as error:
            raise UserError(_how_to_prepare(name, folder)) from error
        except ValueError as error:
            splits = ", ".join(builder.info.splits)
            raise UserError(f"{name} has no split {split!r}: its splits are {splits}") from error
        self._rows = np.arange(len(self._source))

    def at(self, rows: Int[np.ndarray, " n"]) -> "_Records":
        """The records at these rows, which may repeat."""
        chosen = copy.copy(self)
        chosen._rows = self._rows[rows]
        return chosen

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> bytes:
        """The content of an image file."""
        content: bytes = self._record(index)[self._image_key]
        return content

    def name(self, index: int) -> str:
        """The record's number."""
        return f"record {self._rows[index]} of {self._name}'s split {self._split}"

    def labels(self) -> Int[np.ndarray, " n"]:
        """Classes of all records.

        TFDS keeps them beside the images, so this reads the whole split: ImageNet takes minutes.
        Those of a large one are therefore kept in the user's cache folder. Raises UserError for a
        damaged record.
        """

        def read() -> bytes:
            labels = (record[self._label_key] for record in self._read_all("label"))
            return np.fromiter(labels, np.int32, len(self)).tobytes()

        return np.frombuffer(self._once("labels", "int32", read), np.int32)

    def texts(self) -> list[list[str]]:
        """Those of each record in the only feature of texts, names of files aside; kept as labels.

        Raises UserError for a damaged record, and where there is no such feature, or several.
        """
        is_file = ("filename", "file_name")
        found = [path for path in _strings(self._features) if not path[-1].endswith(is_file)]
        if len(found) != 1:
            names = ", ".join("/".join(path) for path in found) or "none"
            raise UserError(f"{self._name} must have one feature of texts, its features: {names}")

        def read() -> bytes:
            records = self._read_all("text")
            return json.dumps([_texts_at(record, found[0]) for record in records]).encode()

        texts: list[list[str]] = json.loads(self._once("texts", "json", read))
        return texts

    def _once(self, what: str, suffix: str, read: Callable[[], bytes]) -> bytes:
        """What `read` gives, of a large split by a file of an earlier start."""
        text = f"{self._name} {self._split} {len(self)}".encode()
        digest = hashlib.sha256(self._fingerprint + text).hexdigest()[:16]
        cached = reporting.cache_folder() / f"{what}-{digest}.{suffix}"
        if len(self) > _CACHE_ABOVE and cached.is_file():
            return cached.read_bytes()
        content = read()
        if len(self) > _CACHE_ABOVE:
            reporting.write_bytes(cached, content)
        return content

    def _read_all(self, what: str) -> Iterator[Any]:
        """All records, images undecoded; `what` of a damaged one is what cannot be read."""
        with progress(len(self), f"reading {what}s", unit="record", brief=True) as bar:
            for start in range(0, len(self), _RECORDS_AT_A_TIME):
                rows = range(start, min(start + _RECORDS_AT_A_TIME, len(self)))
                yield from self._read_rows(rows, what)
                bar.update(len(rows))

    def _read_rows(self, rows: range, what: str) -> Iterable[Any]:
        try:
            records: list[Any] = self._source.__getitems__(list(rows))
        except _DAMAGE:
            return (self._intact(row, what) for row in rows)  # says which record it is
        return records

    def _intact(self, index: int, what: str) -> Any:
        try:
            return self._record(index)
        except UnreadableImageError as error:
            raise UserError(
                f"the {what} of {self.name(index)} cannot be read: {error}; prepare the data set "
                "again"
            ) from error

    def _record(self, index: int) -> Any:
        try:
            return self._source[int(self._rows[index])]
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise UnreadableImageError(f"its record is damaged: {reason}") from error


def _import_library() -> Any:
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise UserError(
            "this data set is read by tensorflow-datasets, which is not installed: "
            "pip install tensorflow-datasets array_record"
        ) from error


def _builder(library: Any, name: str, folder: Path) -> Any:
    """The prepared data set; nothing is downloaded."""
    try:
        builder = library.builder(name, data_dir=folder)
    except (library.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{_how_to_prepare(name, folder)} ({reason})") from error
    if not builder.is_prepared():
        raise UserError(_how_to_prepare(name, folder))
    return builder


def _how_to_prepare(name: str, folder: Path) -> str:
    return (
        f"{folder} holds no data set {name} in a format without TensorFlow: prepare it once, where "
        f"TensorFlow is installed, by tfds build {name} --data_dir={folder} "
        "--file_format=array_record, or correct data.path"
    )


def _only_key(features: Any, kind: type) -> str | None:
    keys = [key for key, feature in features.items() if isinstance(feature, kind)]
    return keys[0] if len(keys) == 1 else None


def _strings(features: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where features hold texts, be they in sequences or groups."""
    inner = getattr(features, "feature", features)  # of a sequence
    if hasattr(inner, "items"):
        for key, feature in inner.items():
            yield from _strings(feature, (*path, key))
    elif np.dtype(getattr(inner, "np_dtype", None)) == object:
        yield path


def _texts_at(record: Any, path: tuple[str, ...]) -> list[str]:
    for key in path:
        record = record[key]
    return [text.decode(errors="replace") for text in np.ravel(record).tolist()]
