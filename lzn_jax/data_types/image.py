"""Images: a network gives their anchors, a rectified flow makes them of latents (paper §3 to 5)."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import data
from lzn_jax.data import Transform, normalise, to_uint8
from lzn_jax.data.augment import augment, augmentation_of
from lzn_jax.data.crops import Views
from lzn_jax.data_types import Condition, DataType, Zones
from lzn_jax.losses import rectified_flow
from lzn_jax.microbatches import by_example, in_training
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, normal_by_index


def build(config: ConfigDict, modules: Mapping[str, nn.Module]) -> DataType:
    """Images of a config, whose encoder sees two views of each if they are aligned."""
    make_encoder = ViewEncoder if "image:image" in config.alignments else ImageEncoder
    encoder, decoder = modules.get("encoder"), modules.get("decoder")
    return DataType(
        None if encoder is None else make_encoder(config, encoder),
        None if decoder is None else ImageDecoder(config, decoder),
    )


def black_image(config: ConfigDict) -> Float[Array, "1 h w c"]:
    """An image for networks to see the shape of."""
    size, channels = config.data.image_size, config.data.channels
    return jnp.zeros((1, size, size, channels))


class ImageEncoder:
    """The image encoder of a config, as pure functions of variables and arrays.

    Attributes:
      transform: of training images, on the host.
      main_feature, anchor_feature: of those that `features` finds.
    """

    network = "encoder"
    num_draws = 1
    main_feature = anchor_feature = "anchor"

    def __init__(self, config: ConfigDict, encoder: nn.Module) -> None:
        self.config = config
        self.encoder = encoder
        self.transform: Transform = data.whole_image(config.data)

    def init(self, key: PRNGKeyArray) -> Any:
        """Fresh variables."""
        return self.encoder.init(key, black_image(self.config), train=False)

    def zones(
        self, variables: Variables, batch: Mapping[str, Array], keys: Sequence[PRNGKeyArray]
    ) -> tuple[Zones, ...]:
        """Anchors of a training batch; the key is dropout's."""
        config, (key,) = self.config, keys
        network = in_training(
            self.encoder, config.encoder.get("dropout", 0), config.training.microbatch_size
        )
        return (Zones(network(variables["encoder"], key, normalise(batch["images"]))),)

    def anchors(self, variables: Variables, images: UInt8[Array, "b h w c"]) -> Float[Array, "b q"]:
        """Anchors of images, a pure function."""
        output: Any = self.encoder.apply(variables["encoder"], normalise(images), train=False)
        return output

    def features(
        self, variables: Variables, images: UInt8[Array, "b h w c"]
    ) -> dict[str, Float[Array, "b d"]]:
        """What the network finds in images by name, the anchor among it: a pure function."""
        return {"anchor": self.anchors(variables, images)}


class ViewEncoder(ImageEncoder):
    """An encoder that trains on two augmented views of each image (paper §4.1)."""

    main_feature, anchor_feature = "backbone", "head"

    def __init__(self, config: ConfigDict, encoder: nn.Module) -> None:
        super().__init__(config, encoder)
        self.views = Views(
            config.data.image_size, config.data.channels, config.augmentation.min_area
        )
        self.transform = self.views
        self.augmentation = augmentation_of(config)

    def zones(
        self, variables: Variables, batch: Mapping[str, Array], keys: Sequence[PRNGKeyArray]
    ) -> tuple[Zones, ...]:
        """Of {'views': (b, 2, h, w, c) uint8}, cropped and not yet augmented otherwise."""
        anchors = self.view_anchors(variables, batch["views"], *keys)
        return Zones(anchors[:, 0]), Zones(anchors[:, 1])

    def view_anchors(
        self, variables: Variables, views: UInt8[Array, "b 2 h w c"], key: PRNGKeyArray
    ) -> Float[Array, "b 2 q"]:
        """Anchors of augmented views, in training mode, a micro-batch of images at a time."""
        encoder, augmentation = self.encoder, self.augmentation

        def network(variables, keys, views):
            view_keys = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
            one = functools.partial(augment, settings=augmentation)
            images = jax.vmap(jax.vmap(one))(views, view_keys)
            anchors: Any = encoder.apply(
                variables, images.reshape(-1, *images.shape[2:]), train=True
            )
            return anchors.reshape(len(views), 2, -1)

        call = by_example(network, self.config.training.microbatch_size)
        anchors: Array = call(variables["encoder"], key, views)
        return anchors

    def features(
        self, variables: Variables, images: UInt8[Array, "b h w c"]
    ) -> dict[str, Float[Array, "b d"]]:
        """Anchors ('head') and pooled features before the head ('backbone')."""
        return self.features_of(variables, normalise(images))

    def features_of(
        self, variables: Variables, images: Float[Array, "b h w c"]
    ) -> dict[str, Float[Array, "b d"]]:
        """`features` of images in [-1, 1], such as augmented ones."""
        encode: Any = functools.partial(
            self.encoder.apply, variables["encoder"], images, train=False
        )
        return {name: encode(features=name) for name in ("head", "backbone")}


class ImageDecoder:
    """The image decoder of a config, as pure functions of variables and arrays."""

    network, output = "decoder", "images"
    num_draws = 2

    def __init__(self, config: ConfigDict, decoder: nn.Module) -> None:
        self.config = config
        self.told: str | None = config.decoder.told
        self.sources: tuple[str, ...] = config.decoder.latents
        self.noise_scale: float | None = config.latent.noise_scale
        self.decoder = decoder
        self.sampler = rectified_flow.Sampler(config.sampling.sampler, config.sampling.num_steps)

    def init(self, key: PRNGKeyArray, condition: Condition) -> Any:
        """Fresh variables."""
        image = black_image(self.config)
        return self.decoder.init(key, image, jnp.zeros(1), *condition, train=False)

    def loss(
        self,
        variables: Variables,
        batch: Mapping[str, Array],
        condition: Condition,
        keys: Sequence[PRNGKeyArray],
    ) -> Float[Array, ""]:
        """Rectified-flow loss in training mode (paper C.1); keys of the flow and of dropout."""
        config, images, (flow_key, dropout_key) = self.config, normalise(batch["images"]), keys
        condition = self._sometimes_told(condition, flow_key)
        draws = config.training.get("flow_draws", 1)
        if draws > 1:
            images, condition = jax.tree.map(
                lambda a: jnp.repeat(a, draws, axis=0), (images, condition)
            )
        network = in_training(self.decoder, config.decoder.dropout, config.training.microbatch_size)

        def velocity(x_t, t, condition):
            return network(variables["decoder"], dropout_key, x_t, t, *condition)

        return rectified_flow.loss(velocity, images, condition, flow_key)

    def _sometimes_told(self, condition: Condition, key: PRNGKeyArray) -> Condition:
        """The decoder is told nothing at the rate of `told_dropout`."""
        rate, (latents, told) = self.config.decoder.get("told_dropout", 0.0), condition
        if rate == 0 or told is None:
            return condition
        keep = jax.random.bernoulli(jax.random.fold_in(key, 1), 1 - rate, (len(told), 1))
        return latents, told * keep

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
