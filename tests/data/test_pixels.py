"""Image files of every kind to pixels, and random crops against a float64 filter."""

import io
import math
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from scipy import stats

from lzn_jax import configuration, data
from lzn_jax.data import pixels as pixels_module
from lzn_jax.data.pixels import Views, decode, fit, prepare

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def test_pixels_are_mapped_linearly_to_minus_one_and_one_and_back():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = data.normalise(jnp.asarray(pixels))
    assert images.dtype == jnp.float32
    np.testing.assert_allclose(images.ravel(), np.linspace(-1, 1, 256), atol=1e-7)
    again = data.to_uint8(images)
    assert again.dtype == jnp.uint8
    np.testing.assert_array_equal(again, pixels)


def test_to_uint8_clips_and_rounds_halves_to_even():
    def to_uint8(values):
        images = jnp.asarray(values, jnp.float32).reshape(1, -1, 1, 1)
        return data.to_uint8(images).ravel().tolist()

    halves = np.arange(255) + 0.5
    values = (halves / 127.5 - 1).astype(np.float32)
    # Only where float32 arithmetic arrives at the half itself.
    is_half = (values + np.float32(1)) * np.float32(127.5) == halves
    floor = np.floor(halves)[is_half].astype(int)
    assert {0, 1} == set((floor % 2).tolist())
    assert to_uint8(values[is_half]) == (floor + floor % 2).tolist()
    assert to_uint8([-1.01, -7.0, -np.inf, 1.01, 7.0, np.inf]) == [0, 0, 0, 255, 255, 255]


def _file(image, kind="PNG", **options):
    content = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(content, kind, **options)
    return content.getvalue()


def _colors():
    """A smooth image, 24 wide and 16 high."""
    x, y = np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 16))
    return (255 * np.stack([x, y, 1 - x], axis=-1)).round().astype(np.uint8)


RGB = Image.fromarray(_colors())


@pytest.mark.parametrize(
    ("encoded", "tolerance"),
    [
        (_file(RGB), 0),
        (_file(RGB, "JPEG", quality=95, subsampling=0), 8),
        (_file(RGB, "WEBP", lossless=True), 0),
        (_file(RGB, "BMP"), 0),
        (_file(RGB.convert("CMYK"), "JPEG", quality=95), 8),
        (_file(RGB.quantize(255)), 16),
    ],
    ids=["png", "jpeg", "webp", "bmp", "cmyk", "palette"],
)
def test_color_of_any_mode_comes_out_as_rgb_and_as_grey(encoded, tolerance):
    image, grey = decode(encoded, 3), decode(encoded, 1)
    assert (image.mode, grey.mode) == ("RGB", "L")
    np.testing.assert_allclose(np.asarray(image, int), _colors(), atol=tolerance)
    luma = _colors() @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(np.asarray(grey, int), luma, atol=tolerance + 1)


GREY = np.arange(256, dtype=np.uint8).reshape(8, 32)
DEEP = np.arange(256, dtype=np.uint16).reshape(8, 32) * 257
ROUNDED = DEEP + np.where(GREY < 255, 128, 0).astype(np.uint16)


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (_file(GREY), GREY),
        (_file(Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (32, 8), 255)])), GREY),
        (_file(DEEP), GREY),
        (_file(DEEP, "TIFF"), GREY),
        (_file(ROUNDED), GREY),
        (_file(ROUNDED + (GREY < 255)), GREY + (GREY < 255)),  # 129 of 257 are nearer to the next
        (_file(Image.fromarray(GREY).convert("1", dither=0)), 255 * (GREY > 127)),
    ],
    ids=["L", "LA", "I;16 png", "I;16 tiff", "down", "up", "1"],
)
def test_grey_of_any_depth_comes_out_as_grey_and_as_rgb(encoded, expected):
    np.testing.assert_array_equal(np.asarray(decode(encoded, 1)), expected)
    np.testing.assert_array_equal(np.asarray(decode(encoded, 3)), np.dstack([expected] * 3))


