"""Examples of a data set; images are arrays in memory or decoded on access."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from lzn_jax.configuration import UserError
from lzn_jax.data.decoding import UnreadableImageError, prepare
from lzn_jax.run.progress import progress

MAX_BYTES_IN_MEMORY = 8 * 2**30
MAX_CHECKED = 10_000
MAX_NAMED = 20
_MAX_TRIED = 100

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@runtime_checkable
class EncodedSource(Protocol):
    """Encoded images by index, such as files of a folder or records of a data set."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The content of one image file.

        Raises UnreadableImageError with the reason if it cannot be read.
        """

    def name(self, index: int) -> str:
        """Name of the image in messages."""

    def at(self, rows: Int[np.ndarray, " m"]) -> "EncodedSource":
        """The images at these rows, which may repeat."""


def _in_threads(function: Callable[[int], _Result], rows: np.ndarray) -> Iterator[_Result]:
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # decoding releases the GIL
        yield from threads.map(function, rows.tolist())


class EncodedImages:
    """Images that are decoded when indexed, in place of an array (n, h, w, c) uint8.

    Indexing, length and shape are those of an array; np.asarray decodes all images, up to 8 GiB.
    `decoding.prepare` gives the pixels.

    Unreadable images are found by `check` or when they are read, because decoding a large data set
    before training would take longer than many runs. They raise UnreadableImageError, which ends
    the run with exit code 2. With `data.skip_unreadable` an unreadable image is always replaced by
    the same image, the next readable one of its class, and logged.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, source: EncodedSource, labels: Int[np.ndarray, " n"], data: ConfigDict
    ) -> None:
        self.source = source
        self.skip_unreadable: bool = data.skip_unreadable
        self._labels = labels
        self._data = data
        self._allowed: set[int] = set()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, h, w, c)."""
        size = self._data.image_size
        return (len(self.source), size, size, self._data.channels)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: Any) -> np.ndarray:
        indices = np.arange(len(self))[rows]
        if indices.ndim == 0:
            return self._image(int(indices))
        return self._stack(_in_threads(self._image, indices), len(indices))

    def own(
        self, rows: Int[np.ndarray, " k"]
    ) -> tuple[Int[np.ndarray, " m"], UInt8[np.ndarray, "m h w c"]]:
        """The given rows with readable images, and these images, without substitutes.

        Unreadable images are logged; without `data.skip_unreadable` they raise UserError.
        """
        results = list(_in_threads(self.attempt, rows))
        is_read = np.array([isinstance(image, np.ndarray) for image in results], bool)
        self.allow(rows[~is_read].tolist())
        kept = (image for image in results if isinstance(image, np.ndarray))
        return rows[is_read], self._stack(kept, int(is_read.sum()))

    def _stack(self, images: Iterable[np.ndarray], count: int) -> np.ndarray:
        stacked = np.empty((count, *self.shape[1:]), np.uint8)
        for place, image in enumerate(images):
            stacked[place] = image
        return stacked

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        size = int(np.prod(self.shape))
        if size > MAX_BYTES_IN_MEMORY:
            raise UserError(
                f"{len(self)} images of {self._data.image_size} pixels take "
                f"{size / 2**30:.0f} GiB of memory, at most "
                f"{MAX_BYTES_IN_MEMORY / 2**30:.0f} are allowed: use a smaller split"
            )
        return self[:].astype(dtype or np.uint8, copy=False)

    def at(self, rows: Int[np.ndarray, " m"]) -> "EncodedImages":
        """The images at these rows, not decoded."""
        return EncodedImages(self.source.at(rows), self._labels[rows], self._data)

    def decode(self, encoded: bytes) -> UInt8[np.ndarray, "h w c"]:
        """Pixels of an image file, given its content."""
        return prepare(encoded, self._data)

    def attempt(self, index: int) -> UInt8[np.ndarray, "h w c"] | UnreadableImageError:
        """Pixels of an image, or the error if it is unreadable."""
        try:
            return self.decode(self.source.read(index))
        except UnreadableImageError as error:
            return error

    def check(
        self, use: Callable[[bytes], Any], is_over: Callable[[], bool] = lambda: False
    ) -> None:
        """Tries `use(content)` on at most 10,000 evenly spaced images, until `is_over`.

        Unreadable images are logged; without `data.skip_unreadable` they raise
        UnreadableImageError.
        """

        def fails(index: int) -> bool:
            try:
                if not is_over():
                    use(self.source.read(index))
            except UnreadableImageError:
                return True
            return False

        rows = evenly_spaced(min(len(self), MAX_CHECKED), len(self))
        failed = []
        with progress(len(rows), "checking images", unit="image", brief=True) as bar:
            for index, is_unreadable in zip(rows.tolist(), _in_threads(fails, rows), strict=True):
                failed += [index] * is_unreadable
                bar.update()
        self.allow(failed)

    def load(self, index: int, use: Callable[[bytes], _Result]) -> tuple[_Result, int]:
        """`use(content)` of image `index` or its substitute, and the index of the image used.

        A UserError from `use` marks an image as unreadable. Raises UnreadableImageError if the next
        hundred images of the class are also unreadable.
        """
        for candidate in self._same_class(index):
            try:
                return use(self.source.read(candidate)), candidate
            except UserError as error:
                last_error = error
        raise UnreadableImageError(
            f"{self.source.name(index)} cannot be read ({last_error}), nor can the images of its "
            f"class after it (at most {_MAX_TRIED} were tried)"
        )

    def allow(self, unreadable: Iterable[int]) -> None:
        """Records images that were left out or replaced; logs each of the first 20 once.

        Raises UnreadableImageError without `data.skip_unreadable`.
        """
        new = sorted(set(unreadable) - self._allowed)
        if new and not self.skip_unreadable:
            named = ", ".join(map(self._explain, new[:MAX_NAMED]))
            raise UnreadableImageError(
                f"unreadable images ({len(new)}): {named}; --mode=check_data finds all of them, "
                "--config.data.skip_unreadable=True continues without them"
            )
        for index in new:
            self._allowed.add(index)
            if len(self._allowed) <= MAX_NAMED:
                name, count = self.source.name(index), len(self._allowed)
                _log.warning("unreadable, left out (%d so far): %s", count, name)

    def _same_class(self, index: int) -> Iterator[int]:
        """`index` and the following images of its class, cyclically."""
        yield index
        # The search over all labels is only done after a failure.
        members = np.flatnonzero(self._labels == self._labels[index])
        following = np.roll(members, -int(np.searchsorted(members, index)))
        yield from following[1 : _MAX_TRIED + 1].tolist()

    def _explain(self, index: int) -> str:
        result = self.attempt(index)
        reason = f" ({result})" if isinstance(result, UnreadableImageError) else ""
        return f"{self.source.name(index)}{reason}"

    def _image(self, index: int) -> np.ndarray:
        image, used = self.load(index, self.decode)
        if used != index:
            self.allow([index])
        return image


Images = np.ndarray | EncodedImages


class Examples(NamedTuple):
    """Examples of one split, one in each row.

    Attributes:
      images: `Images` (n, h, w, c) uint8, or None; generated images are always an array.
      labels: (n,) int32.
      texts: (n,) strings, empty for an example without a text; None in a data set without texts.
      left_out: descriptions of texts and images that do not form a pair.
      image_ids: (n,) number of each example's image; None: every example has its own image.
      groups: (n,) numbers of groups that no split divides; None: images are the groups.
      more: additional columns (n, ...) by name, for example of a user's data type.
    """

    images: Any
    labels: Int[np.ndarray, " n"]
    texts: np.ndarray | None = None
    left_out: tuple[str, ...] = ()
    image_ids: np.ndarray | None = None
    groups: np.ndarray | None = None
    more: Mapping[str, np.ndarray] = MappingProxyType({})

    def at(self, rows: Int[np.ndarray, " m"]) -> "Examples":
        """The examples at these rows; encoded images are not decoded."""

        def take(values: Any) -> Any:
            if isinstance(values, EncodedImages):
                return values.at(rows)
            return None if values is None else values[rows]

        return self._replace(
            images=take(self.images),
            labels=self.labels[rows],
            texts=take(self.texts),
            image_ids=take(self.image_ids),
            groups=take(self.groups),
            more={name: values[rows] for name, values in self.more.items()},
        )


def decoded(examples: Examples, rows: Int[np.ndarray, " k"]) -> Examples:
    """The examples at these rows with their images decoded, without substitutes.

    With `data.skip_unreadable` examples with unreadable images are left out; otherwise they raise
    UnreadableImageError.
    """
    if not isinstance(examples.images, EncodedImages):
        return examples.at(rows)
    rows, images = examples.images.own(rows)
    return examples.at(rows)._replace(images=images)


def evenly_spaced(chosen: int, count: int) -> Int[np.ndarray, " chosen"]:
    """Indices of `chosen` out of `count` rows, evenly spaced."""
    return (np.arange(chosen) * count + count // 2) // max(chosen, 1)
