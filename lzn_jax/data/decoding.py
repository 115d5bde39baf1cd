"""Decoding of image files in any mode to arrays of 8-bit pixels."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lzn_jax.configuration import UserError

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
