"""Examples in memory, which `lzn_jax.fit` receives as arrays and lists."""

import contextlib
import dataclasses
import hashlib
import io
import math
import sys
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import parts
from lzn_jax.data import Examples
from lzn_jax.data.folder import FIELDS, SPLIT_FIELDS, held_out
from lzn_jax.data.folder import facts as facts  # calls the functions below
from lzn_jax.data.pixels import EncodedImages, Rows, UnreadableImageError
from lzn_jax.errors import UserError
from lzn_jax.parts import Field, word
from lzn_jax.progress import progress


@dataclasses.dataclass(eq=False)
class Given:
    """Examples in memory. `load` finds them by their checksum while this object exists."""

    train: Examples
    test: Examples | None
    checksum: str  # sha256 of all columns and of the contents of image files


_GIVEN = WeakValueDictionary[str, Given]()


def keep(train: Any, test: Any = None) -> Given:
    """Keeps examples for `load` (see `as_examples`)."""
    given = as_examples(train), None if test is None else as_examples(test)
    digest = hashlib.sha256()
    for examples in filter(None, given):
        for name, values in {**examples._asdict(), **examples.more}.items():
            if isinstance(values, EncodedImages):
                values = _checksums(values)
            if values is not None and name not in ("left_out", "more"):
                array = np.asarray(values)
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
                    digest.update(
                        repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
                    )
    return _GIVEN.setdefault(digest.hexdigest(), Given(*given, digest.hexdigest()))


def _checksums(images: EncodedImages) -> list[str]:
    """The sha256 of each file's content, "" if unreadable. 20,000 files of 50 kB take 3 s."""
    found = [""] * len(images)
    with progress(len(images), "reading images", unit="image", brief=True) as bar:
        for row in range(len(images)):
            with contextlib.suppress(UnreadableImageError):
                found[row] = hashlib.sha256(images.source.read(row)).hexdigest()
            bar.update()
    return found


def as_examples(given: Any) -> Examples:
    """Examples from images (n, h, w, c) uint8, or a tuple of images and labels or texts or both.

    Raises UserError for values of other kinds and for columns of different lengths.
    """
    if isinstance(given, Examples):
        return given
    images, *columns = map(np.asarray, given if isinstance(given, tuple) else (given,))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"images must be (n, h, w, 1 or 3) of uint8, got {images.shape} of {images.dtype}"
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
    """One split. Images are converted to the config's size and channels when read.

    Raises UserError if the examples were given in a different process, or contain further classes.
    """
    given = _given(data)
    test = given.test if split == "test" and data.holdout is None else None
    examples = test or given.train
    if data.num_classes == 1:
        examples = examples._replace(labels=np.zeros_like(examples.labels))
    if examples.labels.max(initial=0) >= (data.num_classes or math.inf):
        raise UserError(f"the {split} data must have labels 0 to {data.num_classes - 1}")
    images = examples.images
    if isinstance(images, np.ndarray):
        is_whole = images.shape[1:] == (data.image_size, data.image_size, data.channels)
        if not is_whole or data.centre_crop < 1:
            images = EncodedImages(_Uncompressed(images), data)
    elif images is not None:
        images = EncodedImages(images.source, data)
    return held_out(data, split, examples._replace(images=images))


def _given(data: ConfigDict) -> Given:
    parts.require(data.checksum in _GIVEN, "examples are not in memory: pass them to lzn_jax.fit")
    return _GIVEN[data.checksum]


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Numbers of the classes in place of names."""
    labels = _given(data).train.labels if data.num_classes is None else ()
    return tuple(map(str, range(data.num_classes or max(labels, default=0) + 1)))


def has_test(data: ConfigDict) -> bool:
    """Whether test examples were given."""
    return _given(data).test is not None


class _Uncompressed(Rows):
    """Arrays as files of images, so that they are resized and converted like other files."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(np.arange(len(images)))
        self._images = images

    def read(self, index: int) -> bytes:
        image, file = self._images[self._rows[index]], io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "bmp")
        return file.getvalue()

    def name(self, index: int) -> str:
        return f"image {self._rows[index]}"


def _fields(values: Mapping[str, Any]) -> Mapping[str, Field]:
    own = FIELDS if "image" in values["types"] else SPLIT_FIELDS
    return {**own, "data.checksum": word("sha256 of the examples in memory, set by lzn_jax.fit")}


parts.add("data", "arrays", "lzn_jax.data.arrays", _fields)
