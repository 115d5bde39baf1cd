"""Data sets, the order of training batches, pixels and images from files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lzn_jax import data
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, TrainingBatches

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


def test_digits_have_the_promised_sizes_and_classes():
    train, test = data.load(DIGITS, "train"), data.load(DIGITS, "test")
    assert train.images.shape == (1437, 8, 8, 1)
    assert test.images.shape == (360, 8, 8, 1)
    for examples in (train, test):
        assert (examples.images.min(), examples.images.max()) == (0, 255)
        shares = np.bincount(examples.labels) / len(examples.labels)
        whole = np.bincount(load_digits().target) / 1797
        np.testing.assert_allclose(shares, whole, atol=1 / 360)


def _all_pixels():
    return np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_normalise_maps_pixels_linearly_to_minus_one_and_one():
    images = data.normalise(jnp.asarray(_all_pixels()))
    assert images.dtype == jnp.float32
    np.testing.assert_allclose(images.ravel(), np.linspace(-1, 1, 256), atol=1e-7)


def test_every_pixel_value_survives_the_round_trip():
    again = data.to_uint8(data.normalise(jnp.asarray(_all_pixels())))
    assert again.dtype == jnp.uint8
    np.testing.assert_array_equal(again, _all_pixels())


def _to_uint8(values):
    return data.to_uint8(jnp.asarray(values, jnp.float32).reshape(1, -1, 1, 1)).ravel().tolist()


def test_to_uint8_rounds_to_the_nearest():
    levels = np.array([0.4, 0.6, 99.4, 99.6, 254.4, 254.6])
    assert _to_uint8(levels / 127.5 - 1) == [0, 1, 99, 100, 254, 255]


def test_to_uint8_rounds_halves_to_even():
    halves = np.arange(255) + 0.5
    values = (halves / 127.5 - 1).astype(np.float32)
    # Only where float32 arithmetic arrives at the half itself.
    is_half = (values + np.float32(1)) * np.float32(127.5) == halves
    floor = np.floor(halves)[is_half].astype(int)
    assert {0, 1} == set((floor % 2).tolist())
    assert _to_uint8(values[is_half]) == (floor + floor % 2).tolist()


def test_to_uint8_clips():
    assert _to_uint8([-1.01, -7.0, -np.inf, 1.01, 7.0, np.inf]) == [0, 0, 0, 255, 255, 255]


def _examples(count):
    """Image i has 2i in its left column and 2i + 1 in its right one; its label is 100 + i."""
    left = 2 * np.arange(count, dtype=np.uint8)
    images = np.empty((count, 3, 2, 1), np.uint8)
    images[:, :, 0], images[:, :, 1] = left[:, None, None], left[:, None, None] + 1
    return Examples(images, np.arange(100, 100 + count, dtype=np.int32))


def _read(batches, count):
    """(index, is flipped) of the examples in the next `count` batches, which must be whole."""
    parts = [next(batches) for _ in range(count)]
    images = np.concatenate([part["images"] for part in parts])
    labels = np.concatenate([part["labels"] for part in parts])
    original = _examples(100).images[labels - 100]
    is_flipped = images[:, 0, 0, 0] % 2 == 1
    expected = np.where(is_flipped[:, None, None, None], original[:, :, ::-1], original)
    np.testing.assert_array_equal(images, expected)
    return labels - 100, is_flipped


def test_each_epoch_covers_each_example_once_in_an_order_of_its_own():
    # Batches of 4 straddle the ends of epochs of 30.
    order, _ = _read(TrainingBatches(_examples(30), 4, 0, flip=False), 15)
    first, second = order[:30], order[30:]
    for epoch in (first, second):
        assert sorted(epoch) == list(range(30))
        assert (epoch != np.arange(30)).sum() > 15
    assert (first != second).sum() > 15


def test_a_batch_may_be_larger_than_the_data_set():
    order, _ = _read(TrainingBatches(_examples(3), 9, 0, flip=False), 1)
    assert sorted(order) == sorted([0, 1, 2] * 3)


@pytest.mark.parametrize("step", [0, 3, 11])
def test_seek_gives_the_batches_that_reading_on_would(step):
    def new():
        return TrainingBatches(_examples(30), 4, 5, flip=True)

    reader = new()
    order, is_flipped = _read(reader, 14)
    rest = slice(4 * step, None)
    fresh = new()
    for batches in (reader, fresh):  # back from the end, and forward from the start
        batches.seek(step)
        found_order, found_flips = _read(batches, 14 - step)
        np.testing.assert_array_equal(found_order, order[rest])
        np.testing.assert_array_equal(found_flips, is_flipped[rest])


def test_seeds_give_orders_and_flips_of_their_own():
    orders, flips = zip(
        *(_read(TrainingBatches(_examples(60), 6, seed, flip=True), 10) for seed in (0, 1, 0)),
        strict=True,
    )
    np.testing.assert_array_equal(orders[0], orders[2])
    np.testing.assert_array_equal(flips[0], flips[2])
    assert (orders[0] != orders[1]).sum() > 40
    assert 10 < (flips[0] != flips[1]).sum() < 50


def test_flips_are_fair_and_by_position_not_by_image():
    order, is_flipped = _read(TrainingBatches(_examples(100), 20, 2, flip=True), 40)
    assert abs(is_flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(800)
    by_image = np.array([is_flipped[order == i].mean() for i in range(100)])
    # Binomial in 8 epochs: variance 1/32, and 1/4 if an image always had the same side.
    assert 0.01 < by_image.var() < 0.07
    by_epoch = is_flipped.reshape(8, 100)
    assert (by_epoch[0] != by_epoch[1]).sum() > 20


def test_flips_do_not_depend_on_the_batch_size():
    read = [_read(TrainingBatches(_examples(30), b, 3, flip=True), 60 // b) for b in (4, 10)]
    np.testing.assert_array_equal(read[0][0], read[1][0])
    np.testing.assert_array_equal(read[0][1], read[1][1])


def test_no_flip_leaves_every_image_and_the_order():
    order, is_flipped = _read(TrainingBatches(_examples(30), 4, 3, flip=False), 15)
    assert not is_flipped.any()
    np.testing.assert_array_equal(
        order, _read(TrainingBatches(_examples(30), 4, 3, flip=True), 15)[0]
    )


def test_shapes_are_those_of_a_batch_and_read_none():
    batches = TrainingBatches(_examples(30), 4, 0, flip=True)
    assert batches.shapes() == {
        "images": jax.ShapeDtypeStruct((4, 3, 2, 1), jnp.uint8),
        "labels": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    order, _ = _read(batches, 1)
    np.testing.assert_array_equal(
        order, _read(TrainingBatches(_examples(30), 4, 0, flip=True), 1)[0]
    )
    batch = next(batches)
    assert (batch["images"].dtype, batch["labels"].dtype) == (np.uint8, np.int32)


def _target(size, channels):
    return ConfigDict({"image_size": size, "channels": channels})


def _save(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def test_read_images_of_the_right_size_are_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    _save(tmp_path / "color.png", pixels)
    _save(tmp_path / "grey.png", pixels[..., 0])
    color = data.read_images(str(tmp_path / "color.png"), _target(8, 3))
    grey = data.read_images(str(tmp_path / "grey.png"), _target(8, 1))
    np.testing.assert_array_equal(color, pixels[None])
    np.testing.assert_array_equal(grey, pixels[None, ..., :1])


def test_read_images_takes_a_folder_by_name(tmp_path):
    for name, level in {"b.PNG": 20, "a.bmp": 10, "d.gif": 40, "c.png": 30}.items():
        _save(tmp_path / name, np.full((4, 4), level))
    (tmp_path / "aa.txt").write_text("not an image")
    images = data.read_images(str(tmp_path), _target(4, 1))
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(
        images, np.broadcast_to(np.array([10, 20, 30, 40])[:, None, None, None], (4, 4, 4, 1))
    )


def test_read_images_converts_channels(tmp_path):
    color = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 60, 30]]])
    _save(tmp_path / "image.png", color)
    grey = data.read_images(str(tmp_path / "image.png"), _target(2, 1))[0, ..., 0]
    luma = color @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(grey, luma, atol=1)

    _save(tmp_path / "grey.png", [[0, 100], [200, 255]])
    rgb = data.read_images(str(tmp_path / "grey.png"), _target(2, 3))[0]
    np.testing.assert_array_equal(rgb, np.array([[0, 100], [200, 255]])[..., None].repeat(3, -1))


def test_read_images_resizes_without_aliasing(tmp_path):
    """A ramp becomes the means of its blocks, and stripes become grey, away from the edges."""
    ramp = np.broadcast_to(8 * np.arange(32), (24, 32))
    stripes = np.broadcast_to(255 * (np.arange(32) % 2), (24, 32))
    _save(tmp_path / "a.png", np.stack([ramp, stripes, 0 * ramp + 77], axis=-1))
    image = data.read_images(str(tmp_path), _target(8, 3))[0].astype(int)
    assert image.shape == (8, 8, 3)
    means = 32 * np.arange(8) + 12
    np.testing.assert_allclose(image[:, 2:6, 0], np.tile(means[2:6], (8, 1)), atol=1)
    np.testing.assert_allclose(image[:, 2:6, 1], 127.5, atol=8)
    np.testing.assert_array_equal(image[..., 2], 77)


def _empty(path):
    path.mkdir()
    (path / "notes.txt").write_text("")


def _truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    _save(path.with_suffix(".png"), noise)
    path.write_bytes(path.with_suffix(".png").read_bytes()[:1000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no image or folder"),
        (_empty, "holds no images"),
        (lambda path: path.write_text("text"), "not an image that can be read"),
        (_truncated, "not an image that can be read"),
    ],
    ids=["missing", "empty", "text", "truncated"],
)
def test_read_images_errors_name_the_path_in_one_line(tmp_path, make, message):
    path = tmp_path / "input"
    make(path)
    with pytest.raises(UserError, match=message) as raised:
        data.read_images(str(path), _target(8, 3))
    assert str(path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
