"""What the studies with an image decoder share: all but their losses and how they draw samples."""

import abc
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import models, plots
from lzn_jax.data import Examples, Images, Transform, whole_image
from lzn_jax.models import Variables
from lzn_jax.randomness import key_or_seed
from lzn_jax.studies import Model, batched
from lzn_jax.studies.image_decoder import Condition, ImageDecoder
from lzn_jax.studies.image_latents import ImageLatents, NoLatents
from lzn_jax.studies.interpolation import Interpolation
from lzn_jax.studies.reconstruction import Reconstruction, evaluated_rows
from lzn_jax.studies.sample_quality import SampleQuality


class ImageStudy(abc.ABC):
    """A study with an image decoder; inference divides its batches over the mesh.

    Attributes:
      has_latents: whether there is an encoder; without one the decoder is told no latents.
      latents: ImageLatents, or NoLatents in their place.
    """

    main_feature = "anchor"

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self.config = config
        self.modules: Mapping[str, nn.Module] = models.build(config)
        self.transform: Transform = whole_image(config.data)
        self._in_batches = batched(config, mesh)
        # Of a decoder that does not train there is nothing to evaluate.
        self._generates = config.training.get("generation_weight", 1.0) > 0
        self.has_latents = "encoder" in self.modules
        self.latents: Any = NoLatents()
        if self.has_latents:
            self.latents = ImageLatents(config, self.modules["encoder"], self._in_batches)
        self.decoder = ImageDecoder(config, self.modules["decoder"])
        self._reconstruction = Reconstruction(self.decoder, self._in_batches)
        self._interpolation = Interpolation(self.decoder, self._in_batches)
        self._sample_quality = SampleQuality(config)

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables of every network."""
        data, latent = self.config.data, self.config.latent
        image = jnp.zeros((1, data.image_size, data.image_size, data.channels))
        z = jnp.zeros((1, latent.dim)) if self.has_latents else None
        label = self._one_hot(jnp.zeros(1, jnp.int32))
        init: dict[str, Callable[[Any, Any], Any]] = {
            "decoder": lambda net, key: net.init(key, image, jnp.zeros(1), z, label, train=False),
            "encoder": lambda net, key: net.init(key, image, train=False),
            "label_anchors": lambda net, key: net.init(key),
        }
        keys = dict(zip(init, jax.random.split(key, len(init)), strict=True))
        return {name: init[name](net, keys[name]) for name, net in self.modules.items()}

    def _one_hot(self, labels: Array | np.ndarray | None) -> Array | None:
        """What the decoder is told of classes: nothing, unless a study has them."""
        return None

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Context anchors of the image encoder; empty without latents or context."""
        return self.latents.context(variables, train)

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `context` returns."""
        return self.latents.context_shapes()

    def embed(
        self, model: Model, images: Images, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """Features of images: anchor, latent, latent with α = 0; for runs with latents."""
        anchors = self.latents.all_anchors(model.variables, images)
        return {"anchor": anchors} | self.latents.features(model.context, anchors, key=key)

    def sample(
        self,
        model: Model,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Examples:
        """Generated images; UserError for labels in a study without classes."""
        drawn = self._draw(model, count, labels, key)
        return Examples(drawn["images"], drawn["labels"])

    @abc.abstractmethod
    def _draw(
        self, model: Model, count: int, labels: np.ndarray | None, key: PRNGKeyArray | None
    ) -> dict[str, np.ndarray]:
        """`images` 0 to `count` - 1, their `labels`, and `num_evaluations` of the velocity."""

    def _generated(
        self,
        generate: Callable[..., Any],
        model: Model,
        request: Any,
        key: PRNGKeyArray | None = None,
        description: str = "sampling",
    ) -> Any:
        """`generate(variables, key, request)` in batches; key None is that of the config's seed."""
        key = key_or_seed(key, self.config.seed)
        generate = functools.partial(generate, model.variables, key)
        return self._in_batches(generate, request, description=description)

    def reconstruct(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """Images to noise and back given what the decoder is told of them (paper C.3, E.3)."""
        condition = self._condition(model, images, labels, key)
        return self._reconstruction(model.variables, images, condition)

    def interpolate(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """From the first of two images to the second; labels as in `reconstruct`."""
        condition = self._condition(model, images, labels, key)
        return self._interpolation(model.variables, images, condition)

    def _condition(
        self, model: Model, images: Images, labels: np.ndarray | None, key: PRNGKeyArray | None
    ) -> Condition:
        """What the decoder is told of images: latents at α = 1, as in training, and classes."""
        latents = self.latents.of_images(model.variables, model.context, images, 1.0, key)
        return latents, self._one_hot(labels)

    def prepare_evaluation(self) -> None:
        """Reads the weights of the networks that look at samples; raises UserError."""
        if self._generates:
            self._sample_quality.read_weights()

    def evaluate(
        self, model: Model, train: Examples, test: Examples, workdir: Path
    ) -> dict[str, float]:
        """Quality of samples and reconstruction error of test images, if the decoder trained."""
        if not self._generates:
            return {}
        metrics = self._evaluate_samples(model, train, workdir)
        rows = evaluated_rows(len(test.labels))
        images, labels = test.images[rows], test.labels[rows]
        result = self.reconstruct(model, images, labels)
        path = workdir / "figures" / "reconstructions.png"
        plots.reconstructions(path, images, result["images"], result["errors"])
        return metrics | {"reconstruction_l2": float(np.mean(result["errors"]))}

    @abc.abstractmethod
    def _evaluate_samples(self, model: Model, train: Examples, workdir: Path) -> dict[str, float]:
        """Metrics of samples, and pictures of them."""

    def _quality(
        self, drawn: Mapping[str, np.ndarray], train: Examples, workdir: Path, title: str
    ) -> dict[str, float]:
        """Metrics of drawn images against the training images, and their picture."""
        path = workdir / "figures" / "samples.png"
        plots.sample_grid(path, drawn["images"], drawn["labels"], title=title)
        return {
            **self._sample_quality(train, drawn["images"], workdir / "cache"),
            "sampling_evaluations": float(np.mean(drawn["num_evaluations"])),
        }
