"""Image files to pixels: sizes, colours, crops, and data sets larger than memory."""

import contextlib
import copy
import dataclasses
import functools
import io
import logging
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int, Shaped, UInt8
from ml_collections import ConfigDict
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lzn_jax.errors import UserError
from lzn_jax.parts import Field, count, count_or_0, flag, knob, positive
from lzn_jax.progress import progress

FLIP = "flip training images left to right at random"
COMPOSITED = "%d images may be transparent: such pixels become white, or black if all else is white"
CROP_TO_INK = "cut grey images of --input and the page to their ink, which then fills the frame"
ENCODED_FIELDS = {  # fields of a data set of `EncodedImages`
    # The limit keeps another user's config from using all memory.
    "data.image_size": count("height and width in pixels, after resize and crop", maximum=4096),
    "data.centre_crop": positive(
        "side of the central square crop, as a share of the shorter side", 1.0, maximum=1
    ),
    "data.channels": Field(int, "image channels: grey or RGB", 3, choices=(1, 3)),
    "data.num_classes": count("number of classes, 1 = all images are in one class"),
    "data.flip": flag(FLIP, True),
    "data.crop_to_ink": flag(CROP_TO_INK, False),
    "data.workers": count_or_0(
        "processes that decode training images, None = all cores but two, 0 = a thread", None
    ),
    "data.skip_unreadable": flag(
        "replace unreadable images by the next example, leave out unpaired texts and images", False
    ),
    "data.captions": flag("each text of an image is an example", False),
}

try:
    import cykooz_resizer  # resizes almost as Pillow does, three times as fast
except ImportError:  # there are no wheels for Linux on ARM
    cykooz_resizer = None

_log = logging.getLogger(__name__)

_MODES = {1: "L", 3: "RGB"}
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_JPEG = {"JPEG", "MPO"}  # MPO is a JPEG file with further images
_COPY = 64  # pixels of a small copy's shorter side
LEAST_CONTRAST = 16  # levels between what is seen and its background


class UnreadableImageError(UserError):
    """A file that is broken, empty or not an image."""


def decode(encoded: bytes, channels: int) -> Image.Image:
    """The image in a file's content, upright, in mode L (1 channel) or RGB (3 channels).

    The EXIF orientation is applied. Transparent pixels become white, or black if all that is
    visible is white. 16-bit grey is scaled to 8 bits. A truncated JPEG is an error. A JPEG with
    wrong bits decodes to wrong pixels, because JPEG contains no checksum.

    Raises UnreadableImageError with the reason if the file cannot be decoded.
    """
    with _opened(encoded) as image:
        return _upright(image, channels)


def decode_on_ground(encoded: bytes) -> tuple[Image.Image, str | None]:
    """The RGB image like `decode`, and the colour behind transparent pixels, None without any."""
    with _opened(encoded) as image:
        opaque, ground = _opaque(image)
        return opaque.convert("RGB"), ground


def has_alpha(encoded: bytes) -> bool:
    """Whether an image may be transparent by its header, which alone is read.

    Raises UnreadableImageError, like `decode`, for a file without the header of an image.
    """
    with _opened(encoded) as image:
        return image.has_transparency_data


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    """The opened image. An error inside the context becomes an UnreadableImageError."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            yield image
    except Exception as error:  # the format plugins raise almost anything on a broken file
        reason = " ".join(str(error).split())
        if isinstance(error, UnidentifiedImageError):  # its text only names the buffer
            reason = "its format is unknown" if encoded else "it is empty"
        raise UnreadableImageError(reason) from error


def _upright(image: Image.Image, channels: int) -> Image.Image:
    image, _ = _opaque(image)
    return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])


def _opaque(image: Image.Image) -> tuple[Image.Image, str | None]:
    """The upright image with 8 bits a channel, and the colour behind its transparent pixels."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in _SIXTEEN_BIT_MODES:
        levels = np.asarray(image).astype(np.uint32)  # 0 ... 65535; convert() would clip
        clear = image.info.get("transparency")
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
        if clear is not None:
            image.putalpha(Image.fromarray(levels != clear).convert("L"))
    if image.mode in ("I", "F"):
        raise ValueError("it has more than 16 bits a channel")
    return composited(image) if image.has_transparency_data else (image, None)


