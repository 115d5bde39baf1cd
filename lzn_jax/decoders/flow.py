"""Rectified flow: loss, samplers and decoders of arrays and images (paper section 3)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import normalise, to_uint8
from lzn_jax.data_types import Batch, Condition, Invertible, Keys, Loss, given
from lzn_jax.models import (
    Module,
    Network,
    Tree,
    Variables,
    image_shape,
    in_training,
    named,
    normal_by_index,
)
from lzn_jax.models.mlp import MLPDecoder
from lzn_jax.models.ncsnpp import NCSNppDecoder, check_decoder
from lzn_jax.parts import choice, count, knobs

T_MIN = 1e-3  # smallest t in training and integration
# Of `misfits`. At larger t the noisy sample itself tells more of the sample than its latent does.
MISFIT_TIME, MISFIT_DRAWS = 0.35, 4
RK45_TOLERANCE = 1e-5

Velocity = Callable[[Array, Array, Tree], Array]


class Solution(NamedTuple):
    """Final states, and the number of velocity evaluations for each sample."""

    x: Float[Array, "b ..."]
    num_evaluations: Int[Array, " b"]


class Sampler(NamedTuple):
    """Integration method: 'euler' with `num_steps` uniform steps, or adaptive 'rk45'."""

    name: str
    num_steps: int


def draw(
    key: PRNGKeyArray, samples: Float[Array, "b ..."]
) -> tuple[Float[Array, "b ..."], Float[Array, " b"]]:
    """Noise x0 ~ N(0, I) and time t ~ U(1e-3, 1) of each sample. The key is consumed."""
    noise_key, time_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, samples.shape, samples.dtype)
    t = jax.random.uniform(time_key, samples.shape[:1], samples.dtype, T_MIN, 1.0)
    return noise, t


def loss(
    velocity: Velocity,
    samples: Float[Array, "b ..."],
    condition: Tree,
    noise: Float[Array, "b ..."],
    t: Float[Array, " b"],
) -> Float[Array, ""]:
    """Mean of (v(x_t, t) - (x1 - x0))² for samples x1 of any shape, noise x0 and times t."""
    share = jnp.expand_dims(t, range(1, samples.ndim))
    x_t = share * samples + (1 - share) * noise
    return jnp.mean((velocity(x_t, t, condition) - (samples - noise)) ** 2)


def generate(
    velocity: Velocity, noise: Float[Array, "b ..."], condition: Tree, sampler: Sampler
) -> Solution:
    """Samples from noise, by the flow from the noise at t = 1e-3 to t = 1."""
    integrate = _INTEGRATE[sampler.name]
    return integrate(velocity, noise, condition, sampler.num_steps, T_MIN, 1.0)


def invert(
    velocity: Velocity, samples: Float[Array, "b ..."], condition: Tree, sampler: Sampler
) -> Solution:
    """Noise from samples, by the flow from t = 1 to t = 1e-3.

    RK45 is accurate enough to extrapolate to t = 0, along the straight line through the sample.
    Euler returns the state at t = 1e-3, from which `generate` starts.
    """
    integrate = _INTEGRATE[sampler.name]
    solution = integrate(velocity, samples, condition, sampler.num_steps, 1.0, T_MIN)
    if sampler.name == "rk45":
        return solution._replace(x=(solution.x - T_MIN * samples) / (1 - T_MIN))
    return solution


def _euler(
    velocity: Velocity, start: Array, condition: Tree, num_steps: int, t0: float, t1: float
) -> Solution:
    dt = (t1 - t0) / num_steps

    def step(x, k):
        t = jnp.full(x.shape[:1], t0 + dt * k, x.dtype)
        return x + dt * velocity(x, t, condition), None

    x, _ = jax.lax.scan(step, start, jnp.arange(num_steps, dtype=start.dtype))
    return Solution(x, jnp.full(start.shape[:1], num_steps))


def _rk45(
    velocity: Velocity, start: Array, condition: Tree, num_steps: int, t0: float, t1: float
) -> Solution:
    """Dormand-Prince 5(4) with a step size per sample, so results do not depend on the batch."""
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
            throw=False,  # without limits no solve fails, and a check would be a Python callback
        )
        return solution.ys[0], 6 * solution.stats["num_steps"] + 1  # first same as last (FSAL)

    return Solution(*jax.vmap(solve)(start, condition))


# Maps a state at time t0 to the state at time t1, in either direction.
_INTEGRATE = {"rk45": _rk45, "euler": _euler}


class ArrayDecoder(Invertible):
    """Base class of decoders to arrays of one shape. Methods are pure functions."""

    num_draws = 2  # keys: for the loss, and for dropout
    condition: str | None = None
    condition_dropout = 0.0  # probability that the condition beside the latents is 0 in training

    def __init__(
        self,
        name: str,
        module: Module,
        *,
        output: str,
        shape: tuple[int, ...],
        noise_scale: float | None = 1.0,
        microbatch_size: int | None = None,
    ) -> None:
        """Builds the decoder of type `name`. `output` is also the samples' column in a batch."""
        self.name, self.output, self.shape = name, output, shape
        self.network, self.module = f"{name}_decoder", module
        self.sources: tuple[str, ...] = (name,)
        self.noise_scale, self.microbatch_size = noise_scale, microbatch_size

    @staticmethod
    def settings(config: ConfigDict) -> dict[str, Any]:
        """Arguments that are numbers of a config."""
        microbatch_size = config.training.microbatch_size
        return {"noise_scale": config.latent.noise_scale, "microbatch_size": microbatch_size}

    def inputs(self, samples: Array) -> Array:
        """Floats from samples."""
        return samples

    def outputs(self, x: Array) -> Array:
        """Samples from floats."""
        return x

    def in_training(self) -> Network:
        """The network in training mode."""
        return in_training(self.module, self.microbatch_size)

    def drop_condition(self, condition: Condition, key: PRNGKeyArray) -> Condition:
        """Sets the condition beside the latents to 0 with probability `condition_dropout`."""
        rate, (latents, beside) = self.condition_dropout, condition
        if rate == 0 or beside is None:
            return condition
        keep = jax.random.bernoulli(named(key, "condition"), 1 - rate, (len(beside), 1))
        return latents, beside * keep

    def floats(self, variables: Variables, noise: Array, condition: Condition) -> Array:
        """Floats generated from noise."""
        raise NotImplementedError

    def render(self, variables: Variables, noise: Array, condition: Condition) -> Array:
        return self.outputs(self.floats(variables, noise, condition))

    def reconstruct(
        self, variables: Variables, samples: Array, condition: Condition
    ) -> dict[str, Array]:
        """`samples` mapped to noise and back as `output`, and l2 `errors` of their floats (C.3)."""
        again = self.floats(variables, self.invert(variables, samples, condition), condition)
        squares = (again - self.inputs(samples)) ** 2
        errors = jnp.sqrt(jnp.sum(squares, axis=tuple(range(1, squares.ndim))))
        return {self.output: self.outputs(again), "errors": errors}


