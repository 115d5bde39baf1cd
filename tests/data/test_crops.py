"""Random resized crops against a float64 filter and distributions, and image files of all kinds."""

import io
import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from scipy import stats
from sklearn.datasets import load_sample_images

from lzn_jax.data import pixels as pixels_module
from lzn_jax.data.pixels import UnreadableImageError, decode

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def _noise(height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _file(image, form="PNG", **options):
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _boxes(count, width, height, area=AREA, ratio=RATIO):
    rng = np.random.default_rng(0)
    return np.array(
        [pixels_module.draw_box(rng, width, height, area=area, ratio=ratio) for _ in range(count)]
    )


def _sides(boxes):
    return boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


def test_boxes_lie_inside_with_area_and_ratio_in_range():
    boxes = _boxes(5000, 500, 375)
    w, h = _sides(boxes)
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 500
    assert boxes[:, 3].max() <= 375
    pixel = 1 / np.minimum(w, h)  # rounding of each side is at most half a pixel
    assert ((w * h) / (500 * 375) > 0.08 * (1 - 2 * pixel)).all()
    assert (w / h > 3 / 4 * (1 - 2 * pixel)).all()
    assert (w / h < 4 / 3 * (1 + 2 * pixel)).all()


def test_small_areas_are_uniform_and_ratios_log_uniform():
    """Where every box fits at the first try, so that nothing is drawn again."""
    w, h = _sides(_boxes(5000, 4000, 4000, area=(0.1, 0.5)))
    areas, ratios = w * h / 4000**2, w / h
    assert stats.kstest(areas, stats.uniform(0.1, 0.4).cdf).pvalue > 0.01
    log_ratio = stats.uniform(math.log(3 / 4), math.log(16 / 9))
    assert stats.kstest(np.log(ratios), log_ratio.cdf).pvalue > 0.01
    # The alternative that a uniform ratio would be is told apart by this many draws.
    assert stats.kstest(ratios, stats.uniform(3 / 4, 7 / 12).cdf).pvalue < 1e-4
    assert abs(stats.pearsonr(areas, np.log(ratios)).statistic) < 0.05


def test_ratio_is_width_over_height():
    w, h = _sides(_boxes(200, 400, 400, area=(0.1, 0.2), ratio=(2.0, 2.5)))
    np.testing.assert_array_less(1.9, w / h)


def test_redrawn_areas_follow_rejection_sampling():
    """In a wide image large boxes are often too high: their share is that of all fitting pairs."""
    w, h = _sides(_boxes(4000, 600, 400, ratio=(1.0, 1.0)))
    # A square fits where area <= 400² / (600 · 400), so areas are uniform below that.
    assert stats.kstest(w * h / 240_000, stats.uniform(0.08, 2 / 3 - 0.08).cdf).pvalue > 0.01
    np.testing.assert_array_equal(w, h)


def test_positions_are_uniform_and_reach_both_edges():
    boxes = _boxes(4000, 9, 7, area=(0.4, 0.4), ratio=(1.0, 1.0))  # 5 x 5: lefts 0-4, uppers 0-2
    assert set(map(tuple, np.stack(_sides(boxes), -1))) == {(5, 5)}
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
        rng = np.random.default_rng(0)
        assert pixels_module.draw_box(rng, width, height, area=area, ratio=RATIO) == expected
        untouched = np.random.default_rng(0)
        untouched.random(20)  # an area and a ratio for each of ten tries
        assert rng.random() == untouched.random()


def _triangle_resize(pixels, size):
    """Antialiased linear interpolation in float64: a triangle of the coarser grid's step."""

    def weights(length):
        step = length / size
        support = max(step, 1.0)
        centres = (np.arange(size) + 0.5) * step
        w = 1 - np.abs(np.arange(length) + 0.5 - centres[:, None]) / support
        w = np.clip(w, 0, None)
        return w / w.sum(1, keepdims=True)

    rows, columns = weights(pixels.shape[0]), weights(pixels.shape[1])
    return np.einsum("uh,hwc,vw->uvc", rows, pixels.astype(float), columns, optimize=True)


def _crop(image, rng, size, **options):
    return pixels_module.random_views(
        image, rng, size, channels=image.shape[2], count=1, **options
    )[0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "size"), [(75, 100, 24), (28, 28, 28), (8, 8, 20)])