def composited(image: Image.Image) -> tuple[Image.Image, str | None]:
    """An image with transparency over a colour, and the colour, None if the image is opaque.

    It is white, or black if all that is visible would vanish on white.
    """
    colours = image.convert("RGBA")
    grey, alpha = (np.asarray(each) for each in colours.convert("LA").split())
    if alpha.size == 0 or alpha.min() == 255:
        return colours.convert("RGB"), None
    visible = grey[alpha > 127]
    vanishes = len(visible) > 0 and np.percentile(visible, 5) > 255 - LEAST_CONTRAST
    ground = "black" if vanishes else "white"
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), colours), ground


def oddities(encoded: bytes, name: str, data: ConfigDict) -> list[str]:
    """Differences of an image file from the usual images of a data set, in words.

    Raises UnreadableImageError like `decode`.
    """
    with _opened(encoded) as image:
        mode, size, kind = image.mode, image.size, image.format
        known = Image.registered_extensions().get(os.path.splitext(name)[1].lower(), kind)
        is_animated = getattr(image, "is_animated", False) and kind not in _JPEG
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        upright, ground = _opaque(image)
        # A small copy has colours if the image has, and is faster to look at.
        copy = upright.convert("RGB").reduce(max(1, min(size) // _COPY))
        is_grey = not np.ptp(np.asarray(copy), axis=-1).any()
    found = {
        f"transparent, composited over {ground}": ground is not None,
        "16-bit, scaled to 8 bits": mode in _SIXTEEN_BIT_MODES,
        "CMYK, converted": mode == "CMYK",
        "with a palette, converted": mode in ("P", "PA"),
        "animated, first frame taken": is_animated,
        "turned upright by EXIF": is_turned,
        "grey among colours": is_grey and data.channels == 3,
        "coloured, converted to grey": not is_grey and data.channels == 1,
        f"smaller than {data.image_size} pixels, enlarged": min(size) < data.image_size,
        "larger than 16 million pixels, reduced": size[0] * size[1] > 2**24,
        "not of the format that the name says": known != kind and {known, kind} != _JPEG,
    }
    return [fact for fact, is_so in found.items() if is_so]


def fit(image: Image.Image, size: int, share: float = 1.0) -> UInt8[np.ndarray, "size size c"]:
    """The central square of an image, resized to `size` pixels (bicubic, antialiased).

    The square's side is `share` times the image's shorter side. A share of 0.875 is the usual crop
    of 224 pixels from 256.
    """
    side = min(image.size) * share
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized, np.uint8).reshape(size, size, -1)


def prepare(encoded: bytes, data: ConfigDict) -> UInt8[np.ndarray, "h w c"]:
    """Pixels of an image file, with the size, crop and channels of a config's `data` group.

    The field `data.centre_crop` is missing for data sets of a fixed size, whose crop is the whole
    central square. Raises UnreadableImageError like `decode`.
    """
    return fit(decode(encoded, data.channels), data.image_size, data.get("centre_crop", 1.0))


Range = tuple[float, float]
Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels


def draw_box(
    rng: np.random.Generator, width: int, height: int, *, area: Range, ratio: Range
) -> Box:
    """A random box inside an image, as documented for torchvision's RandomResizedCrop.

    `area` (share of the image's area) is drawn uniformly, `ratio` (width / height) log-uniformly,
    and the position uniformly over whole pixels. A box that does not fit is drawn again. After ten
    failures the result is the largest central box whose ratio is in range.
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


def _crop(image: Image.Image, box: Box, size: int, scale: int) -> np.ndarray:
    """Pixels (size, size, c) of a box, given in pixels of the image enlarged `scale` times."""
    left, upper, right, lower = (edge / scale for edge in box)
    x, y = math.floor(left), math.floor(upper)
    # Cropping comes first, since `resize` alone would use pixels outside the box.
    crop = image.crop((x, y, math.ceil(right), math.ceil(lower)))
    return _resized(crop, size, (left - x, upper - y, right - x, lower - y))


def _resized(image: Image.Image, size: int, box: tuple[float, float, float, float]) -> np.ndarray:
    """Pixels (size, size, c) of a box, by antialiased linear interpolation."""
    if cykooz_resizer is None:
        resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    else:
        left, upper, right, lower = box
        window = cykooz_resizer.CropBox(left, upper, right - left, lower - upper)
        method = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.bilinear)
        options = cykooz_resizer.ResizeOptions(method, crop_box=window)
        resized = Image.new(image.mode, (size, size))
        cykooz_resizer.Resizer().resize_pil(image, resized, options)
    return np.asarray(resized).reshape(size, size, -1)


# A JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size if crops stay this many times larger
# than the views. The views then change by less than one level of 255 on average.
_REDUCING_GAP = 2


@dataclasses.dataclass(frozen=True)
class Views:
    """Transform to {'views': (2, h, w, c)}, random resized crops of an image file or array.

    Each crop is a box drawn by `draw_box`, resized by antialiased linear interpolation, like
    SimCLR's crop (arXiv:2002.05709, appendix A). A file is decoded once for all crops, and a large
    JPEG file at a fraction of its size if all crops allow it. Raises UnreadableImageError like
    `decode`.
    """

    image_size: int
    channels: int
    min_area: float = knob(positive("smallest crop, as a share of the image", 0.08, maximum=1))

    def __call__(
        self, image: bytes | UInt8[np.ndarray, "h w c"], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        def draw(width: int, height: int) -> list[Box]:
            area, ratio = (self.min_area, 1.0), (3 / 4, 4 / 3)
            return [draw_box(rng, width, height, area=area, ratio=ratio) for _ in range(2)]

        if isinstance(image, np.ndarray):
            upright = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            boxes, scale = draw(*upright.size), 1
        else:
            with _opened(image) as file:
                is_lying = file.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
                width, height = file.size[::-1] if is_lying else file.size
                boxes = draw(width, height)
                smallest = min(min(box[2] - box[0], box[3] - box[1]) for box in boxes)
                shrink = max(1.0, smallest / (_REDUCING_GAP * self.image_size))
                at_least = math.ceil(width / shrink), math.ceil(height / shrink)
                shape = at_least[::-1] if is_lying else at_least
                file.draft(_MODES[self.channels], shape)  # only changes a JPEG file
                upright = _upright(file, self.channels)
                scale = 2 ** round(math.log2(width / upright.width))
        crops = [_crop(upright, box, self.image_size, scale) for box in boxes]
        return {"views": np.stack(crops)}


MAX_BYTES_IN_MEMORY = 8 * 2**30
MAX_CHECKED = 10_000
MAX_NAMED = 20
_MAX_TRIED = 100
_Result = TypeVar("_Result")


@functools.cache
def decoding_threads() -> ThreadPoolExecutor:
    """A thread for each core that this process may use; decoding and resizing release the GIL."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)))


class Rows:
    """Base class of sources of `EncodedImages`: rows of numbers or names of their images."""

    def __init__(self, rows: Shaped[np.ndarray, " n"]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, rows: Int[np.ndarray, " m"]) -> "Rows":
        """The images of these rows, which may repeat."""
        chosen = copy.copy(self)
        chosen._rows = self._rows[rows]
        return chosen


class EncodedImages:
    """Images that are decoded when indexed, in place of an array (n, h, w, c) uint8.

    Indexing, length and shape work as for an array. np.asarray decodes all images, up to 8 GiB. The
    `source` contains the files. `source.read(index)` returns the content of a file or raises
    UnreadableImageError, `source.name(index)` its name in messages, and `source.at(rows)` a part of
    the source.

    Unreadable images are found by `check` or when they are read, because decoding a large data set
    before training would take longer than many runs. They raise UnreadableImageError, which ends
    the run with exit code 2. With `data.skip_unreadable` the next readable image takes the place of
    an unreadable one, which is logged once. A `data` group without this field describes a user's
    input.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, source: Any, data: ConfigDict) -> None:
        self.source, self.data = source, data
        self._logged: set[int] = set()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, h, w, c)."""
        size = self.data.image_size
        return (len(self.source), size, size, self.data.channels)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: Any) -> np.ndarray:
        indices = np.arange(len(self))[rows]
        images, _ = self.read(np.atleast_1d(indices))
        return images if indices.ndim else images[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        size = int(np.prod(self.shape))
        if size > MAX_BYTES_IN_MEMORY:
            raise UserError(
                f"{len(self)} images of {self.data.image_size} pixels take "
                f"{size / 2**30:.0f} GiB of memory, at most "
                f"{MAX_BYTES_IN_MEMORY / 2**30:.0f} are allowed: use a smaller split"
            )
        return self[:].astype(dtype or np.uint8, copy=False)

    def at(self, rows: Int[np.ndarray, " m"]) -> "EncodedImages":
        """The images at these rows, not decoded."""
        return EncodedImages(self.source.at(rows), self.data)

    def decode(self, encoded: bytes) -> UInt8[np.ndarray, "h w c"]:
        """Pixels of an image file, given its content."""
        return prepare(encoded, self.data)

    def attempt(
        self, index: int, use: Callable[[bytes], _Result]
    ) -> _Result | UnreadableImageError:
        """`use(content)` of an image, or the reason why the image cannot be read."""
        try:
            return use(self.source.read(index))
        except UnreadableImageError as error:
            return error

    def load(self, index: int, use: Callable[[bytes], _Result]) -> tuple[_Result, int]:
        """`use(content)` of image `index` or of the next readable image, and the image's index.

        A UserError from `use` marks an image as unreadable. Raises UnreadableImageError without
        `data.skip_unreadable`, or if a hundred images in a row are unreadable.
        """
        for row in range(index, index + min(len(self), _MAX_TRIED)):
            try:
                return use(self.source.read(row % len(self))), row % len(self)
            except UserError as error:
                if row == index:
                    self._skip({index: error})
        raise UnreadableImageError(
            f"{self.source.name(index)} cannot be read, nor can the images after it "
            f"(at most {_MAX_TRIED} were tried)"
        )

    def read(
        self, rows: Int[np.ndarray, " k"]
    ) -> tuple[UInt8[np.ndarray, "k h w c"], Int[np.ndarray, " k"]]:
        """Reads the images at these rows, or the next readable images, and returns their rows."""
        images, used = np.empty((len(rows), *self.shape[1:]), np.uint8), np.array(rows)
        loaded = decoding_threads().map(lambda row: self.load(row, self.decode), rows.tolist())
        for place, (image, row) in enumerate(loaded):
            images[place], used[place] = image, row
        return images, used

    def check(
        self, use: Callable[[bytes], Any], is_over: Callable[[], bool] = lambda: False
    ) -> int:
        """Tries `use(content)` on at most 10,000 evenly spaced images, until `is_over`.

        Returns for how many of them it is True. Logs unreadable images. Without
        `data.skip_unreadable`, raises UnreadableImageError for them.
        """
        rows = evenly_spaced(min(len(self), MAX_CHECKED), len(self)).tolist()
        failed: dict[int, UserError] = {}
        count = 0
        with progress(len(rows), "checking images", unit="image", brief=True) as bar:
            tried = decoding_threads().map(
                lambda row: None if is_over() else self.attempt(row, use), rows
            )
            for row, found in zip(rows, tried, strict=True):
                failed |= {row: found} if isinstance(found, UnreadableImageError) else {}
                count += found is True
                bar.update()
        self._skip(failed)
        return count

    def _skip(self, failed: dict[int, UserError]) -> None:
        """Logs each of the first 20 unreadable images once. Raises without `skip_unreadable`."""
        if failed and not self.data.get("skip_unreadable", False):
            reasons = list(failed.items())[:MAX_NAMED]
            named = ", ".join(f"{self.source.name(index)} ({error})" for index, error in reasons)
            if "skip_unreadable" in self.data:
                named += "; --mode=check_data finds all of them, "
                named += "--config.data.skip_unreadable=True continues without them"
            raise UnreadableImageError(f"unreadable images ({len(failed)}): {named}")
        for index in failed.keys() - self._logged:
            self._logged.add(index)
            if len(self._logged) <= MAX_NAMED:
                name, count = self.source.name(index), len(self._logged)
                _log.warning("unreadable, left out (%d so far): %s", count, name)


Images = np.ndarray | EncodedImages


def evenly_spaced(chosen: int, count: int) -> Int[np.ndarray, " chosen"]:
    """Indices of `chosen` out of `count` rows, evenly spaced."""
    return (np.arange(chosen) * count + count // 2) // max(chosen, 1)


def is_light(images: UInt8[np.ndarray, "n h w c"]) -> bool | None:
    """Whether the background of images is light. None unless nine in ten agree.

    A background is light if more than half of the border is lighter than middle grey.
    """
    pixels = images.mean(axis=-1) > 127.5
    is_border = np.pad(np.zeros_like(pixels[0, 1:-1, 1:-1]), 1, constant_values=True)
    share = np.mean(pixels[:, is_border].mean(axis=1) > 0.5)
    return None if 0.1 < share < 0.9 else bool(share > 0.5)