PALETTE = RGB.quantize(255)
SHADES = np.arange(24 * 16, dtype=np.uint8).reshape(16, 24)


@pytest.mark.parametrize(
    ("encoded", "colours", "alpha"),
    [
        (_file(np.dstack([_colors(), SHADES])), _colors(), SHADES),
        (_file(RGB.convert("RGBA"), "WEBP", lossless=True), _colors(), 255 + 0 * SHADES),
        (
            _file(Image.merge("LA", [Image.fromarray(SHADES.T), Image.fromarray(SHADES.T)])),
            np.dstack([SHADES.T] * 3),
            SHADES.T,
        ),
        (_file(RGB, transparency=(0, 0, 255)), _colors(), 255 * (_colors() != [0, 0, 255]).any(-1)),
        (
            _file(PALETTE, transparency=3),
            np.asarray(PALETTE.convert("RGB")),
            255 * (np.asarray(PALETTE) != 3),
        ),
        (
            _file(PALETTE, transparency=bytes(range(255))),
            np.asarray(PALETTE.convert("RGB")),
            np.asarray(PALETTE),
        ),
    ],
    ids=["RGBA", "opaque", "LA", "one colour", "one index", "palette"],
)
def test_transparent_pixels_are_composited_over_white(encoded, colours, alpha):
    """In float64."""
    share = (alpha / 255)[..., None]
    expected = share * colours + (1 - share) * 255
    np.testing.assert_allclose(np.asarray(decode(encoded, 3)), expected, atol=1)
    luma = expected @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(np.asarray(decode(encoded, 1)), luma, atol=2)


@pytest.mark.parametrize(("level", "ground"), [(255, 0), (245, 0), (200, 255), (0, 255)])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_white_on_transparency_is_on_black(mode, level, ground):
    """It would vanish on white. Hidden colours do not count."""
    image = Image.new(mode, (10, 10), (255 - level, 0) if mode == "LA" else (9, 9, 9, 0))
    stroke = (level, 255) if mode == "LA" else (level, level, level, 255)
    image.paste(stroke, (2, 2, 5, 8))
    expected = np.full((10, 10), ground)
    expected[2:8, 2:5] = level
    for channels in (1, 3):
        pixels = np.asarray(decode(_file(image), channels)).reshape(10, 10, channels)
        np.testing.assert_array_equal(pixels, expected[..., None].repeat(channels, 2))
    assert pixels_module.has_alpha(_file(image))
    assert not pixels_module.has_alpha(_file(image.convert("RGB")))


def test_one_transparent_level_of_16_bits_becomes_white():
    deep = Image.fromarray(np.repeat(np.uint16([[257, 20 * 257]]), 8, 0))
    pixels = np.asarray(decode(_file(deep, transparency=257), 1))
    np.testing.assert_array_equal(pixels, np.repeat([[255, 20]], 8, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    """EXIF: where row 0 and column 0 of the stored image are in the picture, 1 ... 8."""
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    rows, columns, turned = upright[::-1], upright[:, ::-1], np.rot90(upright)
    # Of 6, row 0 is the right side: show it turned clockwise.
    stored = [upright, columns, rows[:, ::-1], rows, upright.T, turned]
    stored += [columns[::-1].T, turned[::-1, ::-1]]
    stored = stored[orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = _file(np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(encoded, 1)), upright)


def _noise(height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "it is empty"),
        (b"just text", "its format is unknown"),
        (_file(_noise(64, 64, 3))[:1000], "truncated"),
        (_file(_noise(64, 64, 3), "JPEG")[:-30], "truncated"),
        (_file(np.ones((4, 4), np.float32), "TIFF"), "more than 16 bits"),
        (_file(np.ones((4, 4), np.int32), "TIFF"), "more than 16 bits"),
    ],
    ids=["empty", "text", "png", "jpeg", "float32", "int32"],
)
def test_what_is_no_whole_image_is_an_error_with_a_reason(encoded, reason, fault_of):
    for read in (lambda: decode(encoded, 1), lambda: decode(encoded, 3), lambda: _views(encoded)):
        assert reason in fault_of(read=read)


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
    enlarged = fit(Image.fromarray(np.full((2, 3), 9, np.uint8)), 5)
    np.testing.assert_array_equal(enlarged, np.full((5, 5, 1), 9))


