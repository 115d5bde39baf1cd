"""Case study 1: generation from latents (paper §3, C).

A rectified flow whose velocity also depends on the image's latent. Training computes latents of
a batch among its own anchors, with no loss but the flow's; sampling draws latents from the prior.
Without latents (`latent.enabled` False) what is left is the baseline, a plain rectified flow.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray
from ml_collections import ConfigDict

from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, normalise
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, normal_by_index
from lzn_jax.studies import Model
from lzn_jax.studies.images import ImageStudy

NO_CLASS = -1  # label of an image of no asked class


class Generation(ImageStudy):
    """The generation study of a config; labels of images are not read."""

    def __init__(self, config: ConfigDict, mesh: Mesh) -> None:
        super().__init__(config, mesh)
        self._generate = jax.jit(self.generate)

    def loss(
        self, variables: Variables, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Rectified-flow loss given each image's own latent (paper §3.1)."""
        images = normalise(batch["images"])
        flow_key, decoder_key, encoder_key, latent_key = jax.random.split(key, 4)
        draws = [(latent_key, self.config.latent.noise_scale)]
        (latents,) = self.latents.training_latents(variables, images, encoder_key, draws)
        keys = (flow_key, decoder_key)
        return self.decoder.loss(variables, images, (latents, None), keys), {}

    def generate(self, variables: Variables, key: PRNGKeyArray, index: Array) -> dict[str, Array]:
        """Images of the given numbers, from latents of the prior: a pure function."""
        latents = None
        if self.has_latents:
            shape = (self.config.latent.dim,)
            latents = normal_by_index(key, Stream.PRIOR_LATENTS, index, shape)
        return self.decoder.generate(variables, key, (latents, None), index)

    def _draw(
        self, model: Model, count: int, labels: np.ndarray | None, key: PRNGKeyArray | None
    ) -> dict[str, np.ndarray]:
        """Images of no asked class; raises UserError for labels."""
        if labels is not None:
            raise UserError("a generation study has no classes: leave labels out")
        drawn = self._generated(self._generate, model, np.arange(count), key)
        return drawn | {"labels": np.full(count, NO_CLASS, np.int32)}

    def _evaluate_samples(self, model: Model, train: Examples, workdir: Path) -> dict[str, float]:
        drawn = self._draw(model, self.config.evaluation.num_samples, None, None)
        return self._quality(drawn, train, workdir, title="Samples")
