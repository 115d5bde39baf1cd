"""Case study 1: generation from latents (paper §3, C).

A rectified flow whose velocity also depends on the image's latent. Training computes latents of
a batch among its own anchors, with no loss but the flow's; sampling draws latents from the prior.
Without latents (`latent.enabled` False) what is left is the baseline, a plain rectified flow.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax import models, plots
from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, Images, Transform, normalise, whole_image
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, key_or_seed, normal_by_index
from lzn_jax.studies import Model, batched
from lzn_jax.studies.image_decoder import Condition, ImageDecoder
from lzn_jax.studies.image_latents import ImageLatents
from lzn_jax.studies.interpolation import Interpolation
from lzn_jax.studies.reconstruction import Reconstruction, evaluated_rows
from lzn_jax.studies.sample_quality import SampleQuality

NO_CLASS = -1  # label of an image of no asked class


class Generation:
    """The generation study of a config; inference divides its batches over the mesh."""

    main_feature = "anchor"

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        self.config = config
        self.modules: Mapping[str, nn.Module] = models.build(config)
        self.transform: Transform = whole_image(config.data)
        self._in_batches = batched(config, mesh)
        self.decoder = ImageDecoder(config, self.modules["decoder"])
        if config.latent.enabled:
            self.latents = ImageLatents(config, self.modules["encoder"], self._in_batches)
        self._generate = jax.jit(self.generate)
        self._reconstruction = Reconstruction(self.decoder, self._in_batches)
        self._interpolation = Interpolation(self.decoder, self._in_batches)
        self._sample_quality = SampleQuality(config)

    def init(self, key: jax.Array) -> Variables:
        """Fresh variables of every network."""
        data, latent = self.config.data, self.config.latent
        image = jnp.zeros((1, data.image_size, data.image_size, data.channels))
        decoder_key, encoder_key = jax.random.split(key)
        z = jnp.zeros((1, latent.dim)) if latent.enabled else None
        decoder, time = self.modules["decoder"], jnp.zeros(1)
        variables = {"decoder": decoder.init(decoder_key, image, time, z, None, train=False)}
        if latent.enabled:
            variables["encoder"] = self.modules["encoder"].init(encoder_key, image, train=False)
        return variables

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Rectified-flow loss given each image's own latent (paper §3.1); labels are not read."""
        images = normalise(batch["images"])
        flow_key, decoder_key, encoder_key, latent_key = jax.random.split(key, 4)
        latents = None
        if self.config.latent.enabled:
            anchors = self.latents.training_anchors(variables, images, encoder_key)
            latents = self.latents.draw(anchors, latent_key, self.config.latent.noise_scale)
        keys = (flow_key, decoder_key)
        return self.decoder.loss(variables, images, (latents, None), keys), {}

    def generate(self, variables: Variables, key: PRNGKeyArray, index: Array) -> dict[str, Array]:
        """Images of the given numbers, from latents of the prior: a pure function."""
        latents = None
        if self.config.latent.enabled:
            shape = (self.config.latent.dim,)
            latents = normal_by_index(key, Stream.PRIOR_LATENTS, index, shape)
        return self.decoder.generate(variables, key, (latents, None), index)

    def context(self, variables: Variables, train: Examples) -> dict[str, jax.Array]:
        """Context anchors of the image encoder; empty without latents or context."""
        return self.latents.context(variables, train) if self.config.latent.enabled else {}

    def context_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what `context` returns."""
        return self.latents.context_shapes() if self.config.latent.enabled else {}

    def sample(
        self,
        model: Model,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Examples:
        """`count` images of no asked class; raises UserError for labels."""
        if labels is not None:
            raise UserError("a generation study has no classes: leave labels out")
        images = self._draw(model, count, key)["images"]
        return Examples(images, np.full(count, NO_CLASS, np.int32))

    def _draw(
        self, model: Model, count: int, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """`generate` of the images 0 to `count` - 1; key None is that of the config's seed."""
        key = key_or_seed(key, self.config.seed)
        generate = functools.partial(self._generate, model.variables, key)
        drawn: dict[str, np.ndarray] = self._in_batches(
            generate, np.arange(count), description="sampling"
        )
        return drawn

    def reconstruct(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """Images to noise and back given their latents (α = 1, paper C.3); labels are not read."""
        condition = self._condition(model, images, key)
        return self._reconstruction(model.variables, images, condition)

    def interpolate(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """From the first of two images to the second; labels are not read."""
        condition = self._condition(model, images, key)
        return self._interpolation(model.variables, images, condition)

    def _condition(self, model: Model, images: Images, key: PRNGKeyArray | None) -> Condition:
        """What the decoder gets to see of images: latents at α = 1, as in training."""
        if not self.config.latent.enabled:
            return None, None
        anchors = self.latents.all_anchors(model.variables, images)
        return self.latents.latents(model.context, anchors, 1.0, key=key), None

    def embed(
        self, model: Model, images: Images, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """Features of images: anchor, latent, latent with α = 0; for runs with latents."""
        anchors = self.latents.all_anchors(model.variables, images)
        return {"anchor": anchors} | self.latents.features(model.context, anchors, key=key)

    def prepare_evaluation(self) -> None:
        """Reads the weights of the networks that look at samples; raises UserError."""
        self._sample_quality.read_weights()

    def evaluate(
        self, model: Model, train: Examples, test: Examples, workdir: Path
    ) -> dict[str, float]:
        """Quality of samples against the training images, reconstruction error of test images."""
        folder = workdir / "figures"
        count = self.config.evaluation.num_samples
        drawn = self._draw(model, count)
        no_class = np.full(count, NO_CLASS)
        plots.sample_grid(folder / "samples.png", drawn["images"], no_class, title="Samples")
        images = test.images[evaluated_rows(len(test.labels))]
        result = self.reconstruct(model, images)
        plots.reconstructions(
            folder / "reconstructions.png", images, result["images"], result["errors"]
        )
        return {
            **self._sample_quality(train, drawn["images"], workdir / "cache"),
            "sampling_evaluations": float(np.mean(drawn["num_evaluations"])),
            "reconstruction_l2": float(np.mean(result["errors"])),
        }
