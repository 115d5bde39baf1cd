"""Digits, Fashion-MNIST's IDX files and CIFAR-10's binary files, of which the test writes some."""

import gzip
import os
import re
import struct

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lzn_jax import data

SIZES = {"digits": (8, 1), "fashion": (28, 1), "cifar10": (32, 3)}


def _config(name, folder=None, **changes):
    size, channels = SIZES[name]
    fields = {"name": name, "path": str(folder), "image_size": size, "channels": channels}
    return ConfigDict(fields | {"num_classes": 10, "flip": False} | changes)


@pytest.mark.parametrize(("split", "part"), [("train", 0), ("test", 1)])
def test_digits_are_the_stratified_split_of_scikit_learn(split, part):
    digits = load_digits()
    indices = train_test_split(
        np.arange(1797), test_size=360, stratify=digits.target, random_state=0
    )
    examples = data.load(_config("digits"), split)
    levels = digits.images[indices[part]].astype(int)  # 0 ... 16
    assert examples.images.dtype == np.uint8
    np.testing.assert_array_equal(examples.images[..., 0], (levels * 510 + 16) // 32)
    np.testing.assert_array_equal(examples.labels, digits.target[indices[part]])


@pytest.mark.parametrize("name", SIZES)
def test_every_class_has_a_name(name):
    assert len(set(data.class_names(_config(name)))) == 10


def _idx(values, shape=None):
    shape = values.shape if shape is None else shape
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return header + values.tobytes()


def _compressed(content):
    """Free of the time, which would be part of a parameter's name, of which workers must agree."""
    return gzip.compress(content, 1, mtime=0)


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    """Folders without and with compression.

    Pixel (2, 5) of image i is i modulo 251, its label i modulo 10; all else is 0.
    """
    folders = [tmp_path_factory.mktemp("fashion") for _ in range(2)]
    for prefix, count in (("train", 60_000), ("t10k", 10_000)):
        index = np.arange(count)
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 2, 5] = index % 251
        for kind, values in {"images-idx3": images, "labels-idx1": index % 10}.items():
            content, name = _idx(values.astype(np.uint8)), f"{prefix}-{kind}-ubyte"
            (folders[0] / name).write_bytes(content)
            (folders[1] / f"{name}.gz").write_bytes(_compressed(content))
    return folders


@pytest.mark.parametrize(
    ("is_compressed", "split", "count"), [(0, "train", 60_000), (1, "test", 10_000)]
)
def test_fashion_reads_idx_files_and_adds_a_border_of_zeros(fashion, is_compressed, split, count):
    examples = data.load(_config("fashion", fashion[is_compressed]), split)
    assert examples.images.shape == (count, 28, 28, 1)
    assert (examples.images.dtype, examples.labels.dtype) == (np.uint8, np.int32)
    index = np.arange(count)
    np.testing.assert_array_equal(examples.images[:, 2, 5, 0], index % 251)
    assert examples.images.sum() == (index % 251).sum()
    np.testing.assert_array_equal(examples.labels, index % 10)
    large = data.load(_config("fashion", fashion[is_compressed], image_size=32), split).images
    assert large.shape == (count, 32, 32, 1)
    np.testing.assert_array_equal(large[:, 4, 7], examples.images[:, 2, 5])
    assert large.sum() == examples.images.sum()


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
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


@pytest.mark.parametrize(("below", "split"), [("", "train"), ("cifar-10-batches-bin", "test")])
def test_cifar10_reads_the_binary_version(cifar10, below, split):
    examples = data.load(_config("cifar10", cifar10 / below), split)
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


IMAGES, LABELS, BATCH = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "test_batch.bin"
RECORDS = np.zeros((10_000, 3073), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, None, "t10k-images-idx3-ubyte.gz cannot be read: install Debian's package"),
        (LABELS, b"", "cannot be read"),
        (LABELS, b"no IDX file", "IDX file of bytes with 1 axes"),
        (LABELS, _idx(np.zeros((10, 1), np.uint8)), "IDX file of bytes with 1 axes"),
        (LABELS, _idx(np.zeros(10_000, np.uint8))[:-1], r"9999 values of shape \[10000\]"),
        (LABELS, _idx(np.zeros(10_001, np.uint8), (10_000,)), "10001 values of shape"),
        (LABELS, _idx(np.zeros(9_999, np.uint8)), r"got \(10000, 28, 28\) and 9999 labels"),
        (IMAGES, _idx(np.zeros((10_000, 27, 28), np.uint8)), r"got \(10000, 27, 28\)"),
        (f"{LABELS}.gz", _compressed(_idx(np.zeros(10_000, np.uint8)))[:-20], "cannot be read"),
        (f"{LABELS}.gz", b"no gzip", "cannot be read"),
        (BATCH, None, f"{BATCH} cannot be read"),
        (BATCH, RECORDS.tobytes()[:-1], "must have 30730000 bytes .*, got 30729999"),
        (BATCH, b"\x0a" + RECORDS.tobytes()[1:], "labels up to 9"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_damaged_file_is_named_in_one_line(fashion, tmp_path, fault_of, name, content, message):
    if name != BATCH:
        for path in fashion[0].iterdir():
            os.link(path, tmp_path / path.name)
        (tmp_path / name.removesuffix(".gz")).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    line = fault_of(_config("cifar10" if name == BATCH else "fashion", tmp_path), "test")
    assert re.search(message, line), line
    assert str(tmp_path) in line
