"""MeanFlow: the average velocity of a flow between two times (Geng et al., arXiv:2505.13447).

Time is that of `rectified_flow`: noise at t = 0, images at t = 1. The average velocity u(x, t, s)
of the flow through x at time t leads to time s in one step, x + (s - t) u(x, t, s): s = 1 samples,
s = 0 inverts. It satisfies u = v - (t - s) du/dt, with the derivative along the flow.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

INSTANT_SHARE = 0.5  # of the pairs with s = t, where u is the velocity itself
# Exponent of 1 / (squared error + 1e-3), the weight of an image in the loss (its table 1).
WEIGHT_POWER = 0.75

MeanVelocity = Callable[[Array, Array, Array, Any], Array]  # (x, t, s, condition) -> u


def draw_ends(key: PRNGKeyArray, t: Float[Array, " b"]) -> Float[Array, " b"]:
    """Time s of each image: t for a share INSTANT_SHARE, else uniform in [0, 1]."""
    s_key, equal_key = jax.random.split(key)
    is_equal = jax.random.bernoulli(equal_key, INSTANT_SHARE, t.shape)
    return jnp.where(is_equal, t, jax.random.uniform(s_key, t.shape))


def loss(
    mean_velocity: MeanVelocity,
    images: Float[Array, "b h w c"],
    condition: Any,
    noise: Float[Array, "b h w c"],
    t: Float[Array, " b"],
    s: Float[Array, " b"],
) -> Float[Array, ""]:
    """Mean over images in [-1, 1] of the weighted squared error of u at x_t (its algorithm 1)."""
    t_b111, between = (each[:, None, None, None] for each in (t, t - s))
    x_t, velocity = t_b111 * images + (1 - t_b111) * noise, images - noise

    def u(x, t):
        return mean_velocity(x, t, s, condition)

    found, derivative = jax.jvp(u, (x_t, t), (velocity, jnp.ones_like(t)))
    target = jax.lax.stop_gradient(velocity - between * derivative)
    squares = jnp.mean((found - target) ** 2, axis=(1, 2, 3))
    weights = jax.lax.stop_gradient(squares + 1e-3) ** -WEIGHT_POWER
    return jnp.mean(weights * squares)


def integrate(
    mean_velocity: MeanVelocity,
    start: Float[Array, "b h w c"],
    condition: Any,
    num_steps: int,
    t0: float,
    t1: float,
) -> Float[Array, "b h w c"]:
    """State at time t1 from the state at t0, in uniform steps of one evaluation each."""
    times = jnp.linspace(t0, t1, num_steps + 1)

    def step(x, pair):
        t, s = (jnp.full(x.shape[:1], each, x.dtype) for each in pair)
        return x + (pair[1] - pair[0]) * mean_velocity(x, t, s, condition), None

    return jax.lax.scan(step, start, (times[:-1], times[1:]))[0]
