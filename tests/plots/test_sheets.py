"""Sheets show every sample at its place, with its pixels unchanged."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from lzn_jax.plots import sheets, style

NAMES = ("zero", "one")


def _pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def _solid(*numbers):
    """An image of one colour for each number; texts are grey, so they never have these."""
    colors = np.array([(4 * number + 2, 10, 60) for number in numbers], np.uint8)
    return np.broadcast_to(colors[:, None, None], (len(numbers), 8, 8, 3))


def _shown(path):
    """Numbers of the solid images in rows, each from left to right."""
    picture = _pixels(path)
    at = np.argwhere((picture[..., 1:] == (10, 60)).all(axis=-1))
    reds = picture[tuple(at.T)][:, 0]
    corners = {red // 4: tuple(at[reds == red].min(axis=0)) for red in np.unique(reds).tolist()}
    assert all(np.sum(reds == red) == 96**2 for red in np.unique(reds))
    tops = sorted({top for top, _ in corners.values()})
    row = {top: [n for n, corner in corners.items() if corner[0] == top] for top in tops}
    return [sorted(row[top], key=lambda n: corners[n][1]) for top in tops]


def test_a_sample_is_drawn_alone_in_its_colours():
    def draw(sample, axes):
        axes.set_facecolor(sample)
        if sample == "lime":
            axes.plot([0, 1], [0, 1], linewidth=9)

    images = sheets.drawn(draw, ["lime", "red"])
    assert (images.shape, images.dtype) == ((2, 180, 240, 3), np.uint8)
    for image, lines in zip(images, [1, 0], strict=True):
        line = np.rint(255 * np.array(to_rgb(style.PALETTE[0])))
        assert np.any((image == line).all(axis=-1)) == lines
    np.testing.assert_array_equal(images[:, 60, 100], [[0, 255, 0], [255, 0, 0]])
    assert (images[:, :3] == 255).all()  # a white margin
    assert sheets.drawn(draw, []).shape == (0, 180, 240, 3)


def _texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text()]


LABELS = np.array([3, 0, 1, 0, 3, 3, 0, 3])
TEN, SHARES = list(range(10)), np.linspace(0, 1, 61)
OTHER = (np.arange(61) == 0).astype(int)
# The function, its arguments, the rows of images, and some of the texts.
SHEETS = {
    "grid": (
        lambda path: sheets.sample_grid(path, _solid(*range(8)), LABELS, columns=3),
        [[1, 3, 6], [2], [0, 4, 5]],
        {"class 0", "class 1", "class 3"},
    ),
    "grid of one class": (
        lambda path: sheets.sample_grid(path, _solid(*range(5)), 0 * LABELS[:5], NAMES, columns=3),
        [[0, 1, 2], [3, 4]],
        {"zero"},
    ),
    "reconstructions": (
        lambda path: sheets.reconstructions(
            path, _solid(*range(11)), _solid(*range(20, 31)), SHARES[:11] * 60
        ),
        [TEN, list(range(20, 30)), [10], [30]],
        {"real", "reconstructed", "3.00", "10.00"},
    ),
    "interpolation": (
        lambda path: sheets.interpolation(path, _solid(7, 3), _solid(5, 1, 6), SHARES[::30]),
        [[7, 5, 1, 6, 3]],
        {"real", "0", "0.5", "1"},
    ),
    "predictions": (
        lambda path: sheets.predictions(
            path, _solid(*range(61)), 0 * OTHER, SHARES, OTHER, class_names=NAMES
        ),
        [list(range(start, start + 10)) for start in range(0, 60, 10)],
        {"zero: 0%\nis one", "zero: 50%", "zero: 98%"},
    ),
    "translations": (
        lambda path: sheets.translations(path, _solid(*range(6)), _solid(*range(10, 16)), "Title"),
        [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14], [5], [15]],
        {"Title", "In a box: output of the model"},
    ),
    "tasks": (
        lambda path: sheets.tasks(
            path, [("a to b", _solid(0, 1), ["x", "y"]), ("prior to a", None, _solid(2))]
        ),
        [[0, 1], [2]],
        {"a to b", "prior to a", "x", "y"},
    ),
    "retrieval": (
        lambda path: sheets.retrieval(
            path, [("a cat", [*_solid(5, 4)], [False, True]), (_solid(3)[0], ["a dog"], [False])]
        ),
        [[5, 4], [3]],
        {"a cat", "a dog", "→"},
    ),
}


@pytest.mark.parametrize("name", SHEETS)
def test_a_sheet_shows_every_sample_at_its_place(name, tmp_path, drawn):
    draw, rows, texts = SHEETS[name]
    assert _shown(draw(tmp_path / "a.png")) == rows
    assert texts <= set(_texts(drawn[0]))


@pytest.mark.parametrize(("size", "channels", "factor"), [(8, 1, 12), (8, 3, 12), (200, 3, 1)])
def test_images_are_enlarged_by_a_whole_factor(size, channels, factor, tmp_path):
    image = np.random.default_rng(0).integers(10, 240, (size, size, channels), dtype=np.uint8)
    image[0], image[-1], image[:, 0], image[:, -1] = 7, 7, 7, 7  # a frame to find it by
    picture = _pixels(sheets.sample_grid(tmp_path / "a.png", image[None], np.array([-1])))
    at, side = (picture == 7).all(axis=-1), factor * size
    top, left = (np.flatnonzero(at.sum(axis) >= side)[0] for axis in (1, 0))
    expected = np.broadcast_to(np.kron(image, np.ones((factor, factor, 1), int)), (side, side, 3))
    np.testing.assert_array_equal(picture[top : top + side, left : left + side], expected)


def test_boxes_are_around_what_the_key_says_and_borders_around_white_images(tmp_path, drawn):
    white = np.full((2, 8, 8, 3), 255, np.uint8)
    sheets.translations(tmp_path / "a.png", white, white, "Made")
    sheets.translations(tmp_path / "a.png", white, white, "Pairs", made=False)
    sheets.tasks(tmp_path / "a.png", [("a to b", white, ["x", "y"]), ("prior to a", None, white)])
    sheets.retrieval(tmp_path / "a.png", [(white[0], list(white), [False, True])])
    box, found = to_rgb(style.PALETTE[0]), []
    for figure in drawn:
        found.append([to_rgb(p.get_edgecolor()) == box for p in figure.axes[0].patches])
    f, t = False, True
    assert found == [[f, f, t, t], [f, f, f, f], [f, f, t, t, t, t], [f, f, t]]
    borders = (_pixels(sheets.sample_grid(tmp_path / "a.png", white, np.arange(2))) == 191).all(-1)
    assert 2 * 4 * 96 < borders.sum() < 2 * 4 * 96 * 3


def test_texts_of_any_script_and_length_are_drawn_as_they_are(tmp_path, drawn):
    texts = ["\x03\x07", "日本の旗", "", "$x$", "W" * 500]
    sheets.translations(tmp_path / "a.png", texts, texts, "$Title$")
    written = _texts(drawn[0])
    assert {"$Title$", "$x$", "日本の旗"} <= set(written)
    assert max(text.count("\n") for text in written) == 5
    assert written[-1].endswith("W…")
