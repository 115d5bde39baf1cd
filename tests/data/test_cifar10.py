"""CIFAR-10's binary files, of which the test writes some."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from lzn_jax import data
from lzn_jax.errors import UserError


def _cifar(folder):
    fields = {"name": "cifar10", "path": str(folder), "image_size": 32, "channels": 3}
    return ConfigDict(fields | {"num_classes": 10, "flip": True})


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Record i of file f: label (f + i) modulo 10, rows 1, 2, 3 of red, green, blue are f, i, 7."""
    folder = tmp_path_factory.mktemp("cifar")
    (folder / "cifar-10-batches-bin").mkdir()
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records = np.zeros((10_000, 3073), np.uint8)
        index = np.arange(10_000)
        records[:, 0] = (number + index) % 10
        planes = records[:, 1:].reshape(-1, 3, 32, 32)
        planes[:, 0, 1], planes[:, 1, 2] = number, (index % 256)[:, None]
        planes[:, 2, 3] = 7
        (folder / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(records.tobytes())
    return folder


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_reads_the_binary_version(cifar, below, split):
    examples = data.load(_cifar(cifar / below), split)
    count = {"train": 50_000, "test": 10_000}[split]
    assert examples.images.shape == (count, 32, 32, 3)
    assert examples.labels.dtype == np.int32
    file, index = np.divmod(np.arange(count), 10_000)
    file = file + 5 * (split == "test")
    np.testing.assert_array_equal(examples.labels, (file + index) % 10)
    for row, channel, expected in ((1, 0, file), (2, 1, index % 256), (3, 2, 0 * file + 7)):
        found = examples.images[:, row, :, channel]
        np.testing.assert_array_equal(found, np.broadcast_to(expected[:, None], (count, 32)))
    assert np.count_nonzero(examples.images[:, 4:]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "cannot be read"),
        (lambda content: content[:-1], "must have 30730000 bytes, got 30729999"),
        (lambda content: b"\x0a" + content[1:], "a label is 10"),
    ],
)
def test_a_damaged_cifar10_file_is_named_in_one_line(cifar, tmp_path, change, message):
    content = (cifar / "cifar-10-batches-bin" / "test_batch.bin").read_bytes()
    if change is not None:
        (tmp_path / "test_batch.bin").write_bytes(change(content))
    with pytest.raises(UserError, match=message) as raised:
        data.load(_cifar(tmp_path), "test")
    assert str(tmp_path / "test_batch.bin") in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
