"""Image decoders: a rectified flow (paper §3), MeanFlow, and a one-pass decoder (paper App. G)."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import models
from lzn_jax.data import normalise, to_uint8
from lzn_jax.data_types import Condition, given
from lzn_jax.losses import image_sets, mean_flow, rectified_flow
from lzn_jax.losses.drift import Guidance, drift_loss
from lzn_jax.microbatches import in_training
from lzn_jax.models import Variables
from lzn_jax.randomness import named, normal_by_index


def black_image(config: ConfigDict) -> Float[Array, "1 h w c"]:
    """A black image, as example input for the initialisation of networks."""
    size, channels = config.data.image_size, config.data.channels
    return jnp.zeros((1, size, size, channels))


class ImageDecoder:
    """Base class; methods are pure functions of variables and arrays."""

    network, output = "decoder", "images"
    num_draws = 2

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
        self.sampler = rectified_flow.Sampler(config.sampling.sampler, config.sampling.num_steps)

    def init(self, key: PRNGKeyArray, condition: Condition) -> Any:
        """Initial variables."""
        image = black_image(self.config)
        return self.module.init(key, image, jnp.zeros(1), *condition, train=False)

    def loss(
        self,
        variables: Variables,
        batch: Mapping[str, Array],
        condition: Condition,
        keys: Sequence[PRNGKeyArray],
    ) -> Float[Array, ""]:
        """Rectified-flow loss in training mode (paper C.1); keys for the flow and dropout."""
        (flow_key, dropout_key), network = keys, self.in_training()

        def velocity(x_t, t, condition):
            return network(variables[self.network], dropout_key, x_t, t, *condition)

        return rectified_flow.loss(velocity, *self.draw(batch, condition, flow_key))

    def draw(
        self, batch: Mapping[str, Array], condition: Condition, key: PRNGKeyArray
    ) -> tuple[Float[Array, "b h w c"], Condition, Float[Array, "b h w c"], Float[Array, " b"]]:
        """Images, conditions, noise and times of a batch, `training.flow_draws` for each image."""
        draws = self.config.training.flow_draws
        drawn = normalise(batch["images"]), self.drop_condition(condition, key)
        if draws > 1:
            drawn = jax.tree.map(lambda a: jnp.repeat(a, draws, axis=0), drawn)
        noise, t = rectified_flow.draw(key, drawn[0])
        return *drawn, given(batch, "flow_noise", noise), given(batch, "flow_time", t)

    def velocity(self, variables: Variables) -> rectified_flow.Velocity:
        """Velocity of the flow at inference, as a function of x_t, t and the condition."""

        def velocity(x_t, t, condition):
            return self.module.apply(variables[self.network], x_t, t, *condition, train=False)

        return velocity

    def solve(
        self, variables: Variables, start: Array, condition: Condition, *, inverse: bool = False
    ) -> rectified_flow.Solution:
        """The flow from noise to images in [-1, 1], or its inverse."""
        flow = rectified_flow.invert if inverse else rectified_flow.generate
        return flow(self.velocity(variables), start, condition, self.sampler)

    def generate(
        self,
        variables: Variables,
        key: PRNGKeyArray,
        condition: Condition,
        index: Int[Array, " b"],
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
        """Noise from which the flow generates the images."""
        return self.solve(variables, normalise(images), condition, inverse=True).x

    def images(self, variables: Variables, noise: Array, condition: Condition) -> Array:
        """Images in [-1, 1], generated from noise."""
        return self.solve(variables, noise, condition).x


class MeanFlowDecoder(FlowDecoder):
    """MeanFlow from noise to images, conditioned on the latent: one or few evaluations."""

    def init(self, key: PRNGKeyArray, condition: Condition) -> Any:
        """Initial variables."""
        t = jnp.zeros(1)
        return super().init(key, _with_times(condition, t, t))

    def loss(
        self,
        variables: Variables,
        batch: Mapping[str, Array],
        condition: Condition,
        keys: Sequence[PRNGKeyArray],
    ) -> Float[Array, ""]:
        """MeanFlow's loss in training mode; keys for the flow and dropout."""
        (flow_key, dropout_key), network = keys, self.in_training()

        def velocity(x, t, s, condition):
            condition = _with_times(condition, t, s)
            return network(variables[self.network], dropout_key, x, 0 * t, *condition)

        images, condition, noise, t = self.draw(batch, condition, flow_key)
        s = mean_flow.draw_ends(named(flow_key, "ends"), t)
        return mean_flow.loss(velocity, images, condition, noise, t, s)

    def solve(
        self, variables: Variables, start: Array, condition: Condition, *, inverse: bool = False
    ) -> rectified_flow.Solution:
        """The average flow from noise to images in [-1, 1], or its inverse."""

        def velocity(x, t, s, condition):
            condition = _with_times(condition, t, s)
            return self.velocity(variables)(x, 0 * t, condition)

        ends, num_steps = (1.0, 0.0) if inverse else (0.0, 1.0), self.sampler.num_steps
        x = mean_flow.integrate(velocity, start, condition, num_steps, *ends)
        return rectified_flow.Solution(x, jnp.full(len(x), num_steps))


