"""Images: encoders, of single images or of two views each, and the data type."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import data, models
from lzn_jax.data import Examples, folder
from lzn_jax.data.augment import augment, augmentation_of
from lzn_jax.data.pixels import EncodedImages, Views, normalise
from lzn_jax.data_types import DataType, NetworkEncoder, Zones
from lzn_jax.decoders.flow import black_image
from lzn_jax.errors import UserError
from lzn_jax.models import Variables, by_example

COLLECTION = "bank"  # name of the collection in the encoder's variables

Bank = Mapping[str, Array]  # "anchors" (k, q) and "log_weights" (k,), -inf for an empty place


def empty(size: int, dim: int) -> Bank:
    """A bank without anchors."""
    return {"anchors": jnp.zeros((size, dim)), "log_weights": jnp.full(size, -jnp.inf)}


def zones(anchors: Float[Array, "b q"], bank: Bank | None) -> Zones:
    """Zones that the anchors of a batch, which come first, and those of the bank cut."""
    if bank is None:
        return Zones(anchors)
    count, fixed = len(anchors), jax.lax.stop_gradient(bank)
    return Zones(
        jnp.concatenate([anchors, fixed["anchors"]]),
        jnp.arange(count),
        jnp.concatenate([jnp.zeros(count), fixed["log_weights"]]),
    )


def with_newest(bank: Bank, zones: Zones) -> Bank:
    """Bank for the next update: the anchors of `zones`, newest first, cut to the bank's size."""
    assert zones.log_weights is not None
    size = len(bank["anchors"])
    newest = {"anchors": zones.anchors[:size], "log_weights": zones.log_weights[:size]}
    return jax.lax.stop_gradient(newest)


def remembered(constants: Mapping[str, Any], zones: Mapping[str, Zones]) -> dict[str, Any]:
    """Variables that are not trained, by network, with the anchors of this update in the banks."""
    return {
        network: {
            kind: with_newest(values, zones[network]) if kind == COLLECTION else values
            for kind, values in kinds.items()
        }
        for network, kinds in constants.items()
    }


VIEWS = ("image:image",)  # alignment between two views of each image


