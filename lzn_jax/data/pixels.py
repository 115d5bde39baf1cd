"""Image files to pixels: sizes, colour, crops, and folders larger than memory."""

import contextlib
import dataclasses
import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from ml_collections import ConfigDict
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lzn_jax.errors import UserError
from lzn_jax.run.log import progress

_log = logging.getLogger(__name__)


Size = tuple[int, int]

_MODES = {1: "L", 3: "RGB"}
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


class UnreadableImageError(UserError):
    """A file that is broken, empty or not an image."""


def decode(encoded: bytes, channels: int, at_least: Size | None = None) -> Image.Image:
    """The image in a file's content, upright, in mode L (1 channel) or RGB (3 channels).

    With `at_least` (width, height) a JPEG is decoded, faster, at the smallest of 1, 1/2, 1/4 and
    1/8 of its size that is not below it. The EXIF orientation is applied. Transparency is dropped,
    as in the usual loaders of image folders. 16-bit grey is scaled to 8 bits. A truncated JPEG is
    an error; one with wrong bits decodes to wrong pixels, because JPEG has no checksum.

    Raises UnreadableImageError with the reason if the file cannot be decoded.
    """
    with _opened(encoded) as image:
        if at_least is not None:
            image.draft(_MODES[channels], at_least[::-1] if _is_on_side(image) else at_least)
        image.load()
        return _eight_bits(ImageOps.exif_transpose(image), channels)


def check_header(encoded: bytes) -> None:
    """Raises UnreadableImageError, as `decode`, for a file without the header of an image."""
    with _opened(encoded):
        pass


def is_jpeg(encoded: bytes) -> bool:
    """Whether a file's content starts with the signature of a JPEG."""
    return encoded.startswith(b"\xff\xd8")


def jpeg_size(encoded: bytes) -> Size:
    """Width and height of a JPEG after `decode`, read from the file's header.

    Not for other formats: there Pillow may transpose the size itself, or decode the image to find
    its orientation. Raises UnreadableImageError as `decode`.
    """
    with _opened(encoded) as image:
        return image.size[::-1] if _is_on_side(image) else image.size


def _is_on_side(image: Image.Image) -> bool:
    """Whether a JPEG's EXIF orientation swaps width and height."""
    return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    """The opened image; an error inside the context becomes an UnreadableImageError."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            yield image
    except Exception as error:  # the format plugins raise almost anything on a broken file
        reason = " ".join(str(error).split())
        if isinstance(error, UnidentifiedImageError):  # its text only names the buffer
            reason = "its format is unknown" if encoded else "it is empty"
        raise UnreadableImageError(reason) from error


def _eight_bits(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES or (image.mode == "I" and image.format == "PNG"):
        levels = np.asarray(image).astype(np.uint32)  # 0 ... 65535; convert() would clip
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("it has more than 16 bits a channel")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def fit(image: Image.Image, size: int, share: float = 1.0) -> UInt8[np.ndarray, "size size c"]:
    """The central square of an image, resized to `size` pixels (bicubic, antialiased).

    The square's side is `share` times the image's shorter side: 0.875 is the usual crop of 224
    pixels from 256.
    """
    side = min(image.size) * share
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized, np.uint8).reshape(size, size, -1)


def changes(encoded: bytes, data: ConfigDict) -> tuple[str, ...]:
    """Descriptions of the changes by `prepare` to an image's shape, size and colours.

    Raises UnreadableImageError as `decode`.
    """
    image, side = decode(encoded, 3), data.image_size
    has_colours = bool(np.ptp(np.asarray(image), axis=-1).any())
    is_changed = {
        "cropped to the central square": image.width != image.height,
        f"resized to {side}x{side}": image.size != (side, side),
        "converted to grey": data.channels == 1 and has_colours,
    }
    return tuple(change for change, is_made in is_changed.items() if is_made)


def prepare(encoded: bytes, data: ConfigDict) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of an image file with the size, crop and channels of a config's `data` group.

    Data sets with images of a fixed size have no field `data.centre_crop`; for them the crop is the
    whole central square. Raises UnreadableImageError as `decode`.
    """
    return fit(decode(encoded, data.channels), data.image_size, data.get("centre_crop", 1.0))


# A JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size as long as crops stay this many times
# larger than the views. The views then change by less than one level of 255 on average.
_REDUCING_GAP = 2

Range = tuple[float, float]
Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels


