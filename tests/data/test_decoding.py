"""Image files of every kind to 8-bit pixels, and files that are broken."""

import io
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from lzn_jax import configuration
from lzn_jax.data.pixels import UnreadableImageError, decode, fit, prepare

IMAGENET = Path(__file__).parents[2] / "configs" / "imagenet_repr.py"


def _encoded(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def _colors():
    """A smooth image, 24 wide and 16 high."""
    x, y = np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 16))
    return (255 * np.stack([x, y, 1 - x], axis=-1)).round().astype(np.uint8)


def _luma(colors):
    return colors @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


RGB = Image.fromarray(_colors())
OPAQUE = np.dstack([_colors(), np.full((16, 24), 255, np.uint8)])
HALF_OPAQUE = np.dstack([_colors(), np.full((16, 24), 100, np.uint8)])


@pytest.mark.parametrize(
    ("encoded", "tolerance"),
    [
        (_encoded(RGB), 0),
        (_encoded(RGB, "JPEG", quality=95, subsampling=0), 8),
        (_encoded(RGB, "WEBP", lossless=True), 0),
        (_encoded(RGB, "BMP"), 0),
        (_encoded(RGB.convert("CMYK"), "JPEG", quality=95), 8),
        (_encoded(Image.fromarray(OPAQUE)), 0),
        (_encoded(Image.fromarray(HALF_OPAQUE)), 0),
        (_encoded(RGB.quantize(256)), 16),
        (_encoded(RGB.quantize(255), transparency=3), 16),
        (_encoded(RGB.quantize(255), transparency=bytes(range(255))), 16),
    ],
)
def test_color_of_any_mode_comes_out_as_rgb_and_as_grey(encoded, tolerance):
    image = decode(encoded, 3)
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image, int), _colors(), atol=tolerance)
    grey = decode(encoded, 1)
    assert grey.mode == "L"
    np.testing.assert_allclose(np.asarray(grey, int), _luma(_colors()), atol=tolerance + 1)


GREY = np.arange(256, dtype=np.uint8).reshape(8, 32)
DEEP = np.arange(256, dtype=np.uint16).reshape(8, 32) * 257


@pytest.mark.parametrize(
    "encoded",
    [
        _encoded(Image.fromarray(GREY)),
        _encoded(Image.merge("LA", [Image.fromarray(GREY)] * 2)),
        _encoded(Image.fromarray(DEEP)),
        _encoded(Image.fromarray(DEEP), "TIFF"),
    ],
    ids=["L", "LA", "I;16 png", "I;16 tiff"],
)
def test_grey_of_any_depth_comes_out_as_grey_and_as_rgb(encoded):
    np.testing.assert_array_equal(np.asarray(decode(encoded, 1)), GREY)
    np.testing.assert_array_equal(np.asarray(decode(encoded, 3)), GREY[..., None].repeat(3, -1))


def test_sixteen_bits_are_rounded_to_the_nearest_level():
    levels = np.array([[0, 128, 129, 257 * 7 + 128, 257 * 7 + 129, 65535]], np.uint16)
    image = decode(_encoded(Image.fromarray(levels)), 1)
    assert np.asarray(image).tolist() == [[0, 0, 1, 7, 8, 255]]


def test_black_and_white_becomes_0_and_255():
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert np.asarray(decode(_encoded(image), 1)).tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    """EXIF: where row 0 and column 0 of the stored image are in the picture, 1 ... 8."""
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),  # row 0 is the right side: show it turned clockwise
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = _encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(encoded, 1)), upright)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def _with_wrong_bits(encoded):
    return encoded[:1000] + bytes([encoded[1000] ^ 1]) + encoded[1001:]


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "it is empty"),
        (b"just text", "its format is unknown"),
        (_encoded(NOISE)[:1000], "truncated"),
        (_encoded(NOISE)[:20], "."),
        (_with_wrong_bits(_encoded(NOISE)), "."),
        (_encoded(NOISE, "JPEG")[:2000], "truncated"),
        (_encoded(NOISE, "JPEG")[:-30], "truncated"),
        (_encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "more than 16 bits"),
        (_encoded(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"), "more than 16 bits"),
    ],
    ids=["empty", "text", "png", "header", "crc", "jpeg", "jpeg_end", "float32", "int32"],
)
def test_what_is_no_whole_image_is_an_error_with_a_reason(encoded, reason):
    for channels in (1, 3):
        with pytest.raises(UnreadableImageError, match=reason) as raised:
            decode(encoded, channels)
        assert len(str(raised.value).splitlines()) == 1


def test_fit_leaves_an_image_of_the_right_size_alone():
    np.testing.assert_array_equal(fit(NOISE, 64), np.asarray(NOISE))
    assert fit(NOISE.convert("L"), 64).shape == (64, 64, 1)


@pytest.mark.parametrize("is_wide", [True, False])
def test_fit_takes_the_middle_square_without_aliasing(is_wide):
    """A ramp becomes the means of its blocks, and stripes become grey, away from the edges."""
    along = np.arange(40)
    ramp, stripes = 6 * along, 255 * (along % 2)
    pixels = np.broadcast_to(np.stack([ramp, stripes, 0 * ramp + 77], -1), (32, 40, 3))
    if not is_wide:
        pixels = pixels.swapaxes(0, 1)
    found = fit(Image.fromarray(np.ascontiguousarray(pixels, np.uint8)), 8).astype(int)
    if not is_wide:
        found = found.swapaxes(0, 1)
    means = ramp[4:36].reshape(8, 4).mean(axis=1)
    np.testing.assert_allclose(found[:, 1:7, 0], np.tile(means[1:7], (8, 1)), atol=1)
    np.testing.assert_allclose(found[:, 1:7, 1], 127.5, atol=8)
    np.testing.assert_array_equal(found[..., 2], 77)


def test_a_crop_of_224_pixels_from_256_needs_no_interpolation():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 300, 3), np.uint8)
    content = _encoded(Image.fromarray(pixels))
    imagenet = configuration.load(str(IMAGENET)).data
    np.testing.assert_array_equal(prepare(content, imagenet), pixels[16:240, 38:262])
    whole = ConfigDict({"image_size": 256, "channels": 3})
    np.testing.assert_array_equal(prepare(content, whole), pixels[:, 22:278])


def test_fit_enlarges_small_images():
    found = fit(Image.fromarray(np.full((2, 3, 3), 9, np.uint8)), 5)
    np.testing.assert_array_equal(found, np.full((5, 5, 3), 9))
