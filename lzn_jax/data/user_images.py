"""Images that a user passes to a trained run, adapted to its data set."""

import logging
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from lzn_jax.data import pixels
from lzn_jax.data.folder import IMAGE_SUFFIXES, Files, image_names
from lzn_jax.data.pixels import EncodedImages
from lzn_jax.errors import UserError

_INVERTED = "inverted to the background of the training images (data.invert_input=False: none)"
_FINE = 16  # pixels of the ink for each pixel of the result, at most
_COPY = 128  # pixels of the larger side of the copy in which ink is looked for, at least
_LEAST_STROKE = 0.001  # of the copy's pixels: what is stronger on fewer pixels may be dust
_LEAST_PART = 0.05  # of the pixels of the largest part of the ink

_log = logging.getLogger(__name__)


def find_images(path: str, data: ConfigDict) -> EncodedImages:
    """An image file, or all image files at any depth in a folder, sorted by name.

    Images are converted to the size and channels of `data`. Raises UserError for a path without
    images, and on reading a file that is not an image.
    """
    root = Path(path)
    if not root.exists():
        raise UserError(f"there is no image or folder {root}")
    names = sorted(image_names(root, "")) if root.is_dir() else [os.fsencode(root.name)]
    if not names:
        raise UserError(f"{root} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    files = Files(root if root.is_dir() else root.parent, np.array(names, np.bytes_))
    fields = {name: value for name, value in data.items() if name != "skip_unreadable"}
    return EncodedImages(files, ConfigDict(fields))


def read_images(
    images: EncodedImages, is_light: bool | None = None
) -> UInt8[np.ndarray, "n h w c"]:
    """All images that a user names (see `read_image`). One log line counts their changes."""
    counts, read = Counter[str](), []
    for row in range(len(images)):
        (image, changes), _ = images.load(row, lambda e: read_image(e, images.data, is_light))
        counts.update(changes)
        read.append(image)
    if counts:
        summary = ", ".join(f"{count} {change}" for change, count in sorted(counts.items()))
        _log.info("of %d images: %s", len(images), summary)
    return np.stack(read)


def read_image(
    encoded: bytes, data: ConfigDict, is_light: bool | None = None
) -> tuple[UInt8[np.ndarray, "h w c"], list[str]]:
    """A user's image as the model reads it, and the changes made (see `adapt`).

    Raises UnreadableImageError if the file cannot be decoded.
    """
    image, ground = pixels.decode_on_ground(encoded)
    share = 1.0 if data.get("crop_to_ink", False) else None
    adapted, changes = adapt(image, data, is_light, share)
    return adapted, [f"composited over {ground}", *changes] if ground else changes


def adapt(
    image: Image.Image, data: ConfigDict, is_light: bool | None, share: float | None = None
) -> tuple[UInt8[np.ndarray, "h w c"], list[str]]:
    """An RGB image with the size and channels of `data`, and the changes made.

    `share` is the larger side of the ink in the frame. Grey ink is cut out, centred and stretched
    to full contrast, and its strokes become at least as wide as a pixel of the result. None keeps
    the central square of the image. `data.invert_input` decides whether to invert. If it is None, a
    grey image is inverted if its background differs from the data's, `is_light`.
    """
    side, is_grey, changes = data.image_size, data.channels == 1, []
    if is_grey:
        if np.ptp(np.asarray(image), axis=-1).any():
            changes.append("converted to grey")
        image = image.convert("L")
    # An image of the data's size is framed as they are, such as one of them.
    is_cut = is_grey and share is not None and image.size != (side, side)
    ink, has_light_ground = ink_of(image) if is_cut else (None, False)
    if ink is not None and share is not None:
        changes.append("cropped to the ink")
        frame = round(max(ink.size) / share)
        square = Image.new("L", (frame, frame))
        square.paste(ink, ((frame - ink.width) // 2, (frame - ink.height) // 2))
        square.thumbnail((_FINE * side, _FINE * side), Image.Resampling.BOX)
        square = thickened(square, square.width / side)
        adapted = np.asarray(square.resize((side, side), Image.Resampling.BOX))[..., None]
        adapted = 255 - adapted if has_light_ground else adapted
    else:
        if image.width != image.height:
            changes.append("cropped to the central square")
        if image.size != (side, side):
            changes.append(f"resized to {side}x{side}")
        adapted = pixels.fit(image, side, data.get("centre_crop", 1.0))
        has_light_ground = bool(pixels.is_light(adapted[None]))
    is_inverted = data.get("invert_input")
    if is_inverted is None:
        is_inverted = is_grey and is_light not in (None, has_light_ground)
    if is_inverted:
        changes.append(_INVERTED)
    return 255 - adapted if is_inverted else adapted, changes


def ink_of(image: Image.Image) -> tuple[Image.Image | None, bool]:
    """The ink of a grey image, cropped, light on black; whether its background is light.

    The background is the median of the border. Ink differs from it by more than half of the largest
    difference. Noise and dust are no ink: a copy of at least 128 pixels is searched, whose pixels
    are means, and parts below a twentieth of the largest part are left out. None for an image
    without contrast.
    """
    factor = max(1, max(image.size) // _COPY)
    copy = np.asarray(image.reduce(factor), np.int16)
    ground = int(np.median(np.concatenate([copy[0], copy[-1], copy[:, 0], copy[:, -1]])))
    ink = np.abs(copy - ground)
    ranked = np.sort(ink, axis=None)[::-1]
    likely = (int(ranked[int(_LEAST_STROKE * ink.size)]), int(ranked[0]))
    strongest = next((level for level in likely if level >= pixels.LEAST_CONTRAST), None)
    if strongest is None:
        return None, ground > 127
    parts, _ = ndimage.label(ink > strongest / 2, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    kept = np.isin(parts, 1 + np.flatnonzero(sizes >= _LEAST_PART * sizes.max()))
    rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
    left, upper, right, lower = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    box = image.crop((left * factor, upper * factor, right * factor, lower * factor))
    levels = np.abs(np.asarray(box, np.int16) - ground) * (255 / strongest)
    return Image.fromarray(np.round(np.minimum(levels, 255)).astype(np.uint8)), ground > 127


def thickened(ink: Image.Image, width: float) -> Image.Image:
    """Light ink whose strokes are at least about `width` pixels wide, by a maximum filter."""
    is_ink = np.pad(np.asarray(ink) > 127, 1)
    edges = sum(np.count_nonzero(np.diff(is_ink, axis=axis)) for axis in (0, 1))
    # A stroke has two sides, whose length the edges of pixels overestimate by 4 / π on average.
    missing = width - 8 / math.pi * np.count_nonzero(is_ink) / max(edges, 1)
    return ink.filter(ImageFilter.MaxFilter(2 * round(missing / 2) + 1)) if missing >= 1 else ink


def thumbnail(encoded: bytes, side: int = 128) -> Image.Image:
    """A user's image in colour, whole, in a grey square."""
    image = pixels.decode(encoded, 3)
    return ImageOps.pad(image, (side, side), color=(128, 128, 128))
