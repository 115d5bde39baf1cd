"""Data sets as arrays: images uint8 NHWC and integer labels."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict
from PIL import Image, UnidentifiedImageError

from lzn_jax.configuration import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


class Examples(NamedTuple):
    """Images with their classes."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]


def load(data: ConfigDict, split: Literal["train", "test"]) -> Examples:
    """One split of the data set that a config's `data` group names.

    Raises UserError for a data set that cannot be read.
    """
    return {"digits": _digits}[data.name](split)


def _digits(split: str) -> Examples:
    """scikit-learn's 8x8 digits, 1437 for training and 360 for testing, as many of each class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    return {
        "train": Examples(train_images, train_labels),
        "test": Examples(test_images, test_labels),
    }[split]


def read_images(path: str, data: ConfigDict) -> UInt8[np.ndarray, "n h w c"]:
    """An image file, or all image files of a folder by name, in the size and channels of `data`.

    Raises UserError for a path without images and for a file that is none.
    """
    root = Path(path)
    if not root.exists():
        raise UserError(f"there is no image or folder {root}")
    files = [root]
    if root.is_dir():
        files = sorted(
            p for p in root.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES
        )
    if not files:
        raise UserError(f"{root} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return np.stack([_read_image(file, data) for file in files])


def _read_image(file: Path, data: ConfigDict) -> np.ndarray:
    try:
        with Image.open(file) as opened:
            if opened.mode.startswith(("I", "F")):  # conversion would clip, not scale
                raise UserError(f"{file} has more than 8 bits a channel: convert it to 8 bits")
            image = opened.convert("L" if data.channels == 1 else "RGB")
            image = image.resize((data.image_size, data.image_size), Image.Resampling.BICUBIC)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} is not an image that can be read: {error}") from error
    pixels = np.asarray(image, np.uint8)
    return pixels.reshape(data.image_size, data.image_size, data.channels)