class Image(DataType):
    """Images (n, h, w, c) uint8."""

    target_scale = 1.0
    is_images = True

    def __init__(self, config: ConfigDict) -> None:
        self._data, is_views = config.data, tuple(config.alignments) == VIEWS
        self._shape = (config.data.image_size, config.data.image_size, config.data.channels)
        encoder: ImageEncoder | None = None
        decoder = None
        if models.has_latents(config):
            encoder = (ViewEncoder if is_views else ImageEncoder)(config)
        if not is_views:
            network, wrapper = models.decoder(config)
            decoder = wrapper(config, network)
            self.weight = config.training.get("generation_weight", 1.0)
        self._transform = encoder.transform if encoder else data.whole_image(config.data)
        super().__init__("image", encoder, decoder)
        self.loss_name = "generation_loss"
        if is_views:
            self.measurements = ("representations",)
        elif self.weight > 0 and config.objective == "lzn":  # not a baseline
            self.measurements = ("samples", "reconstruction")

    def column_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the transform's outputs for one image."""
        image = np.zeros(self._shape, np.uint8)
        outputs = self._transform(image, np.random.default_rng(0))
        return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in outputs.items()}

    def encoded_shape(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one image."""
        return jax.ShapeDtypeStruct(self._shape, np.uint8)

    def sample_format(self) -> dict[str, Any]:
        """Meaning of the axes, and range of pixels."""
        description = "(batch, height, width, channels), pixels from 0 to 255"
        return {"description": description, "range": [0, 255]}

    def samples(self, examples: Examples) -> Any:
        """Images of a split, possibly `EncodedImages`."""
        return examples.images

    def checked(self, samples: Any) -> np.ndarray | EncodedImages:
        """Validated images: `EncodedImages` as they are, others as a NumPy array."""
        dtype, shape = (getattr(samples, name, None) for name in ("dtype", "shape"))
        if dtype != np.uint8 or not shape or shape[1:] != self._shape or shape[0] == 0:
            expected = ", ".join(map(str, self._shape))
            got = f"{dtype} {shape}" if dtype is not None else type(samples).__name__
            hint = "; lzn_jax.data.to_uint8 converts floats in [-1, 1]"
            is_float = dtype is not None and np.issubdtype(dtype, np.floating)
            raise UserError(
                f"images must be an array (n, {expected}) of uint8, 0 ... 255, got {got}"
                f"{hint if is_float else ''}"
            )
        return samples if isinstance(samples, EncodedImages) else np.asarray(samples)

    def parse(self, text: str) -> UInt8[np.ndarray, "n h w c"]:
        """Images of one image file or of all image files in a folder."""
        return self.named(text)[0]

    def named(self, text: str) -> tuple[UInt8[np.ndarray, "n h w c"], list[str]]:
        """Images and paths of one image file or of all image files in a folder."""
        images = folder.find_images(text, self._data)
        is_light = data.background(self._data)
        return folder.read_images(images, is_light), folder.file_names(images)

    def names(self, samples: Any) -> list[str]:
        """Paths of image files, empty for images that are not separate files."""
        return folder.file_names(samples)

    def shown(self, samples: Any) -> Any:
        """The images themselves."""
        return samples

    def condition(self, batch: Mapping[str, Array], zones: Zones | None) -> Float[Array, "b q"]:
        """Anchors of the images of the batch, without those of the bank."""
        if zones is None or zones.own is None:
            return super().condition(batch, zones)
        return zones.anchors[zones.own]


class ImageEncoder(NetworkEncoder):
    """Image encoder of a config."""

    def __init__(self, config: ConfigDict) -> None:
        super().__init__(
            "image",
            models.encoder(config),
            column="images",
            samples=lambda examples: examples.images,
            example=black_image(config),
            latent_dim=config.latent.dim,
            context_size=config.latent.context_size,
            seed=config.seed,
            microbatch_size=config.training.microbatch_size,
        )
        self.network, self.anchors_key = "encoder", "anchors"  # names in existing checkpoints
        self.config, self.transform = config, data.whole_image(config.data)

    def init(self, key: PRNGKeyArray) -> Any:
        """Initial variables, with an empty bank if the config has one."""
        variables: Any = super().init(key)
        if size := self.config.latent.get("bank_size", 0):
            variables = {**variables, COLLECTION: empty(size, self.config.latent.dim)}
        return variables

    def inputs(self, samples: UInt8[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Pixels in [-1, 1]."""
        return normalise(samples)

    def zones(
        self, variables: Variables, batch: Mapping[str, Array], keys: Sequence[PRNGKeyArray]
    ) -> tuple[Zones, ...]:
        """Zones that the anchors of a training batch and the bank cut; the key is for dropout."""
        (own,) = super().zones(variables, batch, keys)
        return (zones(own.anchors, variables[self.network].get(COLLECTION)),)


class ViewEncoder(ImageEncoder):
    """Image encoder that is trained on two augmented views of each image (paper §4.1)."""

    main_feature, anchor_feature = "backbone", "head"

    def __init__(self, config: ConfigDict) -> None:
        super().__init__(config)
        self.transform = Views(
            config.data.image_size, config.data.channels, config.augmentation.min_area
        )
        self.augmentation = augmentation_of(config)

    def zones(
        self, variables: Variables, batch: Mapping[str, Array], keys: Sequence[PRNGKeyArray]
    ) -> tuple[Zones, ...]:
        """Zones of the first and of the second view.

        `batch["views"]` (b, 2, h, w, c) uint8 holds crops, to which the other augmentations are
        applied here.
        """
        anchors = self.view_anchors(variables, batch["views"], *keys)
        return Zones(anchors[:, 0]), Zones(anchors[:, 1])

    def view_anchors(
        self, variables: Variables, views: UInt8[Array, "b 2 h w c"], key: PRNGKeyArray
    ) -> Float[Array, "b 2 q"]:
        """Anchors of the augmented views in training mode, in micro-batches of images."""
        encoder, augmentation = self.module, self.augmentation

        def network(variables, keys, views):
            view_keys = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
            one = functools.partial(augment, settings=augmentation)
            with jax.named_scope("augmentation"):
                images = jax.vmap(jax.vmap(one))(views, view_keys)
            anchors = encoder.apply(variables, images.reshape(-1, *images.shape[2:]), train=True)
            return anchors.reshape(len(views), 2, -1)

        call = by_example(network, self.config.training.microbatch_size)
        return call(variables[self.network], key, views)

    def features(
        self, variables: Variables, images: UInt8[Array, "b h w c"]
    ) -> dict[str, Float[Array, "b d"]]:
        """Anchors ('head') and pooled features before the head ('backbone')."""
        return self.features_of(variables, normalise(images))

    def features_of(
        self, variables: Variables, images: Float[Array, "b h w c"]
    ) -> dict[str, Float[Array, "b d"]]:
        """`features` of images in [-1, 1], for example augmented ones."""
        encode = functools.partial(self.module.apply, variables[self.network], images, train=False)
        return {name: encode(features=name) for name in ("head", "backbone")}
