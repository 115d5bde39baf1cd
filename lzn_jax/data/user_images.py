"""Images that a user passes to a trained run, adapted to its data set."""

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from lzn_jax.data import pixels
from lzn_jax.data.folder import IMAGE_SUFFIXES, Files, image_names
from lzn_jax.data.pixels import EncodedImages
from lzn_jax.errors import UserError

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
    data, side, counts, read = images.data, images.data.image_size, Counter[str](), []
    inverted = "inverted to the background of the training images (data.invert_input=False: none)"
    for row in range(len(images)):
        (image, is_inverted), _ = images.load(row, lambda e: read_image(e, data, is_light))
        whole, _ = images.load(row, lambda e: pixels.decode(e, 3))
        changes = {
            inverted: is_inverted,
            "cropped to the central square": whole.width != whole.height,
            f"resized to {side}x{side}": whole.size != (side, side),
            "converted to grey": data.channels == 1 and np.ptp(np.asarray(whole), axis=-1).any(),
        }
        counts.update(change for change, is_made in changes.items() if is_made)
        read.append(image)
    if counts:
        summary = ", ".join(f"{count} {change}" for change, count in sorted(counts.items()))
        _log.info("of %d images: %s", len(images), summary)
    return np.stack(read)


def read_image(
    encoded: bytes, data: ConfigDict, is_light: bool | None = None
) -> tuple[UInt8[np.ndarray, "h w c"], bool]:
    """A user's image with the size and channels of `data`, and whether it was inverted.

    `data.invert_input` decides whether to invert. If it is None, a grey image is inverted if its
    background differs from the data's, `is_light`. Raises UnreadableImageError if it cannot be
    decoded.
    """
    image, is_inverted = pixels.prepare(encoded, data), data.get("invert_input")
    if is_inverted is None:
        differs = is_light not in (None, pixels.is_light(image[None]))
        is_inverted = data.channels == 1 and differs
    return 255 - image if is_inverted else image, is_inverted
