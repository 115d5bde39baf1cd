"""Pixels to numbers and back, and images that a user names."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import data
from lzn_jax.data import folder
from lzn_jax.data import pixels as pixels_module
from lzn_jax.errors import UserError


def _all_pixels():
    return np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_normalise_maps_pixels_linearly_to_minus_one_and_one():
    images = pixels_module.normalise(jnp.asarray(_all_pixels()))
    assert images.dtype == jnp.float32
    np.testing.assert_allclose(images.ravel(), np.linspace(-1, 1, 256), atol=1e-7)


def test_every_pixel_value_survives_the_round_trip():
    again = pixels_module.to_uint8(pixels_module.normalise(jnp.asarray(_all_pixels())))
    assert again.dtype == jnp.uint8
    np.testing.assert_array_equal(again, _all_pixels())


def _to_uint8(values):
    return (
        pixels_module.to_uint8(jnp.asarray(values, jnp.float32).reshape(1, -1, 1, 1))
        .ravel()
        .tolist()
    )


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


def _target(size, channels):
    return ConfigDict({"image_size": size, "channels": channels})


def _save(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def test_read_images_of_the_right_size_are_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    _save(tmp_path / "color.png", pixels)
    _save(tmp_path / "grey.png", pixels[..., 0])
    color = folder.read_images(str(tmp_path / "color.png"), _target(8, 3))
    grey = folder.read_images(str(tmp_path / "grey.png"), _target(8, 1))
    np.testing.assert_array_equal(color, pixels[None])
    np.testing.assert_array_equal(grey, pixels[None, ..., :1])


def test_read_images_takes_a_folder_by_name(tmp_path):
    for name, level in {"b.PNG": 20, "a.bmp": 10, "d.gif": 40, "c.png": 30}.items():
        _save(tmp_path / name, np.full((4, 4), level))
    (tmp_path / "aa.txt").write_text("not an image")
    images = folder.read_images(str(tmp_path), _target(4, 1))
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(
        images, np.broadcast_to(np.array([10, 20, 30, 40])[:, None, None, None], (4, 4, 4, 1))
    )


def test_read_images_prepares_images_as_a_data_set_does(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    (tmp_path / "below").mkdir()
    _save(tmp_path / "below" / "a.png", pixels)
    fields = {"name": "image_folder", "path": str(tmp_path), "num_classes": 1, "class_name": None}
    fields |= {"holdout": 0, "skip_unreadable": False, "image_size": 8, "channels": 3}
    examples = data.load(ConfigDict(fields), "test")
    np.testing.assert_array_equal(folder.read_images(str(tmp_path), _target(8, 3)), examples.images)


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
        (lambda path: path.write_text("text"), "is not a readable image"),
        (_truncated, "is not a readable image"),
    ],
    ids=["missing", "empty", "text", "truncated"],
)
def test_read_images_errors_name_the_path_in_one_line(tmp_path, make, message):
    path = tmp_path / "input"
    make(path)
    with pytest.raises(UserError, match=message) as raised:
        folder.read_images(str(path), _target(8, 3))
    assert str(path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_what_is_resized_or_turned_grey_is_counted_in_one_line(tmp_path, caplog):
    colours = np.random.default_rng(0).integers(0, 256, (12, 20, 3))
    images = {"own": colours[:8, :8, 0], "grey": colours[:8, :8, :1].repeat(3, -1)}
    images |= {"colour": colours[:8, :8], "large": colours[:9, :9, 0], "wide": colours}
    for name, pixels in images.items():
        _save(tmp_path / f"{name}.png", pixels)
    with caplog.at_level("INFO", logger="lzn_jax"):
        folder.read_images(str(tmp_path), _target(8, 1))
        assert caplog.messages.pop() == (
            "of 5 images: 2 converted to grey, 1 cropped to the central square, 2 resized to 8x8"
        )
        caplog.clear()
        folder.read_images(str(tmp_path / "colour.png"), _target(8, 3))
        folder.read_images(str(tmp_path / "own.png"), _target(8, 1))
    assert caplog.messages == []
