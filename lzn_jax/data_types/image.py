"""Images: a network gives their anchors, alone or of two views; a decoder makes them of latents."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import data, models
from lzn_jax.data import Examples, Transform, normalise
from lzn_jax.data.augment import augment, augmentation_of
from lzn_jax.data.crops import Views
from lzn_jax.data_types import DataType, Zones, bank, context_rows
from lzn_jax.data_types.image_decoders import DirectDecoder, FlowDecoder, black_image
from lzn_jax.microbatches import by_example, in_training
from lzn_jax.models import Variables


def build(config: ConfigDict, modules: Mapping[str, nn.Module]) -> DataType:
    """Images of a config, whose encoder sees two views of each if they are aligned."""
    make_encoder = ViewEncoder if "image:image" in config.alignments else ImageEncoder
    encoder, decoder = modules.get("encoder"), modules.get("decoder")
    is_direct = "decoder" in config and config.decoder.name in models.GENERATORS
    direct: Any = functools.partial(DirectDecoder, encoder=encoder)
    make_decoder = direct if is_direct else FlowDecoder
    return DataType(
        None if encoder is None else make_encoder(config, encoder),
        None if decoder is None else make_decoder(config, decoder),
    )


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
        """Fresh variables, and an empty bank where there shall be one."""
        variables: Any = self.encoder.init(key, black_image(self.config), train=False)
        if size := self.config.latent.get("bank_size", 0):
            variables = {**variables, bank.COLLECTION: bank.empty(size, self.config.latent.dim)}
        return variables

    def zones(
        self, variables: Variables, batch: Mapping[str, Array], keys: Sequence[PRNGKeyArray]
    ) -> tuple[Zones, ...]:
        """Anchors of a training batch, and those of the bank; the key is dropout's."""
        config, (key,) = self.config, keys
        network = in_training(
            self.encoder, config.encoder.get("dropout", 0.0), config.training.microbatch_size
        )
        anchors = network(variables["encoder"], key, normalise(batch["images"]))
        return (bank.zones(anchors, variables["encoder"].get(bank.COLLECTION)),)

    def anchors(self, variables: Variables, images: UInt8[Array, "b h w c"]) -> Float[Array, "b q"]:
        """Anchors of images, a pure function."""
        output: Any = self.encoder.apply(variables["encoder"], normalise(images), train=False)
        return output

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of anchors of training images; empty where the images at hand cut the zones."""
        shape = self.config.latent.context_size, self.config.latent.dim
        return {"anchors": jax.ShapeDtypeStruct(shape, jnp.float32)} if shape[0] > 0 else {}

    def context(self, anchors: Callable[..., Any], train: Examples) -> dict[str, Any]:
        """Anchors of some training images."""
        if not self.context_shapes():
            return {}
        images = train.images[context_rows(self.config, len(train.images))]
        return {"anchors": anchors(images, description="context anchors")}

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
