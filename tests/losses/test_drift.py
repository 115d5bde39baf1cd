"""The drift against a loop over samples in float64, and against what it must be by theory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.losses import sets
from lzn_jax.losses.sets import TEMPERATURES

drift_loss = jax.jit(sets.drift_loss)


@functools.partial(jax.jit, static_argnames="temperature")
def drift(x, y, *, temperature):
    """The drift of x at one temperature, with all distances divided by their mean."""
    distances, scale = sets._distances(x, y)
    return sets._field(x / scale, y / scale, -distances / temperature)


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("loss", sets.SET_LOSSES.values())
def test_pairs_may_exceed_32_bits(loss):
    many = jax.ShapeDtypeStruct((50_000, 3), jnp.float32)
    assert jax.eval_shape(loss, many, many).shape == ()


def by_loops(x, y, temperature):
    """Equations of the paper, sample by sample; the mean distance and the field."""
    x, y = np.float64(x), np.float64(y)
    b, m = len(x), len(y)
    stack = np.concatenate([x, y])
    distance = np.array([[np.linalg.norm(a - c) for c in stack] for a in x])
    allowed = ~np.eye(b, b + m, dtype=bool)
    scale = distance[allowed].mean()
    kernel = np.where(allowed, np.exp(-distance / scale / temperature), 0)
    field = np.zeros_like(x)
    for i in range(b):
        a = np.array(
            [
                np.sqrt(kernel[i, j] / kernel[i].sum() * kernel[i, j] / kernel[:, j].sum())
                for j in range(b + m)
            ]
        )
        near, far = a[b:], a[:b]
        field[i] = far.sum() * (near @ y) / scale - near.sum() * (far @ x) / scale
    return scale, field


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_is_the_definition(temperature):
    x, y = arrays((6, 3), (9, 3))
    _, expected = by_loops(x, y + 1, temperature)
    np.testing.assert_allclose(drift(x, y + 1, temperature=temperature), expected, atol=1e-5)


def test_the_loss_has_the_sum_of_normalised_fields_as_gradient():
    x, y = arrays((6, 3), (9, 3))
    value, gradient = jax.jit(jax.value_and_grad(drift_loss))(x, y)
    total = 0
    for temperature in TEMPERATURES:
        scale, field = by_loops(x, y, temperature)
        total = total + field / np.sqrt(np.mean(field**2))
    np.testing.assert_allclose(value, np.mean(total**2), rtol=1e-4)
    np.testing.assert_allclose(gradient, -2 * total / total.size / scale, rtol=1e-3, atol=1e-5)


def test_sets_in_front_are_compared_one_by_one():
    x, y = arrays((4, 6, 3), (4, 9, 3))
    each = [drift_loss(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(drift_loss(x, y), each, rtol=1e-5)


def test_the_mean_drift_of_draws_from_one_distribution_is_0():
    x, y = arrays((20000, 5, 2), (20000, 5, 2))
    found = np.asarray(drift(x, y, temperature=0.2))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(np.mean(found, axis=0)) < 4.5 * error)
    shifted = np.asarray(drift(x, y + 0.5, temperature=0.2))
    assert np.all(np.mean(shifted, axis=0) > 10 * error)


def test_drift_leads_to_the_nearest_mode_and_not_to_the_mean_of_all():
    noise, near = arrays((100, 2), (8, 2))
    y = np.repeat(np.float32([[-4, 0], [4, 0]]), 50, axis=0) + 0.1 * noise
    start = np.float32([-1.5, 1])
    found = np.asarray(drift(start + 0.1 * near, y, temperature=0.05))
    direction = np.float32([-4, 0]) - start  # the mean of all is on the other side
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(direction)
    assert np.all(found @ direction / norms > 0.99)


def test_equal_samples_have_a_finite_gradient():
    x = np.ones((4, 3), np.float32)
    gradient = jax.jit(jax.grad(drift_loss))(x, x)
    assert np.all(np.isfinite(gradient))