class ArrayFlow(ArrayDecoder):
    """Rectified flow from noise to arrays, conditioned on the latent (paper §3.1).

    Its network is called with (x_t, t, latents, condition, train=...), like the network of images.
    """

    sampler = Sampler("euler", 50)
    draws = 1  # of noise and time for each sample in the loss

    def init(self, key: PRNGKeyArray, condition: Condition) -> Tree:
        x = jnp.zeros((1, *self.shape))
        return self.module.init(key, x, jnp.zeros(1), *condition, train=False)

    def loss(self, variables: Variables, batch: Batch, condition: Condition, keys: Keys) -> Loss:
        """Rectified-flow loss in training mode (paper C.1), with keys for the flow and dropout."""
        (flow_key, dropout_key), network = keys, self.in_training()

        def velocity(x_t, t, condition):
            return network(variables[self.network], dropout_key, x_t, t, *condition)

        return loss(velocity, *self.draw(batch, condition, flow_key))

    def draw(
        self, batch: Batch, condition: Condition, key: PRNGKeyArray
    ) -> tuple[Float[Array, "b ..."], Condition, Float[Array, "b ..."], Float[Array, " b"]]:
        """Samples as floats, conditions, noise and times of a batch, `draws` of each per sample."""
        drawn = self.inputs(batch[self.output]), self.drop_condition(condition, key)
        if self.draws > 1:
            drawn = jax.tree.map(lambda a: jnp.repeat(a, self.draws, axis=0), drawn)
        noise, t = draw(key, drawn[0])
        return *drawn, given(batch, "flow_noise", noise), given(batch, "flow_time", t)

    def velocity(self, variables: Variables) -> Velocity:
        """Velocity of the flow at inference, as a function of x_t, t and the condition."""

        def velocity(x_t, t, condition):
            return self.module.apply(variables[self.network], x_t, t, *condition, train=False)

        return velocity

    def misfits(
        self, variables: Variables, samples: Array, condition: Condition
    ) -> Float[Array, " b"]:
        """Mean squared error of the velocity at one time, for fixed noise and its negative."""
        x1, axes = self.inputs(samples), tuple(range(1, len(self.shape) + 1))
        drawn = jax.random.normal(jax.random.key(0), (MISFIT_DRAWS, *self.shape), x1.dtype)
        t = jnp.full(len(x1), MISFIT_TIME, x1.dtype)

        def of_noise(noise: Array) -> Array:
            x_t = MISFIT_TIME * x1 + (1 - MISFIT_TIME) * noise
            errors = self.velocity(variables)(x_t, t, condition) - (x1 - noise)
            return jnp.mean(errors**2, axis=axes)

        return jnp.mean(jax.lax.map(of_noise, jnp.concatenate([drawn, -drawn])), axis=0)

    def solve(
        self, variables: Variables, start: Array, condition: Condition, *, inverse: bool = False
    ) -> Solution:
        """The flow from noise to samples as floats, or its inverse."""
        flow = invert if inverse else generate
        return flow(self.velocity(variables), start, condition, self.sampler)

    def generate(
        self, variables: Variables, key: PRNGKeyArray, condition: Condition, index: Int[Array, " b"]
    ) -> dict[str, Array]:
        """Samples as `output`, and each sample's `num_evaluations` of the velocity.

        The noise of a sample depends only on the key and its `index`.
        """
        noise = normal_by_index(key, f"{self.name}_noise", index, self.shape)
        x, num_evaluations = self.solve(variables, noise, condition)
        return {self.output: self.outputs(x), "num_evaluations": num_evaluations}

    def invert(self, variables: Variables, samples: Array, condition: Condition) -> Array:
        return self.solve(variables, self.inputs(samples), condition, inverse=True).x

    def floats(self, variables: Variables, noise: Array, condition: Condition) -> Array:
        return self.solve(variables, noise, condition).x


