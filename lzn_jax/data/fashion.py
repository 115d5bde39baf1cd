"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 + 10,000 grey images of clothes."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import Examples, fixed_images, tfds
from lzn_jax.errors import UserError
from lzn_jax.parts import word

LICENCE = "Copyright Zalando SE, MIT licence."
_DEBIAN = "/usr/share/datasets/fashion-mnist"  # of Debian's package dataset-fashion-mnist
_PREFIXES = {"train": "train", "test": "t10k"}
_COUNTS = {"train": 60_000, "test": 10_000}
_SIZE = 28


def load(data: ConfigDict, split: str) -> Examples:
    """One split, read from IDX files, gzipped or not, or from a TFDS folder `fashion_mnist`.

    Images of 28 pixels are padded with zeros to `data.image_size`. Raises UserError for a file that
    is missing, damaged or from another data set.
    """
    folder = Path(data.path).expanduser()
    if (folder / "fashion_mnist").is_dir():
        images, labels = tfds.arrays("fashion_mnist", folder, split, _SIZE, channels=1)
    else:
        images = _read(folder, f"{_PREFIXES[split]}-images-idx3-ubyte", 3)[..., None]
        labels = _read(folder, f"{_PREFIXES[split]}-labels-idx1-ubyte", 1).astype(np.int32)
    expected = (_COUNTS[split], _SIZE, _SIZE)
    if images.shape[:3] != expected or len(labels) != len(images):
        raise UserError(
            f"{folder} is not Fashion-MNIST: its {split} split must have images {expected} and as "
            f"many labels, got {images.shape[:3]} and {len(labels)} labels"
        )
    border = (data.image_size - _SIZE) // 2
    images = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
    return Examples(images, labels)


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the ten kinds of clothes."""
    return (
        "T-shirt/top", "trouser", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip


def _read(folder: Path, name: str, num_axes: int) -> np.ndarray:
    """Array of the IDX file `name`, gzipped or not.

    Format (yann.lecun.com/exdb/mnist): two zero bytes, the type (8 = unsigned byte), the number of
    axes, the length of each axis as a big-endian 32-bit integer, the values.
    """
    path = folder / name if (folder / name).is_file() else folder / f"{name}.gz"
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        magic, *shape = struct.unpack_from(f">{1 + num_axes}I", content)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UserError(
            f"{path} cannot be read: install Debian's package dataset-fashion-mnist or set "
            f"data.path to a folder with the four IDX files ({error})"
        ) from error
    values = np.frombuffer(content, np.uint8)[4 * (1 + num_axes) :]
    if magic != 0x800 + num_axes or len(values) != math.prod(shape):
        raise UserError(
            f"{path} is damaged: it must be an IDX file of bytes with {num_axes} axes, got "
            f"{len(values)} values of shape {shape}"
        )
    return values.reshape(shape)


parts.add(
    "data",
    "fashion",
    "lzn_jax.data.fashion",
    {"data.path": word("folder of the IDX files, or of TFDS's fashion_mnist", _DEBIAN)}
    | fixed_images(28, 1, 10, flip=True, choices=(28, 32)),
)
