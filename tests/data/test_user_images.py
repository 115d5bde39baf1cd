"""Images that a user names: found, adapted to those of a data set, and counted."""

import re

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import data
from lzn_jax.data import user_images
from lzn_jax.data.folder import file_names


def _target(size, channels):
    return ConfigDict({"image_size": size, "channels": channels})


def test_a_user_names_a_folder_or_an_image_prepared_as_those_of_a_data_set(folder_of, tmp_path):
    config = folder_of("b.PNG", "below/a.bmp", "c.gif", "d.png")
    (tmp_path / "aa.txt").write_text("not an image")
    wide = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(wide).save(tmp_path / "d.png")
    for config.image_size, config.channels in ((8, 3), (2, 1)):
        files = user_images.find_images(str(tmp_path), _target(config.image_size, config.channels))
        expected = data.load(config, "test").images[:]
        np.testing.assert_array_equal(user_images.read_images(files), expected)
        assert file_names(files) == [
            str(tmp_path / name) for name in ("b.PNG", "below/a.bmp", "c.gif", "d.png")
        ]
        alone = user_images.find_images(str(tmp_path / "d.png"), _target(*files.shape[2:]))
        np.testing.assert_array_equal(user_images.read_images(alone), expected[3:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no image or folder"),
        ("", "holds no images"),
        (b"text", r"unreadable images \(1\): .*input \(its format is unknown\)$"),
    ],
)
def test_an_image_that_is_none_is_named_in_one_line(tmp_path, fault_of, content, message):
    path = tmp_path / "input"
    if content == "":
        path.mkdir()
        (path / "notes.txt").write_text("")
    elif content:
        path.write_bytes(content)
    line = fault_of(
        read=lambda: user_images.read_images(user_images.find_images(str(path), _target(8, 3)))
    )
    assert re.search(message, line)
    assert str(path) in line


def test_what_is_resized_or_turned_grey_is_counted_in_one_line(tmp_path, caplog):
    colours = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    images = {"own": colours[:8, :8, 0], "grey": colours[:8, :8, :1].repeat(3, -1)}
    images |= {"colour": colours[:8, :8], "large": colours[:9, :9, 0], "wide": colours}
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    with caplog.at_level("INFO", logger="lzn_jax"):
        user_images.read_images(user_images.find_images(str(tmp_path), _target(8, 1)))
        assert caplog.messages.pop() == (
            "of 5 images: 2 converted to grey, 1 cropped to the central square, 2 resized to 8x8"
        )
        caplog.clear()
        for name, channels in (("colour.png", 3), ("own.png", 1)):
            user_images.read_images(
                user_images.find_images(str(tmp_path / name), _target(8, channels))
            )
    assert caplog.messages == []
