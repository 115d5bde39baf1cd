"""Texts of all pictures: none leaves its picture, names are those of the classes."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from lzn_jax import plots
from lzn_jax.plots import style

LONG = ("WWWWWWWWWWWWWWWW", "another_one")


def _pictures_of_two(path):
    """Draws each picture of images, of two images and two classes with long names."""
    images, labels = np.full((2, 4, 4, 3), (30, 10, 60), np.uint8), np.arange(2)
    points, classes = np.random.default_rng(0).normal(size=(20, 5)), np.arange(20) % 2
    texts, half = np.array([*LONG]), np.full(2, 0.5)
    plots.sample_grid(path, images, labels, LONG, "Samples from the prior, a row a class")
    plots.reconstructions(path, images[:1], images[:1], half[:1])
    plots.interpolation(path, images, images[:1], half[:1])
    plots.predictions(path, images, labels, half, labels[::-1], class_names=LONG)
    plots.translations(path, images, texts, "From image to label")
    plots.tasks(path, [("image to label", images, texts), ("prior to image", None, images)])
    plots.retrieval(path, [(LONG[0], [images[0]], [True]), (images[1], [LONG[1]], [False])])
    plots.latent_zones(path, points, points, classes, points[:2], class_names=LONG)
    plots.tsne(path, points, classes, LONG)


@pytest.mark.parametrize("credit", ["", "Drawings by people, under a licence: " + 250 * "a"])
def test_no_text_leaves_its_picture_or_covers_another_in_a_sheet(credit, tmp_path, monkeypatch):
    boxes, draw = {}, Text.draw

    def keep(text, renderer):
        if text.get_text().strip():
            extent = text.get_window_extent(renderer).extents
            boxes.setdefault(text.get_figure(), {})[text] = tuple(extent)
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", keep)
    with style.credited(credit):
        _pictures_of_two(tmp_path / "a.png")
    assert len(boxes) == 9
    for number, (figure, texts) in enumerate(boxes.items()):
        written = " ".join(text.get_text() for text in texts)
        assert credit in written
        assert number in (1, 2) or "another_one" in written
        for x0, y0, x1, y1 in texts.values():
            assert -1 <= x0 <= x1 <= figure.bbox.x1 + 1
            assert -1 <= y0 <= y1 <= figure.bbox.y1 + 1
        for (a, b, c, d), (x0, y0, x1, y1) in itertools.combinations(texts.values(), 2):
            assert number > 6 or x0 >= c or a >= x1 or y0 >= d or b >= y1


def test_a_credit_is_below_the_axes_and_only_where_it_is_asked_for(tmp_path):
    with style.credited("by an author"):
        figure = style.new_figure(2.0, 2.0)
        axes = figure.subplots()
        style.save(figure, tmp_path / "credited.png")
    other = style.new_figure(2.0, 2.0)
    style.save(other, tmp_path / "other.png")
    (credit,) = figure.texts
    assert credit.get_text() == "by an author"
    assert axes.get_tightbbox().y0 - credit.get_window_extent().y1 > 0.1 * style.DPI
    assert other.texts == []


def test_names_that_are_numbers_are_called_classes():
    names = ["7", "cat"]
    assert [style.class_name(label, names) for label in (-1, 0, 1)] == ["", "class 7", "cat"]
    assert style.class_name(3, None) == "class 3"
