"""Distances to the nearest training image."""

import numpy as np
import pytest

from lzn_jax.data import Examples
from lzn_jax.evaluation import samples as samples_module
from lzn_jax.evaluation.samples import nearest_training_images


def examples(images):
    return Examples(images, np.zeros(len(images), np.int32))


def images_of(count, seed, size=4):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 1), dtype=np.uint8)


def test_are_those_of_a_loop():
    train, test, samples = images_of(9, 0), images_of(5, 1), images_of(7, 2)

    def mean(images):
        a, b = (x.reshape(len(x), -1) / 127.5 for x in (images, train))
        return np.mean([min(np.linalg.norm(row - other) for other in b) for row in a])

    found = nearest_training_images(examples(train), examples(test), samples)
    expected = {"nearest": mean(samples), "nearest_of_tests": mean(test)}
    expected["nearest_ratio"] = expected["nearest"] / expected["nearest_of_tests"]
    assert found == pytest.approx(expected, rel=1e-4)


def test_where_there_are_many_some_at_even_steps_are_compared(monkeypatch):
    monkeypatch.setattr(samples_module, "MAX_COMPARED", 2)
    monkeypatch.setattr(samples_module, "MAX_TRAINING", 3)
    train, test, samples = images_of(9, 0), images_of(6, 1), images_of(8, 2)
    found = nearest_training_images(examples(train), examples(test), samples)
    expected = nearest_training_images(
        examples(train[[0, 3, 6]]), examples(test[[0, 3]]), samples[[0, 4]]
    )
    assert found == expected


def test_nothing_is_said_of_large_images():
    large = images_of(3, 0, size=33)
    assert nearest_training_images(examples(large), examples(large), large) == {}
