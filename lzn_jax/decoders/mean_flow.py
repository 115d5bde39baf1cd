"""MeanFlow (Geng et al., arXiv:2505.13447): loss, sampler and the image decoder."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lzn_jax import parts
from lzn_jax.data_types import Batch, Condition, Keys, Loss
from lzn_jax.decoders import flow
from lzn_jax.decoders.flow import FlowDecoder
from lzn_jax.models import Tree, Variables, named
from lzn_jax.parts import choice, count, knobs

INSTANT_SHARE = 0.5  # share of the pairs with s = t, where u is the velocity itself
# Exponent of 1 / (squared error + 1e-3), which weights an image in the loss (its table 1).
WEIGHT_POWER = 0.75

MeanVelocity = Callable[[Array, Array, Array, Tree], Array]  # (x, t, s, condition) -> u


def draw_ends(key: PRNGKeyArray, t: Float[Array, " b"]) -> Float[Array, " b"]:
    """Time s of each image: equal to t for a share INSTANT_SHARE, else uniform in [0, 1]."""
    s_key, equal_key = jax.random.split(key)
    is_equal = jax.random.bernoulli(equal_key, INSTANT_SHARE, t.shape)
    return jnp.where(is_equal, t, jax.random.uniform(s_key, t.shape))


def loss(
    mean_velocity: MeanVelocity,
    samples: Float[Array, "b ..."],
    condition: Tree,
    noise: Float[Array, "b ..."],
    t: Float[Array, " b"],
    s: Float[Array, " b"],
) -> Float[Array, ""]:
    """Mean over samples of the weighted squared error of u at x_t (its algorithm 1)."""
    axes = tuple(range(1, samples.ndim))
    share, between = (jnp.expand_dims(each, axes) for each in (t, t - s))
    x_t, velocity = share * samples + (1 - share) * noise, samples - noise

    def u(x, t):
        return mean_velocity(x, t, s, condition)

    found, derivative = jax.jvp(u, (x_t, t), (velocity, jnp.ones_like(t)))
    target = jax.lax.stop_gradient(velocity - between * derivative)
    squares = jnp.mean((found - target) ** 2, axis=axes)
    weights = jax.lax.stop_gradient(squares + 1e-3) ** -WEIGHT_POWER
    return jnp.mean(weights * squares)


def integrate(
    mean_velocity: MeanVelocity,
    start: Float[Array, "b ..."],
    condition: Tree,
    num_steps: int,
    t0: float,
    t1: float,
) -> Float[Array, "b ..."]:
    """State at time t1 from the state at t0, in uniform steps of one evaluation each."""
    times = jnp.linspace(t0, t1, num_steps + 1)

    def step(x, pair):
        t, s = (jnp.full(x.shape[:1], each, x.dtype) for each in pair)
        return x + (pair[1] - pair[0]) * mean_velocity(x, t, s, condition), None

    return jax.lax.scan(step, start, (times[:-1], times[1:]))[0]


class MeanFlowDecoder(FlowDecoder):
    """MeanFlow from noise to images in one or few evaluations, conditioned on the latent."""

    def init(self, key: PRNGKeyArray, condition: Condition) -> Tree:
        t = jnp.zeros(1)
        return super().init(key, _with_times(condition, t, t))

    def loss(self, variables: Variables, batch: Batch, condition: Condition, keys: Keys) -> Loss:
        """MeanFlow's loss in training mode, with keys for the flow and dropout."""
        (flow_key, dropout_key), network = keys, self.in_training()

        def velocity(x, t, s, condition):
            condition = _with_times(condition, t, s)
            return network(variables[self.network], dropout_key, x, 0 * t, *condition)

        images, condition, noise, t = self.draw(batch, condition, flow_key)
        s = draw_ends(named(flow_key, "ends"), t)
        return loss(velocity, images, condition, noise, t, s)

    def solve(
        self, variables: Variables, start: Array, condition: Condition, *, inverse: bool = False
    ) -> flow.Solution:
        ends, num_steps = (1.0, 0.0) if inverse else (0.0, 1.0), self.sampler.num_steps
        x = integrate(self.mean_velocity(variables), start, condition, num_steps, *ends)
        return flow.Solution(x, jnp.full(len(x), num_steps))

    def mean_velocity(self, variables: Variables) -> MeanVelocity:
        """Mean velocity at inference, as a function of x_t, t, s and the condition."""
        network = super().velocity(variables)
        return lambda x, t, s, condition: network(x, 0 * t, _with_times(condition, t, s))

    def velocity(self, variables: Variables) -> flow.Velocity:
        mean = self.mean_velocity(variables)
        return lambda x, t, condition: mean(x, t, t, condition)


def _with_times(condition: Condition, t: Array, s: Array) -> Condition:
    """The condition, with slow waves of the times t and s - t appended to the latents.

    The derivative of the networks' own time embedding reaches 1000 and would enter MeanFlow's
    target. The networks are therefore called at time 0.
    """
    latents, beside = condition
    angles = jnp.pi / 2 * jnp.arange(1, 9) * jnp.stack([t, s - t], axis=-1)[..., None]
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)]).swapaxes(0, 1).reshape(len(t), -1)
    return latents, waves if beside is None else jnp.concatenate([beside, waves], axis=1)


_MEAN_FLOW = {
    "sampling.sampler": choice("solver of the decoder's flow", "euler"),
    "sampling.num_steps": count("steps of the sampler", 1),
}
for _name, (_network, _check) in flow.NETWORKS.items():
    _fields = knobs(_network, "decoder") | _MEAN_FLOW
    parts.add(
        "decoder",
        f"mean_{_name}",
        (_network, MeanFlowDecoder.from_config),
        _fields,
        check=_check,
        owner=__name__,
    )
