"""Data sets in memory: scikit-learn's digits, Fashion-MNIST's and CIFAR-10's files."""

import gzip
import os
import struct

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lzn_jax import data
from lzn_jax.errors import UserError

DIGITS = ConfigDict({"name": "digits"})


@pytest.mark.parametrize(("split", "part"), [("train", 0), ("test", 1)])
def test_digits_are_the_stratified_split_of_scikit_learn(split, part):
    digits = load_digits()
    indices = train_test_split(
        np.arange(1797), test_size=360, stratify=digits.target, random_state=0
    )
    examples = data.load(DIGITS, split)
    levels = digits.images[indices[part]].astype(int)  # 0 ... 16
    assert examples.images.dtype == np.uint8
    np.testing.assert_array_equal(examples.images[..., 0], (levels * 510 + 16) // 32)
    np.testing.assert_array_equal(examples.labels, digits.target[indices[part]])


@pytest.mark.parametrize("name", ["digits", "fashion", "cifar10"])
def test_every_class_has_a_name(name):
    names = data.class_names(ConfigDict({"name": name}))
    assert len(set(names)) == 10


def test_labels_have_the_names_of_classes_or_their_numbers(tmp_path):
    folders = [b"cat", b"d\xffg"]
    for name in folders:
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    fields = {"name": "image_folder", "path": str(tmp_path), "class_name": None, "holdout": 0}
    names = [data.label_names(ConfigDict(fields | {"num_classes": k})) for k in (1, 2, 3)]
    assert names == [["0"], ["cat", "d?g"], ["0", "1", "2"]]


def _fashion(folder, size=28):
    fields = {"name": "fashion", "path": str(folder), "image_size": size, "channels": 1}
    return ConfigDict(fields | {"num_classes": 10, "flip": False})


def _idx(values, shape=None):
    shape = values.shape if shape is None else shape
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return header + values.tobytes()


def _compressed(content):
    """Free of the time, which would be part of a parameter's name, of which workers must agree."""
    return gzip.compress(content, 1, mtime=0)


COUNTS = {"train": 60_000, "t10k": 10_000}


def _write_fashion(folder, *, is_compressed):
    """Pixel (2, 5) of image i is i modulo 251, its label i modulo 10; all else is 0."""
    for prefix, count in COUNTS.items():
        index = np.arange(count)
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 2, 5] = index % 251
        for kind, values in {"images-idx3": images, "labels-idx1": index % 10}.items():
            content = _idx(values.astype(np.uint8))
            path = folder / f"{prefix}-{kind}-ubyte"
            if is_compressed:
                path = path.with_name(f"{path.name}.gz")
                content = _compressed(content)
            path.write_bytes(content)


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    folders = {}
    for is_compressed in (False, True):
        folders[is_compressed] = tmp_path_factory.mktemp("fashion")
        _write_fashion(folders[is_compressed], is_compressed=is_compressed)
    return folders


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_fashion_reads_idx_files(fashion, is_compressed, split, count):
    examples = data.load(_fashion(fashion[is_compressed]), split)
    assert examples.images.shape == (count, 28, 28, 1)
    assert examples.images.dtype == np.uint8
    assert examples.labels.dtype == np.int32
    index = np.arange(count)
    np.testing.assert_array_equal(examples.images[:, 2, 5, 0], index % 251)
    assert examples.images.sum() == (index % 251).sum()
    np.testing.assert_array_equal(examples.labels, index % 10)


def test_fashion_of_32_pixels_has_a_border_of_zeros(fashion):
    small = data.load(_fashion(fashion[False]), "test").images
    large = data.load(_fashion(fashion[False], 32), "test").images
    assert large.shape == (10_000, 32, 32, 1)
    np.testing.assert_array_equal(large[:, 2:30, 2:30], small)
    assert large.sum() == small.sum()


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, None, "holds neither t10k-images-idx3-ubyte nor t10k-images-idx3-ubyte.gz"),
        (LABELS, b"", "not an IDX file of bytes with 1 axes"),
        (LABELS, _idx(np.zeros((10, 1), np.uint8)), "not an IDX file of bytes with 1 axes"),
        (LABELS, _idx(np.zeros(10_000, np.uint8))[:-1], "must hold 10000 values, got 9999"),
        (LABELS, _idx(np.zeros(10_001, np.uint8), (10_000,)), "must hold 10000 values, got 10001"),
        (LABELS, _idx(np.zeros(9_999, np.uint8)), "got 10000 of 28x28 and 9999 labels"),
        (IMAGES, _idx(np.zeros((10_000, 27, 28), np.uint8)), "got 10000 of 27x28"),
        (f"{LABELS}.gz", _compressed(_idx(np.zeros(10_000, np.uint8)))[:-20], "cannot be read"),
        (f"{LABELS}.gz", b"no gzip", "cannot be read"),
    ],
)
def test_a_damaged_fashion_file_is_named_in_one_line(fashion, tmp_path, name, content, message):
    for path in fashion[False].iterdir():
        os.link(path, tmp_path / path.name)
    (tmp_path / name.removesuffix(".gz")).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        data.load(_fashion(tmp_path), "test")
    assert str(tmp_path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


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
