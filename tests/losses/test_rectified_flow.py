"""Rectified flow against velocity fields whose flow is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.decoders import flow
from lzn_jax.decoders.flow import Sampler

T_MIN = 1e-3
LENGTH = 1 - T_MIN  # of the integration
RK45 = Sampler("rk45", 1)


def _normal(count, seed=0, shape=(3, 2, 1)):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def _linear(x, t, rate):
    """dx/dt = rate x, a rate for each sample."""
    return rate[:, None, None, None] * x


def _time(x, t, condition):
    return jnp.broadcast_to(t[:, None, None, None], x.shape)


def _mixed(x, t, condition):
    """dx/dt = rate x + drift + pole / t; one function, so that RK45 compiles once a shape."""
    rate, pole = condition["rate"], condition["pole"]
    return _linear(x, t, rate) + condition["drift"] + (pole / t)[:, None, None, None]


def _condition(rate=(0.0, 0.0, 0.0), drift=0.0, pole=0.0):
    shape = (3, 3, 2, 1)
    drift = np.broadcast_to(np.float32(drift), shape)
    return {"rate": np.float32(rate), "drift": drift, "pole": np.full(3, pole, np.float32)}


_generate = jax.jit(flow.generate, static_argnums=(0, 3))
_invert = jax.jit(flow.invert, static_argnums=(0, 3))


@pytest.mark.parametrize("num_steps", [1, 4, 50])
def test_euler_multiplies_a_linear_flow_by_one_factor_a_step(num_steps):
    noise, rate = _normal(3), np.float32([-1.5, 0.0, 2.0])
    sampler = Sampler("euler", num_steps)
    growth = (1 + np.array([-1.5, 0.0, 2.0]) * LENGTH / num_steps) ** num_steps
    decline = (1 - np.array([-1.5, 0.0, 2.0]) * LENGTH / num_steps) ** num_steps

    forward = _generate(_linear, noise, rate, sampler)
    back = _invert(_linear, forward.x, rate, sampler)

    np.testing.assert_allclose(forward.x, noise * growth[:, None, None, None], rtol=1e-5)
    np.testing.assert_allclose(back.x, forward.x * decline[:, None, None, None], rtol=1e-5)
    np.testing.assert_array_equal(forward.num_evaluations, [num_steps] * 3)
    np.testing.assert_array_equal(back.num_evaluations, [num_steps] * 3)


def test_euler_takes_the_velocity_at_the_start_of_each_step():
    start, num_steps = _normal(2), 5
    dt = LENGTH / num_steps
    up = T_MIN + dt * np.arange(num_steps)
    down = 1 - dt * np.arange(num_steps)
    sampler = Sampler("euler", num_steps)

    forward = _generate(_time, start, None, sampler).x
    back = _invert(_time, start, None, sampler).x

    np.testing.assert_allclose(forward, start + dt * up.sum(), atol=2e-6)
    np.testing.assert_allclose(back, start - dt * down.sum(), atol=2e-6)


def test_rk45_follows_a_linear_flow():
    noise, rate = _normal(3), (-3.0, 0.5, 2.0)
    images = _generate(_mixed, noise, _condition(rate), RK45).x
    factor = np.exp(LENGTH * np.array(rate))[:, None, None, None]
    np.testing.assert_allclose(images, noise * factor, rtol=1e-4, atol=1e-4)


def test_rk45_starts_at_t_min_with_the_noise_as_state():
    """dx/dt = 1/t adds log(1000) from 1e-3 to 1, and is infinite at 0."""
    noise = _normal(3)
    images = _generate(_mixed, noise, _condition(pole=1.0), RK45).x
    np.testing.assert_allclose(images, noise + np.log(1000), atol=1e-3)


def test_rk45_inverse_goes_on_to_zero_along_the_line_through_the_image():
    images, rate = _normal(3), (-2.0, 0.5, 2.0)
    noise = _invert(_mixed, images, _condition(rate), RK45).x
    at_t_min = images * np.exp(-LENGTH * np.array(rate))[:, None, None, None]
    # The line moves it by up to 7e-3, far more than the tolerance.
    expected = (at_t_min - T_MIN * images) / (1 - T_MIN)
    np.testing.assert_allclose(noise, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", [RK45, Sampler("euler", 3)], ids=lambda s: s.name)
def test_a_straight_flow_is_inverted_exactly(sampler):
    noise, target = _normal(3, 0), _normal(3, 1)
    start = noise + T_MIN * (target - noise)  # the state at T_MIN
    condition = _condition(drift=target - noise)
    images = _generate(_mixed, start, condition, sampler).x
    back = _invert(_mixed, images, condition, sampler).x
    np.testing.assert_allclose(images, target, atol=1e-5)
    np.testing.assert_allclose(back, noise if sampler.name == "rk45" else start, atol=1e-5)


@pytest.mark.parametrize(("solve", "sign"), [(_generate, 1), (_invert, -1)], ids=["up", "down"])
def test_rk45_steps_of_a_sample_do_not_depend_on_the_batch(solve, sign):
    start, condition = _normal(3), _condition((0.5, -80.0 * sign, 2.0))  # the second is stiff
    batch = solve(_mixed, start, condition, RK45)
    evaluations = batch.num_evaluations.tolist()
    assert evaluations[1] > 2 * max(evaluations[0], evaluations[2])
    for i in (0, 2):
        copies = jax.tree.map(lambda a, i=i: a[[i, i, i]], (start, condition))
        alone = solve(_mixed, *copies, RK45)
        np.testing.assert_allclose(batch.x[i], alone.x[0], rtol=1e-6, atol=1e-6)
        assert evaluations[i] == int(alone.num_evaluations[0])


def test_rk45_counts_its_evaluations():
    calls: list[None] = []

    def counted(x, t, condition):
        jax.debug.callback(lambda: calls.append(None))
        return -60 * x

    solution = jax.jit(flow.generate, static_argnums=(0, 3))(counted, _normal(1), None, RK45)
    jax.block_until_ready(solution)
    jax.effects_barrier()
    # The choice of the first step may take one or two more.
    assert 0 <= len(calls) - int(solution.num_evaluations[0]) <= 2


def _loss(velocity, images, condition, seed):
    draws = flow.draw(jax.random.key(seed), images)
    return flow.loss(velocity, images, condition, *draws)


_loss_of = jax.jit(_loss, static_argnums=(0, 3))


@pytest.mark.parametrize("shape", [(12,), (4, 3), (2, 2, 3)])
def test_loss_vanishes_for_the_exact_velocity_of_one_sample(shape):
    one = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, *shape)
    samples = np.broadcast_to(one, (256, *shape))

    def exact(x, t, condition):
        return (condition - x) / (1 - t).reshape(-1, *[1] * len(shape))

    value = _loss_of(exact, samples, samples, 0)
    assert float(value) < 1e-6  # rounding, over (1 - t)²


def _still(x, t, condition):
    return 0 * x


@pytest.mark.parametrize("level", [0.0, 0.5, -1.0])
def test_loss_of_a_still_velocity_is_the_mean_squared_distance(level):
    """E (c - z)² = c² + 1, of variance 2 + 4c², for z ~ N(0, 1)."""
    images = np.full((512, 8, 8, 1), level, np.float32)
    value = _loss_of(_still, images, None, 1)
    error = np.sqrt((2 + 4 * level**2) / images.size)
    assert abs(float(value) - (level**2 + 1)) < 4 * error


def test_loss_draws_time_uniformly_and_noise_independently():
    count = 2**16
    images, seen = np.full((count, 1, 1, 1), 0.25, np.float32), []

    def record(x, t, condition):
        seen.append((x[:, 0, 0, 0], t))
        return x

    @jax.jit
    def recorded(images):
        for seed in (0, 1):
            _loss(record, images, None, seed)
        return seen

    (x, t), (_, other_t) = jax.tree.map(np.float64, recorded(images))
    assert np.float32(T_MIN) <= t.min() < 1.2 * T_MIN
    assert 1 - 2e-4 < t.max() < 1
    # Bound on the distance of the empirical distribution from the uniform one (p = 1e-5).
    ranks = (np.sort(t) - T_MIN) / LENGTH - (np.arange(count) + 0.5) / count
    assert np.abs(ranks).max() < 2.5 / np.sqrt(count)
    assert not np.array_equal(t, other_t)

    early = t < 0.99  # the division below loses precision near 1
    noise = ((x - t * 0.25) / (1 - t))[early]
    error = 1 / np.sqrt(noise.size)
    assert abs(noise.mean()) < 4 * error
    assert abs(noise.var() - 1) < 4 * np.sqrt(2) * error
    assert abs(np.corrcoef(noise, t[early])[0, 1]) < 4 * error