def test_a_crop_of_224_pixels_from_256_needs_no_interpolation():
    pixels = _noise(256, 300, 3)
    imagenet = configuration.load("configs/imagenet_repr.py").data
    np.testing.assert_array_equal(prepare(_file(pixels), imagenet), pixels[16:240, 38:262])
    whole = ConfigDict({"image_size": 256, "channels": 3})
    np.testing.assert_array_equal(prepare(_file(pixels), whole), pixels[:, 22:278])


def _boxes(count, width, height, area=AREA, ratio=RATIO):
    """Boxes, their widths and their heights."""
    rng, draw = np.random.default_rng(0), pixels_module.draw_box
    boxes = np.array([draw(rng, width, height, area=area, ratio=ratio) for _ in range(count)])
    return boxes, boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


def test_boxes_lie_inside_with_area_and_ratio_in_range():
    boxes, w, h = _boxes(5000, 500, 375)
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 500
    assert boxes[:, 3].max() <= 375
    pixel = 1 / np.minimum(w, h)  # rounding of each side is at most half a pixel
    assert ((w * h) / (500 * 375) > 0.08 * (1 - 2 * pixel)).all()
    assert (w / h > 3 / 4 * (1 - 2 * pixel)).all()
    assert (w / h < 4 / 3 * (1 + 2 * pixel)).all()
    _, w, h = _boxes(200, 400, 400, area=(0.1, 0.2), ratio=(2.0, 2.5))  # width over height
    np.testing.assert_array_less(1.9, w / h)


def test_areas_are_uniform_and_ratios_log_uniform():
    """Where every box fits at the first try, so that nothing is drawn again."""
    _, w, h = _boxes(5000, 4000, 4000, area=(0.1, 0.5))
    areas, ratios = w * h / 4000**2, w / h
    assert stats.kstest(areas, stats.uniform(0.1, 0.4).cdf).pvalue > 0.01
    log_ratio = stats.uniform(math.log(3 / 4), math.log(16 / 9))
    assert stats.kstest(np.log(ratios), log_ratio.cdf).pvalue > 0.01
    # This many draws tell a uniform ratio apart.
    assert stats.kstest(ratios, stats.uniform(3 / 4, 7 / 12).cdf).pvalue < 1e-4
    assert abs(stats.pearsonr(areas, np.log(ratios)).statistic) < 0.05
    # Squares that do not fit are drawn again: areas are uniform below 400² / (600 · 400).
    _, w, h = _boxes(4000, 600, 400, ratio=(1.0, 1.0))
    assert stats.kstest(w * h / 240_000, stats.uniform(0.08, 2 / 3 - 0.08).cdf).pvalue > 0.01
    np.testing.assert_array_equal(w, h)


def test_positions_are_uniform_and_reach_both_edges():
    boxes, w, h = _boxes(4000, 9, 7, area=(0.4, 0.4), ratio=(1.0, 1.0))
    assert set(zip(w, h, strict=True)) == {(5, 5)}  # lefts 0-4, uppers 0-2
    counts = Counter(map(tuple, boxes[:, :2]))
    assert set(counts) == {(x, y) for x in range(5) for y in range(3)}
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (100, 10, (43, 0, 56, 10)),  # 13 = round(10 · 4/3)
        (10, 100, (0, 43, 10, 56)),
        (12, 10, (0, 0, 12, 10)),
    ],
    ids=["wide", "high", "within"],
)
def test_after_ten_misses_the_box_is_the_largest_in_the_centre(width, height, expected):
    for area in ((100.0, 200.0), (1e-9, 1e-8)):  # too large, and smaller than a pixel
        rng, untouched = np.random.default_rng(0), np.random.default_rng(0)
        assert pixels_module.draw_box(rng, width, height, area=area, ratio=RATIO) == expected
        untouched.random(20)  # an area and a ratio for each of ten tries
        assert rng.random() == untouched.random()


