"""Examples in memory, which `lzn_jax.fit` receives: arrays and lists."""

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import parts
from lzn_jax.configuration import schema_of, with_defaults
from lzn_jax.data import Examples, derived
from lzn_jax.data.pixels import EncodedImages, evenly_spaced
from lzn_jax.errors import UserError
from lzn_jax.parts import word

_GIVEN: dict[str, tuple[Examples, Examples | None]] = {}  # training and test examples by sha256


def keep(train: Any, test: Any = None) -> str:
    """The sha256 of examples, under which `load` finds them in this process."""
    given = as_examples(train), None if test is None else as_examples(test)
    digest = hashlib.sha256()
    for examples in filter(None, given):
        for name, values in {**examples._asdict(), **examples.more}.items():
            if isinstance(values, np.ndarray):
                content = repr(values.tolist()).encode() if values.dtype == object else values.data
                digest.update(f"{name} {values.dtype} {values.shape}".encode())
                digest.update(content)
    _GIVEN[digest.hexdigest()] = given
    return digest.hexdigest()


def as_examples(given: Any) -> Examples:
    """Examples from images (n, h, w, c) uint8, or a tuple of images and labels or texts or both.

    Raises UserError for values of other kinds and for columns of different lengths.
    """
    if isinstance(given, Examples):
        return given
    images, *columns = map(np.asarray, given if isinstance(given, tuple) else (given,))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            "images must be (n, h, w, c) of uint8 with 1 or 3 channels, got "
            f"{images.shape} of {images.dtype}"
        )
    labels, texts = np.zeros(len(images), np.int32), None
    for column in columns:
        is_label = column.dtype.kind in "iu" and column.min(initial=0) >= 0
        if column.shape != (len(images),) or not (is_label or column.dtype.kind in "UO"):
            raise UserError(
                f"labels must be {len(images)} integers >= 0, and texts as many strings, got "
                f"{column.shape} of {column.dtype}"
            )
        if is_label:
            labels = column.astype(np.int32)
        else:
            texts = column.astype(object)
    return Examples(images, labels, texts)


def load(data: ConfigDict, split: str) -> Examples:
    """One split; images of other sizes or channels than the config's are converted when read.

    Raises UserError if the examples were given in a different process, or have further classes.
    """
    train, test = _given(data.checksum)
    examples = train if split == "train" or test is None else test
    if examples.labels.max(initial=0) >= data.num_classes:
        raise UserError(f"the {split} data must have labels 0 to {data.num_classes - 1}")
    images = examples.images
    if isinstance(images, np.ndarray):
        is_whole = images.shape[1:] == (data.image_size, data.image_size, data.channels)
        if not is_whole or data.centre_crop < 1:
            examples = examples._replace(images=EncodedImages(_Uncompressed(images), data))
    if test is not None:
        return examples
    return derived.held_out(examples, data, split, class_names(data))


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Numbers instead of names."""
    return tuple(map(str, range(data.num_classes)))


def completed(values: Mapping[str, Any], stated: Collection[str]) -> dict[str, Any]:
    """The values, completed from the images: `derived.completed`."""
    given = with_defaults(values, schema_of(values))
    return derived.completed(given, stated, _Given(*_given(given["data.checksum"])))


def _given(checksum: str) -> tuple[Examples, Examples | None]:
    if checksum not in _GIVEN:
        raise UserError("the examples of this run are not in memory: pass them to lzn_jax.fit")
    return _GIVEN[checksum]


class _Given:
    """Examples in memory, as `derived.Source`."""

    name = "the images"

    def __init__(self, train: Examples, test: Examples | None) -> None:
        self._train, self._test, self.has_test = train, test, test is not None

    def num_classes(self) -> int:
        return int(max(self._train.labels, default=0)) + 1

    def count(self, data: ConfigDict, split: str) -> int:
        return len((self._test if split == "test" and self._test else self._train).labels)

    def headers(self, most: int) -> Iterator[derived.Header]:
        if (images := self._train.images) is not None:
            for row in evenly_spaced(min(most, len(images)), len(images)).tolist():
                height, width, channels = images[row].shape
                yield (width, height), {1: "L", 3: "RGB"}[channels]


class _Uncompressed:
    """Arrays as files of images, so that they are resized and converted as other files are."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> bytes:
        image, file = self._images[index], io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "bmp")
        return file.getvalue()

    def name(self, index: int) -> str:
        return f"image {index}"

    def at(self, rows: np.ndarray) -> "_Uncompressed":
        return _Uncompressed(self._images[rows])


parts.add(
    "data",
    "arrays",
    "lzn_jax.data.arrays",
    derived.FIELDS
    | {"data.checksum": word("sha256 of the examples in memory, set by lzn_jax.fit")},
)
