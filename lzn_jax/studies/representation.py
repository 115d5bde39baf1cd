"""Case study 2: representations without labels (paper §4, D).

Two augmented views of an image shall share a zone: latents of the first views, cut by their own
anchors, are aligned with the zones that the second views' anchors cut. Nothing else is trained
on. The objective 'simclr' puts SimCLR's loss in place of it, on the same network and batches.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import contrastive, models, zoning
from lzn_jax.data import Examples, Images, Transform, normalise
from lzn_jax.data.augment import Augmentation, augment
from lzn_jax.data.crops import two_views
from lzn_jax.microbatches import by_example
from lzn_jax.studies import Model, Variables, batched
from lzn_jax.studies.image_latents import ImageLatents


class Representation:
    """The representation study of a config; inference divides its batches over the mesh."""

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self.config = config
        self.modules: Mapping[str, nn.Module] = models.build(config)
        self.augmentation = _augmentation(config)
        self.transform: Transform = _TwoViews(
            config.data.image_size, config.data.channels, config.augmentation.min_area
        )
        self._in_batches = batched(config, mesh)
        self.latents = ImageLatents(config, self.modules["encoder"], self._in_batches)
        self.alignment_solver = zoning.Euler(
            config.alignment.num_steps, precision=config.latent.precision
        )
        self._features = {
            name: jax.jit(functools.partial(self.features, name=name))
            for name in ("head", "backbone")
        }

    # Training.

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables of the encoder."""
        data = self.config.data
        image = jnp.zeros((1, data.image_size, data.image_size, data.channels))
        return {"encoder": self.modules["encoder"].init(key, image, train=False)}

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Alignment of the two views of each image (paper §4.1, D.1), or SimCLR's loss.

        The batch is {'views': (b, 2, h, w, c) uint8}, cropped and not yet augmented otherwise.
        """
        augment_key, latent_key = jax.random.split(key)
        anchors = self.view_anchors(variables, batch["views"], augment_key)
        first, second = anchors[:, 0], anchors[:, 1]
        if self.config.objective == "simclr":
            temperature = self.config.simclr.temperature
            return contrastive.nt_xent(first, second, temperature=temperature)
        latents = self.latents.draw(first, latent_key, self.config.latent.noise_scale)
        return zoning.alignment_loss(
            latents,
            second,
            jnp.arange(len(second)),
            solver=self.alignment_solver,
            cutoff=self.config.alignment.cutoff,
            form=self.config.alignment.form,
        )

    def view_anchors(
        self, variables: Variables, views: UInt8[Array, "b 2 h w c"], key: PRNGKeyArray
    ) -> Float[Array, "b 2 q"]:
        """Anchors of augmented views, in training mode, a micro-batch of images at a time."""
        encoder, augmentation = self.modules["encoder"], self.augmentation

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

    # Inference.

    def features(
        self,
        variables: Variables,
        images: UInt8[Array, "b h w c"],
        name: Literal["head", "backbone"],
    ) -> Float[Array, "b d"]:
        """Anchors ('head') or pooled features before the head: a pure function."""
        output: Any = self.modules["encoder"].apply(
            variables["encoder"], normalise(images), train=False, features=name
        )
        return output

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Context anchors of the encoder; empty without context."""
        return self.latents.context(variables, train)

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `context` returns."""
        return self.latents.context_shapes()

    def embed(self, model: Model, images: Images) -> dict[str, Float[np.ndarray, "n d"]]:
        """The paper's four features (D.3): latent, latent with α = 0, head, backbone."""
        found = {
            name: self._in_batches(
                functools.partial(function, model.variables), images, description=f"{name} features"
            )
            for name, function in self._features.items()
        }
        noise_scale = self.config.latent.noise_scale
        for name, scale in {"latent": noise_scale, "latent_centre": 0.0}.items():
            found[name] = np.asarray(self.latents.latents(model.context, found["head"], scale))
        return found

    def evaluate(
        self, model: Model, train: Examples, test: Examples, figures: Path
    ) -> dict[str, float]:
        """Linear probe and nearest neighbours on the features of training and test images."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class _TwoViews:
    """The transform {'views': (2, h, w, c)}: two random crops of one decoded image."""

    image_size: int
    channels: int
    min_area: float

    def __call__(
        self, image: bytes | np.ndarray, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        area = (self.min_area, 1.0)
        views = two_views(image, rng, self.image_size, channels=self.channels, area=area)
        return {"views": views}


def _augmentation(config: ConfigDict) -> Augmentation:
    group = config.augmentation
    return Augmentation(
        flip=config.data.flip,
        jitter_probability=group.jitter_probability,
        brightness=group.brightness,
        contrast=group.contrast,
        saturation=group.saturation,
        hue=group.hue,
        grey_probability=group.grey_probability,
        blur_probability=group.blur_probability,
        blur_kernel=group.blur_kernel,
        blur_sigma=(0.1, group.blur_max_sigma),
    )
