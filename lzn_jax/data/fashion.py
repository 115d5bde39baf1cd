"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 + 10,000 grey images of clothes."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lzn_jax.data import Examples, tfds
from lzn_jax.errors import UserError

LICENCE = "Copyright Zalando SE, MIT licence."
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
    counts = {"images": len(images), "labels": len(labels)}
    if images.shape[1:3] != (_SIZE, _SIZE) or set(counts.values()) != {_COUNTS[split]}:
        height, width = images.shape[1:3]
        raise UserError(
            f"{folder} is not Fashion-MNIST: its {split} split must have {_COUNTS[split]} images "
            f"of {_SIZE}x{_SIZE} pixels and as many labels, got {counts['images']} of "
            f"{height}x{width} and {counts['labels']} labels"
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
    path, content = _content(folder, name)
    start = 4 + 4 * num_axes
    if content[:4] != bytes([0, 0, 8, num_axes]) or len(content) < start:
        raise UserError(f"{path} is not an IDX file of bytes with {num_axes} axes")
    shape = np.frombuffer(content, ">u4", num_axes, offset=4).astype(np.int64)
    if len(content) - start != shape.prod():
        expected = "x".join(map(str, shape))
        raise UserError(
            f"{path} is damaged: it must hold {expected} values, got {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(folder: Path, name: str) -> tuple[Path, bytes]:
    for path in (folder / name, folder / f"{name}.gz"):
        try:
            content = path.read_bytes()
            return path, gzip.decompress(content) if path.suffix == ".gz" else content
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
    raise UserError(
        f"{folder} holds neither {name} nor {name}.gz: install Debian's package "
        "dataset-fashion-mnist or set data.path to a folder with the four IDX files"
    )
