"""The energy distance, against a double loop in float64 and against what it must be by theory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.losses import sets
from lzn_jax.losses.sets import SOFTENING, image_set_loss

energy_distance = jax.jit(sets.energy_distance)


def by_loops(x, y):
    """The definition, pair by pair."""
    x, y = np.float64(x), np.float64(y)

    def mean(a, b):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if i != j]
        return np.mean([np.sqrt(np.mean((a[i] - b[j]) ** 2) + SOFTENING**2) for i, j in pairs])

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_is_the_definition():
    x, y = arrays((7, 5), (7, 5))
    np.testing.assert_allclose(energy_distance(x, 2 * y + 1), by_loops(x, 2 * y + 1), rtol=1e-5)
    together = energy_distance(np.stack([x, y]), np.stack([y, x + 1]))
    np.testing.assert_allclose(together, [by_loops(x, y), by_loops(y, x + 1)], rtol=1e-4)


def test_rows_that_belong_together_leave_no_bias():
    # Row i of y is like row i of x, and both are N(0, 1): the sets are of one distribution.
    x, w = arrays((4000, 6, 3), (4000, 6, 3))
    found = np.asarray(energy_distance(x, 0.9 * x + np.sqrt(1 - 0.9**2) * w))
    assert np.mean(found) == pytest.approx(0, abs=4 * np.std(found) / np.sqrt(len(found)))


def test_equal_rows_have_a_finite_gradient():
    x = np.ones((4, 3), np.float32)
    gradient = jax.jit(jax.grad(energy_distance))(x, x)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def whole_and_in_all_patches(x, y, size):
    """The distance of images plus the mean distance of their patches."""
    rows, columns = x.shape[1] - size + 1, x.shape[2] - size + 1
    patches = [
        by_loops(*(a[:, i : i + size, j : j + size].reshape(len(a), -1) for a in (x, y)))
        for i, j in np.ndindex(rows, columns)
    ]
    return by_loops(x.reshape(len(x), -1), y.reshape(len(y), -1)) + np.mean(patches)


def losses_of(x, y, count, **sizes):
    """Losses by the keys of a number of draws."""
    loss = functools.partial(image_set_loss, energy_distance, **sizes)
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(loss, (None, None, 0)))(x, y, keys))


def test_images_are_compared_whole_and_in_all_patches():
    x, y = arrays((6, 4, 5, 2), (6, 4, 5, 2))
    found = losses_of(x, y, 1, patch_size=3, num_patches=99)
    np.testing.assert_allclose(found, whole_and_in_all_patches(x, y, 3), rtol=1e-4)


def test_some_patches_are_on_average_all():
    x, y = arrays((6, 4, 4, 1), (6, 4, 4, 1))
    found = losses_of(x, y, 500, patch_size=2, num_patches=3)
    error = np.std(found) / np.sqrt(500)
    assert error > 0
    assert np.mean(found) == pytest.approx(whole_and_in_all_patches(x, y, 2), abs=4 * error)


def test_a_loss_between_sets_gets_generated_images_first_whole_and_in_patches():
    generated, real = (np.full((4, 4, 4, 1), level, np.float32) for level in (2, 5))

    def loss(x, y):
        return jnp.mean(x, axis=(-2, -1)) - 10 * jnp.mean(y, axis=(-2, -1))

    of_sets = functools.partial(image_set_loss, loss, patch_size=2, num_patches=4)
    found = jax.jit(of_sets)(generated, real, jax.random.key(0))
    assert float(found) == 2 * (2 - 10 * 5)
