"""Image files to arrays of 8-bit pixels, whatever mode they are stored in."""

import io

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lzn_jax.configuration import UserError

Size = tuple[int, int]

_MODES = {1: "L", 3: "RGB"}
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


class UnreadableImageError(UserError):
    """An image file that is broken, empty, or no image at all."""


def decode(encoded: bytes, channels: int, at_least: Size | None = None) -> Image.Image:
    """The image in a file's content, upright, in mode L (1 channel) or RGB (3 channels).

    A JPEG may come at 1/2, 1/4 or 1/8 of its size, the smallest that is no smaller than `at_least`
    (width, height), which is faster; None is its own size. It is turned as its EXIF orientation
    says. Transparency is dropped, as the usual loaders of image folders do; 16-bit grey is scaled
    to 8 bits. A JPEG that lacks its end is an error; one with wrong bits inside decodes to wrong
    pixels, for JPEG has no checksum.

    Raises UnreadableImageError with the reason for what cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            if at_least is not None:
                opened.draft(_MODES[channels], at_least[::-1] if _lies(opened) else at_least)
            opened.load()
            return _eight_bits(ImageOps.exif_transpose(opened), channels)
    except Exception as error:  # the format plugins raise almost anything on a broken file
        raise UnreadableImageError(_reason(error) if encoded else "it is empty") from error


def is_jpeg(encoded: bytes) -> bool:
    """Whether a file's content starts as a JPEG's, which `decode` may give at a fraction."""
    return encoded.startswith(b"\xff\xd8")


def jpeg_size(encoded: bytes) -> Size:
    """Width and height of what `decode` gives for a JPEG, from the file's header alone.

    Of other files Pillow may turn the size itself, or decode them to find the orientation. Raises
    UnreadableImageError as `decode`.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            return opened.size[::-1] if _lies(opened) else opened.size
    except Exception as error:
        raise UnreadableImageError(_reason(error) if encoded else "it is empty") from error


def _lies(image: Image.Image) -> bool:
    """Whether a JPEG's EXIF orientation says to turn it on its side."""
    return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text names nothing but the buffer
        return "its format is unknown"
    return " ".join(str(error).split())


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
    """The middle square of an image, resized to `size` pixels (bicubic, antialiased).

    Its side is `share` of the image's shorter side: 0.875 is the usual crop of 224 pixels from 256.
    """
    side = min(image.size) * share
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    resized = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized, np.uint8).reshape(size, size, -1)


def changes(encoded: bytes, data: ConfigDict) -> tuple[str, ...]:
    """Names of the changes that `prepare` makes to an image: crop, size, colours.

    Raises UnreadableImageError as `decode`.
    """
    image, side = decode(encoded, 3), data.image_size
    has_colours = bool(np.ptp(np.asarray(image), axis=-1).any())
    found = {
        "cropped to the middle square": image.width != image.height,
        f"resized to {side}x{side}": image.size != (side, side),
        "turned grey": data.channels == 1 and has_colours,
    }
    return tuple(change for change, is_made in found.items() if is_made)


def prepare(encoded: bytes, data: ConfigDict) -> UInt8[np.ndarray, "h w c"]:
    """An image file's pixels in the size, crop and channels of a config's `data` group.

    Data sets whose images have their size already, and so no `data.centre_crop`, take the whole
    middle square. Raises UnreadableImageError as `decode`.
    """
    return fit(decode(encoded, data.channels), data.image_size, data.get("centre_crop", 1.0))