class ImageDecoder(ArrayDecoder):
    """Base class of image decoders."""

    @classmethod
    def from_config(cls, config: ConfigDict, module: Module) -> Any:
        """The decoder with the numbers of a config."""
        made = cls(
            "image",
            module,
            output="images",
            shape=image_shape(config),
            **cls.settings(config),
        )
        made.network = "decoder"  # name in existing checkpoints
        made.condition, made.sources = config.decoder.condition, config.decoder.sources
        made.condition_dropout = config.decoder.condition_dropout
        return made

    def inputs(self, samples: UInt8[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return normalise(samples)

    def outputs(self, x: Float[Array, "b h w c"]) -> UInt8[Array, "b h w c"]:
        return to_uint8(x)


class FlowDecoder(ImageDecoder, ArrayFlow):
    """Rectified flow from noise to images."""

    @classmethod
    def from_config(cls, config: ConfigDict, module: Module) -> Any:
        made = super().from_config(config, module)
        made.sampler = Sampler(config.sampling.sampler, config.sampling.num_steps)
        made.draws = config.training.flow_draws
        return made


FIELDS = {
    "sampling.sampler": choice("solver of the decoder's flow", *_INTEGRATE),
    "sampling.num_steps": count("steps of the Euler sampler", 100),
}
# Registers networks of decoders by flow, with the check of their values.
NETWORKS = {"ncsnpp": (NCSNppDecoder, check_decoder), "mlp": (MLPDecoder, None)}
for _name, (_network, _check) in NETWORKS.items():
    _fields = knobs(_network, "decoder") | FIELDS
    parts.add(
        "decoder", _name, (_network, FlowDecoder.from_config), _fields, check=_check, owner=__name__
    )