def _with_times(condition: Condition, t: Array, s: Array) -> Condition:
    """The condition with slow waves of the times t and s - t beside the latents.

    The networks' own embedding of a time has a derivative of up to 1000, which MeanFlow's target
    would contain; they are called at time 0.
    """
    latents, beside = condition
    angles = jnp.pi / 2 * jnp.arange(1, 9) * jnp.stack([t, s - t], axis=-1)[..., None]
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)]).swapaxes(0, 1).reshape(len(t), -1)
    return latents, waves if beside is None else jnp.concatenate([beside, waves], axis=1)


ERRORS: dict[str, Callable[[Array], Array]] = {"l1": jnp.abs, "l2": jnp.square}


class DirectDecoder(ImageDecoder):
    """One-pass decoder from a latent to an image, without noise (left open in paper App. G)."""

    def __init__(self, config: ConfigDict, decoder: nn.Module) -> None:
        super().__init__(config, decoder)
        if config.decoder.set_anchors > 0:
            self.encoder: Any = models.encoder(config)

    def init(self, key: PRNGKeyArray, condition: Condition) -> Any:
        """Initial variables."""
        return self.module.init(key, *self.guided(condition, jnp.ones(())), train=False)

    def guided(self, condition: Condition, scale: Float[Array, ""]) -> Condition:
        """The condition with 1 / scale beside it, if the decoder is trained with guidance."""
        if self.config.decoder.guidance == 1:
            return condition
        latents, beside = condition
        return latents, jnp.concatenate([beside, jnp.full((len(latents), 1), 1 / scale)], axis=1)

    def loss(
        self,
        variables: Variables,
        batch: Mapping[str, Array],
        condition: Condition,
        keys: Sequence[PRNGKeyArray],
    ) -> Float[Array, ""]:
        """Mean error of the images plus a loss between the sets of generated and real images."""
        setting, images, (key, dropout_key) = self.config.decoder, normalise(batch["images"]), keys
        condition = self.drop_condition(condition, key)
        scale, set_loss = jnp.ones(()), image_sets.SET_LOSSES[setting.set_loss]
        if setting.guidance > 1:
            least, (_, beside) = 1 / setting.guidance, condition
            scale = 1 / jax.random.uniform(named(key, "guidance"), minval=least)
            is_same = jnp.all(beside[:, None] == beside, axis=-1)
            set_loss = functools.partial(drift_loss, guidance=Guidance(is_same, scale))
        condition = self.guided(condition, scale)
        generated = self.in_training()(variables[self.network], dropout_key, *condition)
        distance = self.loss_between_sets(variables, generated, images, key, set_loss)
        error = jnp.mean(ERRORS[setting.error](generated - images))
        return error + setting.set_weight * distance

    def loss_between_sets(
        self,
        variables: Variables,
        generated: Float[Array, "b h w c"],
        images: Float[Array, "b h w c"],
        key: PRNGKeyArray,
        set_loss: image_sets.SetLoss,
    ) -> Float[Array, ""]:
        """Loss between generated and real images, their patches and, with `set_anchors`, anchors.

        The encoder of the anchors gets no gradient. The key is consumed.
        """
        setting = self.config.decoder
        distance = image_sets.image_set_loss(
            set_loss,
            generated,
            images,
            key,
            patch_size=setting.set_patch_size,
            num_patches=setting.set_patches,
        )
        if setting.set_anchors > 0:
            fixed = jax.lax.stop_gradient(variables["encoder"])
            x, y = (self.encoder.apply(fixed, each, train=False) for each in (generated, images))
            distance += setting.set_anchors * set_loss(x, y)
        return distance

    def generate(
        self,
        variables: Variables,
        key: PRNGKeyArray,
        condition: Condition,
        index: Int[Array, " b"],
    ) -> dict[str, Array]:
        """`images` of latents, and `num_evaluations` of the network, which is 1."""
        del key  # the latents are the only noise
        images = self.images(variables, jnp.zeros((len(index), 0)), condition)
        return {"images": to_uint8(images), "num_evaluations": jnp.ones_like(index)}

    def invert(
        self, variables: Variables, images: UInt8[Array, "b h w c"], condition: Condition
    ) -> Float[Array, "b 0"]:
        """Noise without dimensions, since images depend on the latents alone."""
        return jnp.zeros((len(images), 0))

    def images(self, variables: Variables, noise: Array, condition: Condition) -> Array:
        """Images of latents, in [-1, 1]."""
        condition = self.guided(condition, jnp.asarray(self.config.sampling.guidance))
        return self.module.apply(variables[self.network], *condition, train=False)
