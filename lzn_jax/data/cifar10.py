"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels in ten classes."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import Examples, fixed_images, tfds
from lzn_jax.errors import UserError
from lzn_jax.parts import word

_FOLDER = "cifar-10-batches-bin"
_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_SIZE = 32
_RECORD_BYTES = 1 + 3 * _SIZE * _SIZE  # the label, then the red, green and blue planes
_RECORDS = 10_000  # in each file


def load(data: ConfigDict, split: str) -> Examples:
    """One split, read from the binary version's files or from a TFDS folder `cifar10`.

    `data.path` contains `cifar-10-batches-bin` or `cifar10`, or is the former. Raises UserError for
    a missing or damaged file.
    """
    folder = Path(data.path).expanduser()
    if (folder / "cifar10").is_dir():
        return Examples(*tfds.arrays("cifar10", folder, split, _SIZE, channels=3))
    if (folder / _FOLDER).is_dir():
        folder = folder / _FOLDER
    records = np.concatenate([_records(folder / name) for name in _FILES[split]])
    planes = records[:, 1:].reshape(-1, 3, _SIZE, _SIZE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return Examples(images, records[:, 0].astype(np.int32))


def class_names(data: ConfigDict) -> tuple[str, ...]:
    """Names of the ten classes."""
    return (
        "airplane", "automobile", "bird", "cat", "deer",
        "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip


def _records(path: Path) -> np.ndarray:
    try:
        records = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): set data.path to the folder of CIFAR-10's "
            f"binary version, {_FOLDER}"
        ) from error
    size = _RECORDS * _RECORD_BYTES
    if len(records) != size or records[::_RECORD_BYTES].max() > 9:
        raise UserError(
            f"{path} is damaged: it must have {size} bytes and labels up to 9, got {len(records)}"
        )
    return records.reshape(_RECORDS, _RECORD_BYTES)


parts.add(
    "data",
    "cifar10",
    "lzn_jax.data.cifar10",
    {"data.path": word("folder of cifar-10-batches-bin, or of TFDS's cifar10")}
    | fixed_images(32, 3, 10, flip=True, choices=(32,)),
)