def _views(image, seed=0, size=8, channels=3):
    return Views(size, channels, 0.08)(image, np.random.default_rng(seed))["views"]


def _triangle_resize(pixels, size):
    """Antialiased linear interpolation in float64: a triangle of the coarser grid's step."""

    def weights(length):
        step = length / size
        centres = (np.arange(size) + 0.5) * step
        w = 1 - np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(step, 1.0)
        w = np.clip(w, 0, None)
        return w / w.sum(1, keepdims=True)

    rows, columns = weights(pixels.shape[0]), weights(pixels.shape[1])
    return np.einsum("uh,hwc,vw->uvc", rows, pixels.astype(float), columns, optimize=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "size"), [(75, 100, 24), (28, 28, 28), (8, 8, 20)])
@pytest.mark.parametrize("resizer", [pixels_module.cykooz_resizer, None], ids=["SIMD", "Pillow"])
def test_views_are_boxes_resized_with_antialiasing(
    resizer, height, width, size, channels, monkeypatch
):
    monkeypatch.setattr(pixels_module, "cykooz_resizer", resizer)
    image = _noise(height, width, channels)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        views = _views(image, seed, size, channels)
        assert views.dtype == np.uint8
        assert views.shape == (2, size, size, channels)
        for view in views:
            box = pixels_module.draw_box(rng, width, height, area=AREA, ratio=RATIO)
            left, upper, right, lower = box
            expected = _triangle_resize(image[upper:lower, left:right], size)
            np.testing.assert_allclose(view, expected, atol=1.01)  # rounded once in each direction


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("orientation", [6, 9], ids=["to turn by 90 degrees", "unknown"])
@pytest.mark.parametrize(
    ("form", "options", "tolerance"),
    [("PNG", {}, 0), ("JPEG", {"quality": 98}, 5)],  # a wrong turn makes it 60
)
def test_views_are_those_of_the_upright_image(form, options, tolerance, orientation, size):
    """Boxes, too, and the fraction at which a file that lies on its side is decoded."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(_noise(4, 5, 3)).resize((640, 427), 3)  # smooth
    upright = stored.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else stored
    sources = _file(stored, form, exif=exif, **options), np.asarray(upright)
    views, expected = (_views(source, 0, size).astype(int) for source in sources)
    assert np.abs(views - expected).mean() <= tolerance
    assert np.abs(views[0] - views[1]).mean() > 2


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size_lying_or_not(monkeypatch):
    decoded, upright = [], pixels_module._upright

    def look(file, channels):
        decoded.append(file.size)
        return upright(file, channels)

    monkeypatch.setattr(pixels_module, "_upright", look)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(_noise(4, 5, 3)).resize((1280, 320), 3)
    _views(_file(stored, "JPEG", exif=exif))
    _views(_file(stored.transpose(Image.Transpose.ROTATE_270), "JPEG"))
    assert decoded == [(160, 40), (40, 160)]


def test_files_of_cameras_and_opaque_images_are_not_odd():
    """Phones write JPEG files with further images (MPO), named .jpg."""
    settings, image = ConfigDict({"image_size": 8, "channels": 3}), Image.fromarray(_noise(9, 9, 3))
    several = _file(image, "MPO", save_all=True, append_images=[image])
    assert pixels_module.oddities(several, "a.jpg", settings) == []
    assert pixels_module.oddities(_file(image.convert("RGBA"), "PNG"), "a.png", settings) == []
    assert pixels_module.oddities(_file(image, "PNG"), "unnamed", settings) == []
