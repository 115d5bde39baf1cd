"""The drift against a loop over samples in float64, and against what it must be by theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.losses.sets import TEMPERATURES, Guidance, drift, drift_loss


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


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
    value, gradient = jax.value_and_grad(lambda x: drift_loss(x, y))(x)
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
    found = np.asarray(jax.jit(lambda x, y: drift(x, y, temperature=0.2))(x, y))
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(np.mean(found, axis=0)) < 4.5 * error)
    shifted = np.asarray(drift(x, y + 0.5, temperature=0.2))
    assert np.all(np.mean(shifted, axis=0) > 10 * error)


def test_drift_leads_to_the_nearest_mode_and_not_to_the_mean_of_all():
    noise, near = arrays((100, 2), (8, 2))
    y = jnp.repeat(jnp.array([[-4.0, 0.0], [4.0, 0.0]]), 50, axis=0) + 0.1 * noise
    start = jnp.array([-1.5, 1.0])
    found = drift(start + 0.1 * near, y, temperature=0.05)
    direction = jnp.array([-4.0, 0.0]) - start  # the mean of all is on the other side
    norms = jnp.linalg.norm(found, axis=1) * jnp.linalg.norm(direction)
    assert np.all(np.asarray(found @ direction / norms) > 0.99)


def test_a_permutation_of_the_samples_permutes_their_drift():
    x, y = arrays((6, 3), (9, 3))
    order = np.random.default_rng(1).permutation(6)
    found = drift(x[order], y[::-1], temperature=0.1)
    np.testing.assert_allclose(found, drift(x, y, temperature=0.1)[order], atol=1e-6)


def test_at_a_high_temperature_the_drift_is_that_of_means():
    x, y = arrays((6, 3), (9, 3))
    found = drift(x, y + 2, temperature=1e6)
    scale, _ = by_loops(x, y + 2, 1.0)
    others = (jnp.sum(x, axis=0) - x) / 5
    attraction, repulsion = 9 / np.sqrt(14 * 6), 5 / np.sqrt(14 * 5)
    expected = attraction * repulsion * (jnp.mean(y + 2, axis=0) - others) / scale
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_equal_samples_have_a_finite_gradient():
    gradient = jax.grad(lambda x: drift_loss(x, jnp.ones((4, 3))))(jnp.ones((4, 3)))
    assert np.all(np.isfinite(gradient))


def guided_by_loops(x, y, conditions, alpha, temperature):
    """As `by_loops` among samples of a condition; all y repel, alpha - 1 times as much as x."""
    scale, _ = by_loops(x, y, 1.0)
    x, y = np.float64(x) / scale, np.float64(y) / scale
    count, field = len(x), np.zeros_like(x)
    is_same = conditions[:, None] == conditions
    to_x = np.linalg.norm(x[:, None] - x, axis=-1) / temperature
    to_y = np.linalg.norm(x[:, None] - y, axis=-1) / temperature
    near_x = np.where(is_same & ~np.eye(count, dtype=bool), np.exp(-to_x), 0)
    every_y, near_y = np.exp(-to_y), np.where(is_same, np.exp(-to_y), 0)
    for i in range(count):
        weight = (alpha - 1) * (np.sum(is_same[i]) - 1) / count
        total = near_x[i].sum() + weight * every_y[i].sum() + near_y[i].sum()
        far = np.sqrt(near_x[i] / total * near_x[i] / near_x.sum(axis=0))
        any_y = weight * np.sqrt(every_y[i] / total * every_y[i] / every_y[is_same[i]].sum(axis=0))
        near = np.sqrt(near_y[i] / total * near_y[i] / near_y.sum(axis=0))
        repelled = far @ x + any_y @ y
        field[i] = (far.sum() + any_y.sum()) * (near @ y) - near.sum() * repelled
    return field


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_guidance_compares_samples_of_a_condition_and_repels_by_all_real_ones(alpha):
    x, y = arrays((7, 3), (7, 3))
    conditions = np.array([0, 1, 0, 1, 1, 0, 1])
    guidance = Guidance(jnp.asarray(conditions[:, None] == conditions), jnp.asarray(alpha))
    found = drift(x, y + 1, temperature=0.3, guidance=guidance)
    expected = guided_by_loops(x, y + 1, conditions, alpha, 0.3)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    value = drift_loss(x, y + 1, temperatures=(0.3,), guidance=guidance)
    assert float(value) == pytest.approx(1, rel=1e-4)  # one field over its root mean square
    gradient = jax.grad(lambda x: drift_loss(x, y + 1, temperatures=(0.3,), guidance=guidance))(x)
    angle = np.sum(gradient * expected) / np.linalg.norm(gradient) / np.linalg.norm(expected)
    assert angle == pytest.approx(-1, abs=1e-4)


def test_the_guided_drift_is_0_for_the_tilted_distribution():
    # Of two points, a condition has the first with 3/4 and all data with 1/2: guided by 2, always.
    alpha, temperature, repeats = 2.0, 0.5, 200
    y = jnp.tile(jnp.array([[0.0], [0.0], [0.0], [1.0], [0.0], [1.0], [1.0], [1.0]]), (repeats, 1))
    conditions = jnp.tile(jnp.array([0, 0, 0, 0, 1, 1, 1, 1]), repeats)
    guidance = Guidance(conditions[:, None] == conditions, jnp.asarray(alpha))
    for first, sign in ((1.0, 0), (0.75, -1)):
        rows = jnp.arange(4 * repeats) < first * 4 * repeats
        own = jnp.where(rows, 0.0, 1.0)
        x = jnp.zeros((8 * repeats, 1)).at[conditions == 0, 0].set(own)
        x = x.at[conditions == 1, 0].set(1 - own)
        found = drift(x, y, temperature=temperature, guidance=guidance)
        mean = float(jnp.mean(jnp.where(conditions == 0, found[:, 0], -found[:, 0])))
        assert abs(mean) < 1e-3 if sign == 0 else sign * mean > 5e-3, (first, mean)


def test_a_sample_alone_with_its_condition_has_a_finite_drift():
    x, y = arrays((4, 3), (4, 3))
    guidance = Guidance(jnp.eye(4, dtype=bool), jnp.asarray(2.0))
    gradient = jax.grad(lambda x: drift_loss(x, y, guidance=guidance))(x)
    assert np.all(np.isfinite(gradient))
