"""Captions of digits, against arithmetic by hand and moments written out."""

import numpy as np
import pytest

from lzn_jax import configuration, data
from lzn_jax.data import digit_captions


def digits(split):
    config = configuration.load("configs/digits_text.py")
    return data.load(config.data, split)


def picture(*rows):
    return np.array([[[0 if c == "." else 255 for c in row] for row in rows]], np.uint8)[..., None]


def test_what_leans_right_has_a_positive_slant():
    right = picture("..#", ".#.", "#..")
    assert digit_captions.slant(right)[0] == pytest.approx(1.0)
    assert digit_captions.slant(right[:, :, ::-1])[0] == pytest.approx(-1.0)
    assert digit_captions.slant(picture(".#.", ".#.", ".#."))[0] == pytest.approx(0.0)
    assert digit_captions.slant(picture("...", "###", "..."))[0] == 0  # no height
    assert digit_captions.slant(picture("...", "...", "..."))[0] == 0  # nothing


def test_slant_is_the_ratio_of_second_central_moments():
    images = digits("train").images[:50]
    for image, slant in zip(
        images[..., 0].astype(float), digit_captions.slant(images), strict=True
    ):
        y, x = np.mgrid[:8, :8]
        cx, cy = (image * x).sum() / image.sum(), (image * y).sum() / image.sum()
        mu11, mu02 = (image * (x - cx) * (y - cy)).sum(), (image * (y - cy) ** 2).sum()
        assert slant == pytest.approx(-mu11 / mu02)


def test_a_value_at_a_threshold_belongs_above_it():
    ruler = digit_captions.Ruler(np.array([85.0, 170.0]), np.tile([-1.0, 1.0], (10, 1)))
    at_threshold = np.full((1, 2, 2, 1), 85, np.uint8)
    assert ruler.measure(at_threshold, np.array([0])).weight.tolist() == [1]
    assert ruler.measure(at_threshold - 1, np.array([0])).weight.tolist() == [0]
    assert ruler.measure(picture("..#", ".#.", "#.."), np.array([4])).lean.tolist() == [2]


def test_each_third_of_the_training_images_has_a_weight_and_of_each_class_a_lean():
    train = digits("train")
    parts = digit_captions.parse(train.texts)
    np.testing.assert_array_equal(parts.digit, train.labels)
    shares = np.bincount(parts.weight, minlength=3) / len(parts.weight)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.01)
    for label in range(10):
        leans = parts.lean[train.labels == label]
        np.testing.assert_allclose(np.bincount(leans, minlength=3) / len(leans), 1 / 3, atol=0.01)
    assert len(set(train.texts)) == 90
    test, thirds = digits("test"), np.quantile(train.images.mean(axis=(1, 2, 3)), [1 / 3, 2 / 3])
    weight = (test.images.mean(axis=(1, 2, 3))[:, None] >= thirds).sum(axis=1)
    np.testing.assert_array_equal(digit_captions.parse(test.texts).weight, weight)


def test_a_caption_and_its_parts_are_one_thing():
    parts = digit_captions.Parts(np.array([7, 0]), np.array([2, 0]), np.array([0, 1]))
    texts = digit_captions.compose(parts)
    assert texts.tolist() == ["a bold seven leaning left", "a thin zero standing upright"]
    for found, given in zip(digit_captions.parse(texts), parts, strict=True):
        np.testing.assert_array_equal(found, given)
    assert digit_captions.parse(["a bold seven", ""]).digit.tolist() == [-1, -1]