def test_crop_is_its_box_resized_with_antialiasing(height, width, size, channels):
    image = _noise(height, width, channels)
    for seed in range(10):
        box_rng, rng = np.random.default_rng(seed), np.random.default_rng(seed)
        left, upper, right, lower = pixels_module.draw_box(
            box_rng, width, height, area=AREA, ratio=RATIO
        )
        crop = _crop(image, rng, size)
        assert crop.dtype == np.uint8
        expected = _triangle_resize(image[upper:lower, left:right], size)
        np.testing.assert_allclose(crop, expected, atol=1.01)  # rounded once in each direction
    assert rng.random() == box_rng.random()


def _smooth(height, width):
    return np.asarray(Image.fromarray(_noise(4, 5, 3)).resize((width, height), 3))


def _pixels(raw, channels):
    image = decode(raw, channels)
    return np.asarray(image).reshape(image.height, image.width, channels)


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("orientation", [6, 9], ids=["to turn by 90 degrees", "unknown"])
@pytest.mark.parametrize(
    ("form", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("JPEG", {"quality": 98}, 5),  # a wrong turn makes it 60
    ],
)
def test_views_are_those_of_the_upright_image(form, options, tolerance, orientation, size):
    """Boxes, too, and the fraction at which a file that lies on its side is decoded."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(_smooth(427, 640))
    raw = _file(stored, form, exif=exif, **options)
    upright = stored.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else stored
    views, expected = (
        pixels_module.random_views(source, np.random.default_rng(0), size, channels=3).astype(int)
        for source in (raw, np.asarray(upright))
    )
    assert np.abs(views - expected).mean() <= tolerance


def test_a_file_is_decoded_once_for_all_views(monkeypatch):
    decoded = []
    load_end = PngImagePlugin.PngImageFile.load_end
    monkeypatch.setattr(
        PngImagePlugin.PngImageFile,
        "load_end",
        lambda image: decoded.append(image) or load_end(image),
    )
    pixels_module.random_views(
        _file(_noise(40, 50, 3)), np.random.default_rng(0), 8, channels=3, count=3
    )
    assert len(decoded) == 1


@pytest.mark.parametrize("broken", ["text", "truncated", "float"])
def test_what_is_no_image_is_an_error(broken):
    raw = {
        "text": b"text",
        "truncated": _file(_noise(64, 64, 3), "JPEG")[:900],
        "float": _file(np.zeros((4, 4), np.float32), "TIFF"),
    }[broken]
    with pytest.raises(UnreadableImageError) as raised:
        pixels_module.random_views(raw, np.random.default_rng(0), 8, channels=3)
    assert len(str(raised.value).splitlines()) == 1


def test_two_views_are_two_crops_of_the_decoded_image():
    """A file whose crops are too small to be decoded at a fraction: the same to the bit."""
    raw = _file(_smooth(375, 500), "JPEG", quality=90)
    for channels in (1, 3):
        rng, again = np.random.default_rng(3), np.random.default_rng(3)
        views = pixels_module.random_views(raw, rng, 224, channels=channels)
        image = _pixels(raw, channels)
        boxes = [pixels_module.draw_box(again, 500, 375, area=AREA, ratio=RATIO) for _ in range(2)]
        assert views.shape == (2, 224, 224, channels)
        for view, (left, upper, right, lower) in zip(views, boxes, strict=True):
            expected = _triangle_resize(image[upper:lower, left:right], 224)
            np.testing.assert_allclose(view, expected, atol=1.01)
        assert np.abs(views[0].astype(int) - views[1]).mean() > 2


@pytest.mark.parametrize("size", [16, 32, 64])
def test_photographs_decoded_at_a_fraction_give_nearly_the_same_views(size):
    """640 x 427 pixels allow 1/2 to 1/8, but only where the smaller of the crops does."""
    differences = []
    for photograph in load_sample_images().images:
        raw = _file(photograph, "JPEG", quality=92)
        full = _file(_pixels(raw, 3))  # PNG: never decoded at a fraction
        for seed in range(10):
            views, expected = (
                pixels_module.random_views(
                    r, np.random.default_rng(seed), size, channels=3, area=(0.05, 1.0)
                ).astype(int)
                for r in (raw, full)
            )
            differences.append(np.abs(views - expected).mean())
    assert 0 < max(differences) < 0.9


def test_views_are_functions_of_the_generator():
    raw = _file(_noise(50, 60, 3))
    first, again, other = (
        pixels_module.random_views(raw, np.random.default_rng(seed), 8, channels=3)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9
