"""Fashion-MNIST's IDX files, of which the test writes some."""

import gzip
import os
import struct

import numpy as np
import pytest
from ml_collections import ConfigDict

from lzn_jax import data
from lzn_jax.errors import UserError


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
    folders = [tmp_path_factory.mktemp("fashion") for _ in range(2)]
    for is_compressed, folder in enumerate(folders):
        _write_fashion(folder, is_compressed=is_compressed)
    return folders


@pytest.mark.parametrize("is_compressed", [0, 1])
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_fashion_reads_idx_files_and_adds_a_border_of_zeros(fashion, is_compressed, split, count):
    examples = data.load(_fashion(fashion[is_compressed]), split)
    assert examples.images.shape == (count, 28, 28, 1)
    assert (examples.images.dtype, examples.labels.dtype) == (np.uint8, np.int32)
    index = np.arange(count)
    np.testing.assert_array_equal(examples.images[:, 2, 5, 0], index % 251)
    assert examples.images.sum() == (index % 251).sum()
    np.testing.assert_array_equal(examples.labels, index % 10)
    large = data.load(_fashion(fashion[is_compressed], 32), split).images
    assert large.shape == (count, 32, 32, 1)
    np.testing.assert_array_equal(large[:, 4, 7], examples.images[:, 2, 5])
    assert large.sum() == examples.images.sum()


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
    for path in fashion[0].iterdir():
        os.link(path, tmp_path / path.name)
    (tmp_path / name.removesuffix(".gz")).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        data.load(_fashion(tmp_path), "test")
    assert str(tmp_path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
