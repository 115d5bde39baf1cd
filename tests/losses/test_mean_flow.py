"""MeanFlow against flows whose average velocity is known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lzn_jax.decoders import mean_flow

SHAPE = (6, 2, 3, 1)


def images_and_noise():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, *SHAPE)).astype(np.float32)


def straight(x, t, s, condition):
    """Average velocity if all images are 0.5: paths are straight, x = 0.5 t + (1 - t) noise."""
    noise = (x - 0.5 * t[:, None, None, None]) / (1 - t[:, None, None, None])
    return 0.5 - noise


@pytest.mark.parametrize("is_vector", [False, True])
def test_the_average_velocity_of_straight_paths_has_no_loss_at_any_times(is_vector):
    _, noise = images_and_noise()
    t, s = np.float32(np.linspace(0.1, 0.8, 6)), np.float32(np.linspace(0.9, 0.0, 6))

    def of_vectors(x, *times):
        return straight(x[..., None, None], *times)[..., 0, 0]

    velocity, noise = (of_vectors, noise[:, 0, :, 0]) if is_vector else (straight, noise)
    loss_of = jax.jit(functools.partial(mean_flow.loss, velocity))
    value = loss_of(np.full(noise.shape, 0.5, np.float32), None, noise, t, s)
    assert float(value) < 1e-8


def test_the_target_is_the_velocity_minus_the_interval_times_the_derivative_along_the_flow():
    images, noise = images_and_noise()
    t, s = np.float32(np.linspace(0.1, 0.9, 6)), np.float32(np.linspace(0.5, 0.1, 6))
    t_b111, s_b111 = (each[:, None, None, None] for each in (t, s))

    def u(x, t, s, condition):
        t, s = (each[:, None, None, None] for each in (t, s))
        return condition * x**2 + jnp.sin(3 * t) * s

    loss = jax.jit(jax.value_and_grad(functools.partial(mean_flow.loss, u), argnums=1))
    found, gradient = loss(images, 0.7, noise, t, s)
    x, v = t_b111 * images + (1 - t_b111) * noise, images - noise
    derivative = 0.7 * 2 * x * v + 3 * np.cos(3 * t_b111) * s_b111
    error = np.asarray(u(x, t, s, 0.7)) - (v - (t_b111 - s_b111) * derivative)
    squares = np.mean(error**2, axis=(1, 2, 3))
    weights = (squares + 1e-3) ** -mean_flow.WEIGHT_POWER
    np.testing.assert_allclose(found, np.mean(weights * squares), rtol=1e-5)
    # The gradient passes through u alone, not through the target or the weights.
    by_hand = np.mean(weights * np.mean(2 * error * x**2, axis=(1, 2, 3)))
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_straight_paths_are_followed_in_any_number_of_steps(num_steps):
    _, noise = images_and_noise()
    integrate = jax.jit(mean_flow.integrate, static_argnums=(0, 3, 4, 5))
    middle = integrate(straight, noise, None, num_steps, 0.0, 0.6)
    np.testing.assert_allclose(middle, 0.6 * 0.5 + 0.4 * noise, atol=1e-6)
    again = integrate(straight, middle, None, num_steps, 0.6, 0.0)
    np.testing.assert_allclose(again, noise, atol=1e-5)


def test_times_are_equal_for_half_and_else_in_either_order():
    t = np.random.default_rng(1).random(40_000, np.float32)
    s = np.asarray(jax.jit(mean_flow.draw_ends)(jax.random.key(0), t))
    assert np.mean(t == s) == pytest.approx(0.5, abs=0.01)
    assert np.mean(s > t) == pytest.approx(0.25, abs=0.01)
    assert np.mean(s < t) == pytest.approx(0.25, abs=0.01)
    for each in (t, s):
        assert np.mean(each) == pytest.approx(0.5, abs=0.01)
        assert 0 <= np.min(each) < 0.01 < 0.99 < np.max(each) <= 1
