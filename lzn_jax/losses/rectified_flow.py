"""Rectified flow from noise (t = 0) to images (t = 1): loss, sampling and inversion (paper C.1).

Time has the opposite direction of the latent flow's noise level: data are at t = 1. A velocity is a
function `velocity(x (b, ...), t (b,), condition) -> (b, ...)`, where the condition is a pytree of
arrays with leading axis b, or None.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

T_MIN = 1e-3  # smallest t in training and integration
RK45_TOLERANCE = 1e-5

Velocity = Callable[[Array, Array, Any], Array]


class Solution(NamedTuple):
    """Final states, and the number of velocity evaluations for each sample."""

    x: Float[Array, "b ..."]
    num_evaluations: Int[Array, " b"]


class Sampler(NamedTuple):
    """Integration method: 'euler' with `num_steps` uniform steps, or adaptive 'rk45'."""

    name: str
    num_steps: int


def draw(
    key: PRNGKeyArray, images: Float[Array, "b h w c"]
) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """Noise x0 ~ N(0, I) and time t ~ U(1e-3, 1) of each image; the key is consumed."""
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, images.shape, images.dtype)
    t = jax.random.uniform(time_key, images.shape[:1], images.dtype, T_MIN, 1.0)
    return noise, t


def loss(
    velocity: Velocity,
    images: Float[Array, "b h w c"],
    condition: Any,
    noise: Float[Array, "b h w c"],
    t: Float[Array, " b"],
) -> Float[Array, ""]:
    """Mean of (v(x_t, t) - (x1 - x0))² for images x1 in [-1, 1], noise x0 and times t."""
    t_b111 = t[:, None, None, None]
    x_t = t_b111 * images + (1 - t_b111) * noise
    return jnp.mean((velocity(x_t, t, condition) - (images - noise)) ** 2)


def generate(
    velocity: Velocity, noise: Float[Array, "b h w c"], condition: Any, sampler: Sampler
) -> Solution:
    """Images from noise: the flow from t = 1e-3, with the noise as its state there, to t = 1."""
    return integrate(velocity, noise, condition, sampler, T_MIN, 1.0)


def invert(
    velocity: Velocity, images: Float[Array, "b h w c"], condition: Any, sampler: Sampler
) -> Solution:
    """Noise from images: the flow from t = 1 to t = 1e-3.

    RK45 is accurate enough to extrapolate to t = 0, along the straight line through the image.
    Euler returns the state at t = 1e-3, from which `generate` starts.
    """
    solution = integrate(velocity, images, condition, sampler, 1.0, T_MIN)
    if sampler.name == "rk45":
        return solution._replace(x=(solution.x - T_MIN * images) / (1 - T_MIN))
    return solution


def integrate(
    velocity: Velocity,
    start: Float[Array, "b ..."],
    condition: Any,
    sampler: Sampler,
    t0: float,
    t1: float,
) -> Solution:
    """The flow from a state at time t0 to time t1, in either direction.

    Raises ValueError for an unknown sampler.
    """
    solvers = {"euler": _euler, "rk45": _rk45}
    if sampler.name not in solvers:
        raise ValueError(f"sampler must be one of {', '.join(solvers)}, got {sampler.name!r}")
    return solvers[sampler.name](velocity, start, condition, sampler.num_steps, t0, t1)


def _euler(
    velocity: Velocity, start: Array, condition: Any, num_steps: int, t0: float, t1: float
) -> Solution:
    dt = (t1 - t0) / num_steps

    def step(x, k):
        t = jnp.full(x.shape[:1], t0 + dt * k, x.dtype)
        return x + dt * velocity(x, t, condition), None

    x, _ = jax.lax.scan(step, start, jnp.arange(num_steps, dtype=start.dtype))
    return Solution(x, jnp.full(start.shape[:1], num_steps))


def _rk45(
    velocity: Velocity, start: Array, condition: Any, num_steps: int, t0: float, t1: float
) -> Solution:
    """Dormand-Prince 5(4) with step sizes per sample: results do not depend on the batch."""
    del num_steps  # adaptive

    def field(t, x, condition):
        batch_of_one = jax.tree.map(lambda a: a[None], condition)
        return velocity(x[None], t[None], batch_of_one)[0]

    def solve(x, condition):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri5(),
            jnp.asarray(t0, x.dtype),
            jnp.asarray(t1, x.dtype),
            None,
            x,
            condition,
            saveat=diffrax.SaveAt(t1=True),
            stepsize_controller=diffrax.PIDController(rtol=RK45_TOLERANCE, atol=RK45_TOLERANCE),
            max_steps=None,
            throw=False,  # without limits no solve fails; a check would be a Python callback
        )
        return solution.ys[0], 6 * solution.stats["num_steps"] + 1  # first same as last (FSAL)

    return Solution(*jax.vmap(solve)(start, condition))
