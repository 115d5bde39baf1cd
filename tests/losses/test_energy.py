"""The energy distance, against a double loop in float64 and against what it must be by theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.losses.sets import SOFTENING, energy_distance, image_set_loss


def by_loops(x, y):
    """The definition, pair by pair."""
    x, y = np.float64(x), np.float64(y)

    def mean(a, b):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if i != j]
        return np.mean([np.sqrt(np.mean((a[i] - b[j]) ** 2) + SOFTENING**2) for i, j in pairs])

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def test_is_the_definition():
    x, y = arrays((7, 5), (7, 5))
    np.testing.assert_allclose(energy_distance(x, 2 * y + 1), by_loops(x, 2 * y + 1), rtol=1e-5)
    together = energy_distance(jnp.stack([x, y]), jnp.stack([y, x + 1]))
    np.testing.assert_allclose(together, [by_loops(x, y), by_loops(y, x + 1)], rtol=1e-4)


def test_rows_that_belong_together_leave_no_bias():
    # Row i of y is like row i of x, and both are N(0, 1): the sets are of one distribution.
    x, w = arrays((4000, 6, 3), (4000, 6, 3))
    found = np.asarray(energy_distance(x, 0.9 * x + np.sqrt(1 - 0.9**2) * w))
    assert np.mean(found) == pytest.approx(0, abs=4 * np.std(found) / np.sqrt(len(found)))


def test_equal_rows_have_a_finite_gradient():
    x = jnp.ones((4, 3))
    gradient = jax.grad(lambda x: energy_distance(x, jnp.ones((4, 3))))(x)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_images_are_compared_whole_and_in_all_patches():
    x, y = arrays((6, 4, 5, 2), (6, 4, 5, 2))
    found = image_set_loss(energy_distance, x, y, jax.random.key(0), patch_size=3, num_patches=99)
    patches = [
        by_loops(*(a[:, i : i + 3, j : j + 3].reshape(6, -1) for a in (x, y)))
        for i in range(2)
        for j in range(3)
    ]
    whole = by_loops(x.reshape(6, -1), y.reshape(6, -1))
    np.testing.assert_allclose(found, whole + np.mean(patches), rtol=1e-4)


def test_some_patches_are_on_average_all():
    x, y = arrays((6, 4, 4, 1), (6, 4, 4, 1))
    keys = jax.random.split(jax.random.key(0), 500)

    def some(key):
        return image_set_loss(energy_distance, x, y, key, patch_size=2, num_patches=3)

    found = np.asarray(jax.vmap(some)(keys))
    everywhere = image_set_loss(energy_distance, x, y, keys[0], patch_size=2, num_patches=9)
    assert np.std(found) > 0
    assert np.mean(found) == pytest.approx(float(everywhere), abs=4 * np.std(found) / np.sqrt(500))


def test_a_loss_between_sets_gets_generated_images_first_whole_and_in_patches():
    generated, real = jnp.full((3, 4, 4, 1), 2.0), jnp.full((3, 4, 4, 1), 5.0)

    def loss(x, y):
        return jnp.mean(x, axis=(-2, -1)) - 10 * jnp.mean(y, axis=(-2, -1))

    sizes = {"patch_size": 2, "num_patches": 3}
    found = image_set_loss(loss, generated, real, jax.random.key(0), **sizes)
    assert float(found) == 2 * (2 - 10 * 5)
