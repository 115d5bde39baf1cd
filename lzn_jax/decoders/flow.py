"""Rectified flow: loss, samplers and the image decoder (paper section 3)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import parts
from lzn_jax.data import normalise, to_uint8
from lzn_jax.data_types import Batch, Condition, Keys, Loss, black_image, given
from lzn_jax.models import Variables, in_training, named, normal_by_index
from lzn_jax.models.mlp import MLPDecoder
from lzn_jax.models.ncsnpp import NCSNppDecoder, check_decoder
from lzn_jax.parts import choice, count, knobs

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
    integrate = _INTEGRATE[sampler.name]
    return integrate(velocity, noise, condition, sampler.num_steps, T_MIN, 1.0)


def invert(
    velocity: Velocity, images: Float[Array, "b h w c"], condition: Any, sampler: Sampler
) -> Solution:
    """Noise from images: the flow from t = 1 to t = 1e-3.

    RK45 is accurate enough to extrapolate to t = 0, along the straight line through the image.
    Euler returns the state at t = 1e-3, from which `generate` starts.
    """
    integrate = _INTEGRATE[sampler.name]
    solution = integrate(velocity, images, condition, sampler.num_steps, 1.0, T_MIN)
    if sampler.name == "rk45":
        return solution._replace(x=(solution.x - T_MIN * images) / (1 - T_MIN))
    return solution


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


# From a state at time t0 to time t1, in either direction.
_INTEGRATE = {"rk45": _rk45, "euler": _euler}


class ImageDecoder:
    """Base class; methods are pure functions of variables and arrays."""

    network, output, num_draws = "decoder", "images", 2

    def __init__(self, config: ConfigDict, decoder: nn.Module) -> None:
        self.config = config
        self.module: Any = decoder
        self.condition: str | None = config.decoder.condition
        self.sources: tuple[str, ...] = config.decoder.latents
        self.noise_scale: float | None = config.latent.noise_scale

    def in_training(self) -> Any:
        """The network in training mode."""
        return in_training(self.module, self.config.training.microbatch_size)

    def drop_condition(self, condition: Condition, key: PRNGKeyArray) -> Condition:
        """Sets the condition beside the latents to 0 with probability `condition_dropout`."""
        rate, (latents, beside) = self.config.decoder.condition_dropout, condition
        if rate == 0 or beside is None:
            return condition
        keep = jax.random.bernoulli(named(key, "condition"), 1 - rate, (len(beside), 1))
        return latents, beside * keep

    def invert(
        self, variables: Variables, images: UInt8[Array, "b h w c"], condition: Condition
    ) -> Float[Array, "b ..."]:
        """Noise from which the decoder generates the images."""
        raise NotImplementedError

    def images(self, variables: Variables, noise: Array, condition: Condition) -> Array:
        """Images in [-1, 1], generated from noise."""
        raise NotImplementedError

    def render(
        self, variables: Variables, noise: Float[Array, "b ..."], condition: Condition
    ) -> UInt8[Array, "b h w c"]:
        """Images generated from noise."""
        return to_uint8(self.images(variables, noise, condition))

    def reconstruct(
        self, variables: Variables, images: UInt8[Array, "b h w c"], condition: Condition
    ) -> dict[str, Array]:
        """`images` mapped to noise and back, and their l2 `errors` for pixels in [-1, 1] (C.3)."""
        again = self.images(variables, self.invert(variables, images, condition), condition)
        errors = jnp.sqrt(jnp.sum((again - normalise(images)) ** 2, axis=(1, 2, 3)))
        return {"images": to_uint8(again), "errors": errors}


class FlowDecoder(ImageDecoder):
    """Rectified flow from noise to images, conditioned on the latent (paper §3.1)."""

    def __init__(self, config: ConfigDict, decoder: nn.Module) -> None:
        super().__init__(config, decoder)
        self.sampler = Sampler(config.sampling.sampler, config.sampling.num_steps)

    def init(self, key: PRNGKeyArray, condition: Condition) -> Any:
        image = black_image(self.config)
        return self.module.init(key, image, jnp.zeros(1), *condition, train=False)

    def loss(self, variables: Variables, batch: Batch, condition: Condition, keys: Keys) -> Loss:
        """Rectified-flow loss in training mode (paper C.1); keys for the flow and dropout."""
        (flow_key, dropout_key), network = keys, self.in_training()

        def velocity(x_t, t, condition):
            return network(variables[self.network], dropout_key, x_t, t, *condition)

        return loss(velocity, *self.draw(batch, condition, flow_key))

    def draw(
        self, batch: Batch, condition: Condition, key: PRNGKeyArray
    ) -> tuple[Float[Array, "b h w c"], Condition, Float[Array, "b h w c"], Float[Array, " b"]]:
        """Images, conditions, noise and times of a batch, `training.flow_draws` for each image."""
        draws = self.config.training.flow_draws
        drawn = normalise(batch["images"]), self.drop_condition(condition, key)
        if draws > 1:
            drawn = jax.tree.map(lambda a: jnp.repeat(a, draws, axis=0), drawn)
        noise, t = draw(key, drawn[0])
        return *drawn, given(batch, "flow_noise", noise), given(batch, "flow_time", t)

    def velocity(self, variables: Variables) -> Velocity:
        """Velocity of the flow at inference, as a function of x_t, t and the condition."""

        def velocity(x_t, t, condition):
            return self.module.apply(variables[self.network], x_t, t, *condition, train=False)

        return velocity

    def solve(
        self, variables: Variables, start: Array, condition: Condition, *, inverse: bool = False
    ) -> Solution:
        """The flow from noise to images in [-1, 1], or its inverse."""
        flow = invert if inverse else generate
        return flow(self.velocity(variables), start, condition, self.sampler)

    def generate(
        self, variables: Variables, key: PRNGKeyArray, condition: Condition, index: Int[Array, " b"]
    ) -> dict[str, Array]:
        """`images`, and `num_evaluations` of the velocity that each took.

        The noise of an image depends on the key and its `index`, not on the rest of the batch.
        """
        data = self.config.data
        shape = (data.image_size, data.image_size, data.channels)
        noise = normal_by_index(key, "image_noise", index, shape)
        solution = self.solve(variables, noise, condition)
        return {"images": to_uint8(solution.x), "num_evaluations": solution.num_evaluations}

    def invert(
        self, variables: Variables, images: UInt8[Array, "b h w c"], condition: Condition
    ) -> Float[Array, "b h w c"]:
        return self.solve(variables, normalise(images), condition, inverse=True).x

    def images(self, variables: Variables, noise: Array, condition: Condition) -> Array:
        return self.solve(variables, noise, condition).x


_FLOW = {
    "sampling.sampler": choice("solver of the decoder's flow", *_INTEGRATE),
    "sampling.num_steps": count("steps of the Euler sampler", 100),
}
# Networks of decoders by flow, by name, and the check of their values.
NETWORKS = {"ncsnpp": (NCSNppDecoder, check_decoder), "mlp": (MLPDecoder, None)}
for _name, (_network, _check) in NETWORKS.items():
    _fields = knobs(_network, "decoder") | _FLOW
    parts.add("decoder", _name, (_network, FlowDecoder), _fields, check=_check)