def random_views(
    source: bytes | UInt8[np.ndarray, "h w c"],
    rng: np.random.Generator,
    size: int,
    *,
    channels: int,
    count: int = 2,
    area: Range = (0.08, 1.0),
    ratio: Range = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, "{count} size size {channels}"]:
    """Random resized crops of an image file or array; a file is decoded once for all crops.

    Each crop is a box drawn by `draw_box`, resized by antialiased linear interpolation: SimCLR's
    crop (arXiv:2002.05709, appendix A). A large JPEG file is decoded at a fraction of its size if
    all crops allow it. Raises UnreadableImageError as `decode`.
    """

    def draw_boxes(whole: Size) -> list[Box]:
        return [draw_box(rng, *whole, area=area, ratio=ratio) for _ in range(count)]

    if isinstance(source, bytes) and is_jpeg(source):
        whole = jpeg_size(source)
        boxes = draw_boxes(whole)
        image = decode(source, channels, _smallest_size(whole, boxes, size))
        scale = 2 ** round(math.log2(whole[0] / image.width))
    else:
        image = _from_array(source) if isinstance(source, np.ndarray) else decode(source, channels)
        boxes, scale = draw_boxes(image.size), 1
    return np.stack([_resize(image, box, size, scale) for box in boxes])


def _smallest_size(whole: Size, boxes: list[Box], size: int) -> Size:
    """Smallest size (width, height) at which to decode an image for views of `size` pixels."""
    smallest = min(min(right - left, lower - upper) for left, upper, right, lower in boxes)
    shrink = max(1.0, smallest / (_REDUCING_GAP * size))
    return math.ceil(whole[0] / shrink), math.ceil(whole[1] / shrink)


def draw_box(
    rng: np.random.Generator, width: int, height: int, *, area: Range, ratio: Range
) -> Box:
    """A random box inside an image, as documented for torchvision's RandomResizedCrop.

    `area`, the share of the image's area, is uniform, `ratio`, width / height, log-uniform, and the
    position uniform over whole pixels. A box that does not fit is drawn again. After ten failures
    the result is the largest central box whose ratio is in range.
    """
    for _ in range(10):
        box_area = width * height * rng.uniform(*area)
        box_ratio = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(box_area * box_ratio)), round(math.sqrt(box_area / box_ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            upper = int(rng.integers(height - h + 1))
            return left, upper, left + w, upper + h
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def _from_array(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _resize(image: Image.Image, box: Box, size: int, scale: int) -> np.ndarray:
    """Pixels (size, size, c) of a box, given in pixels of the image enlarged `scale` times."""
    left, upper, right, lower = (edge / scale for edge in box)
    x, y = math.floor(left), math.floor(upper)
    # Cropping comes first, because `resize` alone would use pixels outside the box.
    image = image.crop((x, y, math.ceil(right), math.ceil(lower)))
    inner = (left - x, upper - y, right - x, lower - y)
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=inner)
    return np.asarray(resized).reshape(size, size, -1)


@dataclasses.dataclass(frozen=True)
class Views:
    """Transform to {name: (count, h, w, c)}: random crops of one image."""

    image_size: int
    channels: int
    min_area: float
    name: str = "views"
    count: int = 2

    def __call__(
        self, image: bytes | np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        area = (self.min_area, 1.0)
        crops = random_views(
            image, rng, self.image_size, channels=self.channels, count=self.count, area=area
        )
        return {self.name: crops}


MAX_BYTES_IN_MEMORY = 8 * 2**30
MAX_CHECKED = 10_000
MAX_NAMED = 20
_MAX_TRIED = 100
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


def evenly_spaced(chosen: int, count: int) -> Int[np.ndarray, " chosen"]:
    """Indices of `chosen` out of `count` rows, evenly spaced."""
    return (np.arange(chosen) * count + count // 2) // max(chosen, 1)


def is_light(images: UInt8[np.ndarray, "n h w c"]) -> bool | None:
    """Whether images have a light background; None unless nine in ten agree."""
    share = np.mean(_have_light_background(images))
    return None if 0.1 < share < 0.9 else bool(share > 0.5)


def _have_light_background(images: UInt8[np.ndarray, "n h w c"]) -> Bool[np.ndarray, " n"]:
    """Whether more than half of an image's border is lighter than middle grey."""
    is_light = images.mean(axis=-1) > 127.5
    is_border = np.pad(np.zeros_like(is_light[0, 1:-1, 1:-1]), 1, constant_values=True)
    return is_light[:, is_border].mean(axis=1) > 0.5


def normalise(images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Pixels 0 ... 255 converted to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images: Float[Array, "b h w c"]) -> UInt8[Array, "b h w c"]:
    """Images in [-1, 1] converted to pixels 0 ... 255, rounded to nearest and clipped."""
    return jnp.round(jnp.clip((images + 1) * 127.5, 0, 255)).astype(jnp.uint8)
