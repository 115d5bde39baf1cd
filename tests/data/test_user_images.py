"""Images that a user names: found, adapted to those of a data set, and counted."""

import io
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


def _digits(**fields):
    return ConfigDict({"image_size": 8, "channels": 1, "crop_to_ink": True, **fields})


def _encoded(image):
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def _stroke(mode, ground, ink, box=(30, 10, 40, 50), size=(90, 60)):
    """A bar of ink in a wide frame."""
    image = Image.new(mode, size, ground)
    image.paste(ink, box)
    return _encoded(image)


# A bar of 10 x 40 pixels fills the height of 8 pixels and two of its eight columns.
BAR = np.zeros((8, 8, 1), np.uint8)
BAR[:, 3:5] = 255


@pytest.mark.parametrize(
    "encoded",
    [
        _stroke("L", 0, 255),
        _stroke("L", 255, 0),
        _stroke("L", 200, 140),  # stretched to full contrast
        _stroke("RGB", (255, 255, 255), (20, 20, 20)),
        _stroke("LA", (0, 0), (0, 255)),
        _stroke("LA", (0, 0), (255, 255)),
        _stroke("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)),
        _stroke("RGBA", (255, 255, 255, 0), (0, 0, 0, 255)),
        _stroke("L", 0, 255, (80, 0, 90, 40)),  # at the edge
    ],
)
def test_a_digit_is_cut_to_its_ink_whatever_its_background_and_margins(encoded):
    """A closed form: the box filter averages whole blocks of five pixels."""
    image, changes = user_images.read_image(encoded, _digits(), is_light=False)
    np.testing.assert_array_equal(image, BAR)
    assert "cropped to the ink" in changes
    light, _ = user_images.read_image(encoded, _digits(), is_light=True)
    np.testing.assert_array_equal(light, 255 - BAR)


@pytest.mark.parametrize("scale", [1, 6])
def test_dust_and_strong_noise_are_no_ink(scale):
    """Specks as dark as the stroke, and noise of a deviation of 30 levels in a large scan."""
    levels = np.full((60, 90), 220, np.uint8)
    levels[10:50, 30:40] = 20
    levels = levels.repeat(scale, 0).repeat(scale, 1)
    dusty = levels.copy()
    dusty[3 * scale, 80 * scale] = dusty[55 * scale, 4 * scale] = 0
    image, _ = user_images.read_image(_encoded(Image.fromarray(dusty)), _digits(), False)
    np.testing.assert_allclose(image, BAR, atol=30)
    if scale > 1:
        noise = np.random.default_rng(0).normal(0, 30, levels.shape)
        noisy = np.clip(levels + noise, 0, 255).astype(np.uint8)
        image, _ = user_images.read_image(_encoded(Image.fromarray(noisy)), _digits(), False)
        assert np.abs(image.astype(int) - BAR).mean() < 30


def test_noise_is_no_ink_and_an_image_without_ink_stays_whole():
    rng, levels = np.random.default_rng(0), np.zeros((60, 90), np.uint8)
    levels[10:50, 30:40] = 255
    levels[0, 0] = 100  # a faint speck in the corner
    noisy = np.clip(levels + rng.normal(0, 20, levels.shape), 0, 255).astype(np.uint8)
    image, _ = user_images.read_image(_encoded(Image.fromarray(noisy)), _digits(), False)
    assert np.abs(image.astype(int) - BAR).max() < 30
    blank, changes = user_images.read_image(_encoded(Image.new("L", (9, 9), 250)), _digits())
    assert (blank == 250).all()
    assert changes == ["resized to 8x8"]


@pytest.mark.parametrize(
    ("field", "is_light", "expected"),
    [(None, False, BAR), (None, None, 255 - BAR), (False, False, 255 - BAR), (True, None, BAR)],
)
def test_inversion_is_said_and_can_be_chosen(field, is_light, expected):
    """Of dark ink on white. Data of no usual background keep the background as given."""
    settings = _digits(invert_input=field)
    image, changes = user_images.read_image(_stroke("L", 255, 0), settings, is_light)
    np.testing.assert_array_equal(image, expected)
    assert any(each.startswith("inverted") for each in changes) == (expected is BAR)


def test_photographs_stay_whole_and_transparent_ones_are_on_white():
    image, changes = user_images.read_image(
        _stroke("RGBA", (10, 20, 30, 0), (255, 255, 0, 255)), _target(60, 3), None
    )
    assert tuple(image[0, 0]) == (255, 255, 255)
    assert tuple(image[30, 18]) == (255, 255, 0)
    assert changes == ["composited over white", "cropped to the central square",
                       "resized to 60x60"]  # fmt: skip


def test_the_object_has_its_share_of_the_frame():
    """Half of the frame: four of eight rows."""
    bar = Image.open(io.BytesIO(_stroke("RGB", (255, 255, 255), (0, 0, 0))))
    image, _ = user_images.adapt(bar, _digits(), False, share=0.5)
    np.testing.assert_array_equal(image.sum((1, 2)) > 0, [False] * 2 + [True] * 4 + [False] * 2)
    assert image.max() == 127  # two columns are half covered


def test_a_thumbnail_shows_the_whole_picture_as_given():
    small = np.asarray(user_images.thumbnail(_stroke("LA", (0, 0), (255, 255)), 90))
    assert small.shape == (90, 90, 3)
    assert (small[0] == 128).all()
    assert (small[16:74, 2] == 0).all()  # a light stroke is on black
    assert (small[45, 35] == 255).all()


def test_thin_strokes_become_a_pixel_wide_and_wide_ones_stay():
    """A ring, whose width is measured by its area. The square filter adds more along diagonals."""
    y, x = np.mgrid[:200, :200] - 99.5
    radius = np.hypot(x, y)

    def width(image):
        return (np.asarray(image) > 127).sum() / (2 * np.pi * 80)

    rings = {w: Image.fromarray(np.uint8(255 * (np.abs(radius - 80) < w / 2))) for w in (5, 40)}
    assert width(user_images.thickened(rings[5], 25.0)) == pytest.approx(
        5 + 20 * 4 / np.pi, rel=0.1
    )
    assert width(user_images.thickened(rings[40], 25.0)) == width(rings[40])
    pen = Image.new("L", (3000, 3000), 255)
    pen.paste(0, (1400, 500, 1420, 2500))  # a photograph of a pen's stroke
    image, _ = user_images.read_image(_encoded(pen), _digits(), False)
    assert image.astype(int).sum(axis=1).min() > 190  # over two columns
