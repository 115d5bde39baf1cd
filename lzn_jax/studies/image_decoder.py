"""Images from latents: a rectified flow's velocity network with its loss, samples and inverse."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax.data import normalise, to_uint8
from lzn_jax.losses import rectified_flow
from lzn_jax.microbatches import in_training
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, normal_by_index

# What a velocity depends on beside image and time: latents and one-hot classes, None without.
Condition = tuple[Array | np.ndarray | None, Array | np.ndarray | None]


class ImageDecoder:
    """The image decoder of a config, as pure functions of variables and arrays."""

    def __init__(self, config: ConfigDict, decoder: nn.Module) -> None:
        self.config = config
        self.decoder = decoder
        self.sampler = rectified_flow.Sampler(config.sampling.sampler, config.sampling.num_steps)

    def loss(
        self,
        variables: Variables,
        images: Float[Array, "b h w c"],
        condition: Condition,
        keys: tuple[PRNGKeyArray, PRNGKeyArray],
    ) -> Float[Array, ""]:
        """Rectified-flow loss in training mode (paper C.1); keys of the flow and of dropout."""
        config, (flow_key, dropout_key) = self.config, keys
        network = in_training(self.decoder, config.decoder.dropout, config.training.microbatch_size)

        def velocity(x_t, t, condition):
            return network(variables["decoder"], dropout_key, x_t, t, *condition)

        return rectified_flow.loss(velocity, images, condition, flow_key)

    def velocity(
        self, variables: Variables, x_t: Array, t: Array, condition: Condition
    ) -> Float[Array, "b h w c"]:
        """The velocity in inference."""
        output: Any = self.decoder.apply(variables["decoder"], x_t, t, *condition, train=False)
        return output

    def generate(
        self,
        variables: Variables,
        key: PRNGKeyArray,
        condition: Condition,
        index: Int[Array, " b"],
    ) -> dict[str, Array]:
        """Images of the given numbers: each has its own noise of the key, whatever its batch.

        Also `num_evaluations`, of the velocity, that each took.
        """
        data = self.config.data
        shape = (data.image_size, data.image_size, data.channels)
        noise = normal_by_index(key, Stream.SAMPLE_NOISE, index, shape)
        velocity = functools.partial(self.velocity, variables)
        solution = rectified_flow.generate(velocity, noise, condition, self.sampler)
        return {"images": to_uint8(solution.x), "num_evaluations": solution.num_evaluations}

    def reconstruct(
        self, variables: Variables, images: UInt8[Array, "b h w c"], condition: Condition
    ) -> dict[str, Array]:
        """Images to noise and back, and each image's l2 error in units of [-1, 1] (paper C.3)."""
        noise = self.invert(variables, images, condition)
        velocity = functools.partial(self.velocity, variables)
        again = rectified_flow.generate(velocity, noise, condition, self.sampler).x
        errors = jnp.sqrt(jnp.sum((again - normalise(images)) ** 2, axis=(1, 2, 3)))
        return {"images": to_uint8(again), "errors": errors}

    def invert(
        self, variables: Variables, images: UInt8[Array, "b h w c"], condition: Condition
    ) -> Float[Array, "b h w c"]:
        """The noise that images come from."""
        velocity = functools.partial(self.velocity, variables)
        return rectified_flow.invert(velocity, normalise(images), condition, self.sampler).x

    def render(
        self, variables: Variables, noise: Float[Array, "b h w c"], condition: Condition
    ) -> UInt8[Array, "b h w c"]:
        """The images that come from noise."""
        velocity = functools.partial(self.velocity, variables)
        return to_uint8(rectified_flow.generate(velocity, noise, condition, self.sampler).x)
