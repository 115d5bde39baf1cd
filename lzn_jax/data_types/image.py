"""Images of a generative model, or two views of each image for representations."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import data, models, parts
from lzn_jax.data import Examples, normalise, user_images
from lzn_jax.data.augment import Augmentation, augment, augmentation_of
from lzn_jax.data.batches import Transform, whole_image
from lzn_jax.data.folder import file_names
from lzn_jax.data.pixels import EncodedImages, Views
from lzn_jax.data_types import Batch, DataType, Keys, NetworkEncoder, Zones, trained_on
from lzn_jax.data_types.protocols import Samples
from lzn_jax.errors import UserError
from lzn_jax.models import Variables, by_example
from lzn_jax.parts import (
    Field,
    choice,
    count,
    count_or_0,
    flag,
    knobs,
    loss_weight,
    positive,
    require,
    share_below_1,
    word,
)

VIEWS = ("image:image",)  # alignment between two views of each image


class ImageEncoder(NetworkEncoder):
    """Image encoder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.network = "encoder"  # as in the paper's released checkpoints

    def inputs(self, samples: UInt8[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Pixels in [-1, 1]."""
        return normalise(samples)


@dataclasses.dataclass(eq=False, kw_only=True)
class ViewEncoder(ImageEncoder):
    """Image encoder that is trained on two augmented views of each image (paper §4.1)."""

    main_feature, anchor_feature = "backbone", "head"

    augmentation: Augmentation

    def zones(self, variables: Variables, batch: Batch, keys: Keys) -> tuple[Zones, ...]:
        """Zones of the first and of the second view.

        `batch["views"]` (b, 2, h, w, c) uint8 contains crops. The other augmentations are applied
        here.
        """
        anchors = self.view_anchors(variables, batch["views"], *keys)
        return Zones(anchors[:, 0]), Zones(anchors[:, 1])

    def view_anchors(
        self, variables: Variables, views: UInt8[Array, "b 2 h w c"], key: PRNGKeyArray
    ) -> Float[Array, "b 2 q"]:
        """Anchors of the augmented views in training mode, in micro-batches of images."""

        def network(variables, keys, views):
            view_keys = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
            one = functools.partial(augment, settings=self.augmentation)
            with jax.named_scope("augmentation"):
                images = jax.vmap(jax.vmap(one))(views, view_keys)
            inputs = images.reshape(-1, *images.shape[2:])
            return self.module.apply(variables, inputs, train=True).reshape(len(views), 2, -1)

        return by_example(network, self.microbatch_size)(variables[self.network], key, views)

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


class Image(DataType):
    """Images (n, h, w, c) uint8.

    Of representations, with an encoder of two views of each (paper §4); else of a generative model,
    with a decoder, and with an encoder unless the config is the baseline's.
    """

    target_scale = 1.0
    is_images = True

    def __init__(self, config: ConfigDict) -> None:
        self._read = functools.partial(_read, config.data)
        self._shape, has_views = models.image_shape(config), tuple(config.alignments) == VIEWS
        whole, decoder = whole_image(config.data), None
        encoder = _encoder(config, has_views, whole) if models.has_latents(config) else None
        if not has_views:
            part, build = parts.get("decoder", config.decoder.name)
            network = models.module(part, config.decoder, config, image_shape=self._shape)
            decoder = build(config, network)
        super().__init__("image", encoder, decoder)
        self._transform = (encoder and encoder.transform) or whole
        self.loss_name = "generation_loss"
        self.weight = config.training.get("generation_weight", 1.0)
        if has_views:
            self.measurements = ("representations",)
        elif self.weight > 0 and config.objective == "lzn":  # not a baseline
            self.measurements = ("samples", "reconstruction")

    def column_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        image = np.zeros(self._shape, np.uint8)
        outputs = self._transform(image, np.random.default_rng(0))
        return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in outputs.items()}

    def encoded_shape(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self._shape, np.uint8)

    def sample_format(self) -> dict[str, object]:
        description = "(batch, height, width, channels), pixels from 0 to 255"
        return {"description": description, "range": [0, 255]}

    def samples(self, examples: Examples) -> Samples:
        """Images of a split, possibly `EncodedImages`."""
        return examples.images

    def checked(self, samples: Samples) -> np.ndarray | EncodedImages:
        """Validated images, as a NumPy array unless they are `EncodedImages`."""
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
        return self._read(text)

    def names(self, samples: Samples) -> list[str]:
        """Paths of image files, empty for images that are not separate files."""
        return file_names(samples)

    def shown(self, samples: Samples) -> Samples:
        return samples


def _encoder(config: ConfigDict, has_views: bool, transform: Transform) -> ImageEncoder:
    shape, network = models.image_shape(config), models.encoder(config)
    common: dict[str, Any] = {"column": "images", "example": jax.numpy.zeros((1, *shape))}
    common |= NetworkEncoder.settings(config, "latent")
    if not has_views:
        return ImageEncoder("image", network, transform=transform, **common)
    views = Views(*shape[1:], config.augmentation.min_area)
    settings = augmentation_of(config)
    return ViewEncoder("image", network, transform=views, augmentation=settings, **common)


def _read(data_config: ConfigDict, text: str) -> tuple[UInt8[np.ndarray, "n h w c"], list[str]]:
    """Images of a file or a folder, and their names."""
    images = user_images.find_images(text, data_config)
    return user_images.read_images(images, data.background(data_config)), file_names(images)


_GENERATIVE = {
    "latent.enabled": flag("False = rectified flow without latents, the baseline", True),
    "encoder.name": word("image encoder", part="encoder"),
    "decoder.name": word("image decoder", part="decoder"),
    "decoder.condition": word("type of the condition beside latents", None, part="type"),
    "decoder.condition_dropout": share_below_1("probability that the condition is dropped", 0.0),
    "decoder.sources": trained_on("image"),
    "training.queries": count(
        "samples of a batch that are decoded, a divisor of batch_size; None = all",
        None,
        at_most="train",
        divides="training.batch_size",
    ),
    "training.flow_draws": count("draws of noise and time for each image in the flow loss", 1),
    **parts.learning_rates("decoder"),
    "evaluation.num_samples": count("images generated in each evaluation", at_most="train"),
    "evaluation.inception_path": word(
        "file of FID's Inception weights, None = no metrics that need it", None
    ),
    "evaluation.clip_path": word("file of CLIP's weights, None = no CMMD", None),
}
_WITH_OTHER_TYPES = {
    "training.decoder_steps": count("updates after which the decoder is fixed, None = never", None),
    "training.generation_weight": loss_weight("weight of the image decoder's loss", 1.0),
}
_REPRESENTATION = {
    "latent.solver": word("solver of the encoder's flow", "euler", part="solver"),
    "objective": choice("training objective: 'lzn' or a baseline", "lzn", "simclr", "dcl"),
    "simclr.temperature": positive("temperature of the baseline's softmax", 0.1),
    "dcl.temperature": positive("temperature of the baseline's softmax", 0.1),
    "encoder.name": word("image encoder", choices=("resnet",), part="encoder"),
    **knobs(Views, "augmentation"),
    **knobs(Augmentation, "augmentation"),
    "evaluation.probe_protocol": choice(
        "training of the linear probe", "cached", "paper", "simclr"
    ),
}


def _image_fields(values: Mapping[str, Any]) -> dict[str, Field]:
    common = {
        "latent.context_size": count_or_0(
            "number of context anchors, 0 = the batch cuts zones", at_most="train"
        ),
        **parts.learning_rates("encoder"),
        "data.invert_input": flag(
            "invert images of --input and the page, None = grey ones whose background differs from "
            "that of the training images",
            None,
        ),
    }
    if tuple(values["alignments"]) == VIEWS:
        return common | _REPRESENTATION
    is_alone = len(values["types"]) == 1
    return common | _GENERATIVE | ({} if is_alone else _WITH_OTHER_TYPES)


def _check_image(values: Mapping[str, Any]) -> None:
    types, alignments = values["types"], values["alignments"]
    if not set(VIEWS) & set(alignments):
        batch_size, size = values["training.batch_size"], values["training.microbatch_size"]
        queries = values["training.queries"] or batch_size
        drawn = queries * values["training.flow_draws"]
        for what, rows in (("", queries), (" * training.flow_draws", drawn)):
            require(
                size is None or rows <= size or rows % size == 0,
                f"training.microbatch_size must divide training.queries{what} {rows}, got {size}",
            )
        condition, latents = values["decoder.condition"], values["decoder.sources"]
        require(condition != "image", "decoder.condition must not be 'image', which it decodes")
        require(
            bool(latents or condition) or not values["latent.enabled"],
            "decoder.sources must name a type unless decoder.condition does, got ()",
        )
        return
    require(
        types == ("image",) and alignments == VIEWS,
        "alignment image:image must be the only alignment and images the only type, got "
        f"{alignments} of {types}",
    )
    # The kernel must be of odd size, and its reflections must stay inside the image.
    kernel, most = values["augmentation.blur_kernel"], 2 * values["data.image_size"] - 1
    require(
        kernel % 2 == 1 and kernel <= most,
        f"augmentation.blur_kernel must be odd and at most {most}, 2 * data.image_size - 1, "
        f"got {kernel}",
    )


parts.add("type", "image", Image, _image_fields, check=_check_image)
