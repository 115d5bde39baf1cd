"""What can be asked of a trained latent space: names of pairs of data types.

To sample is to go from the prior or a label to an image, to classify from an image to a label, to
embed from an image to its latent, to reconstruct and interpolate from images to images. Where a
task draws, None for its key is the key of the config's seed.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lzn_jax.configuration import UserError
from lzn_jax.data import Examples, Images
from lzn_jax.data_types import Condition
from lzn_jax.data_types.label import one_hot
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.models import Variables
from lzn_jax.randomness import Stream, key_or_seed, normal_by_index
from lzn_jax.tasks.interpolation import Interpolation

NOISE_SCALE = 0.0  # α at which images are classified: by the centre of their zone
NO_CLASS = -1  # label of an image of no asked class


class Predictions(NamedTuple):
    """Classes of n images, and the flow's probability of each, in [0, 1]."""

    classes: np.ndarray
    probabilities: np.ndarray


class Tasks:
    """The tasks of a latent space, on any number of examples.

    Attributes:
      has_latents: whether there are encoders; a rectified flow alone has none.
      has_classes: whether labels are a type of the space.
    """

    def __init__(self, space: LatentSpace) -> None:
        self.space, self.config = space, space.config
        self.has_latents = bool(space.encoders)
        self.has_classes = "label" in space.types
        self.decoder = cast(Any, space.types["image"].decoder)
        if self.has_latents:
            self._features = jax.jit(space.encoders["image"].features)
        if self.has_classes:
            self._predictions = jax.jit(self.predict)
        if self.decoder is not None:
            self._generate, self._generate_any = map(jax.jit, (self.generate, self.generate_any))
            self._reconstruct = jax.jit(self.decoder.reconstruct)
            self._interpolation = Interpolation(self.decoder, space.in_batches)

    # Pure functions of variables and a batch of examples.

    def generate(
        self, variables: Variables, key: PRNGKeyArray, request: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Image i of class `labels`, from a latent drawn in the label's zone (paper §5.1)."""
        labels, index, latents = request["labels"], request["index"], None
        if self.has_latents:
            latents = self.label_latents(
                variables, labels, self._noise(key, Stream.SAMPLE_LATENTS, index)
            )
        return self.decoder.generate(variables, key, (latents, self._told(labels)), index)

    def generate_any(
        self, variables: Variables, key: PRNGKeyArray, request: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Image i from a latent of the prior (§3.1), of the class in whose zone that lies (E.3).

        Without classes `labels` are -1.
        """
        index, latents = request["index"], None
        labels = jnp.full(index.shape, NO_CLASS, jnp.int32)
        if self.has_latents:
            latents = self._noise(key, Stream.PRIOR_LATENTS, index)
            if self.has_classes:
                labels = self.predict(variables, latents)["classes"]
        condition = (latents, self._told(labels))
        return {**self.decoder.generate(variables, key, condition, index), "labels": labels}

    def label_latents(
        self, variables: Variables, labels: Int[Array, " b"], noise: Float[Array, "b q"]
    ) -> Float[Array, "b q"]:
        """Latents of labels among all classes."""
        encoder, solver = self.space.encoders["label"], self.space.alignment_solver
        latents: Array = encoder.latents(variables, labels, noise, solver)
        return latents

    def predict(self, variables: Variables, latents: Float[Array, "b q"]) -> dict[str, Array]:
        """`classes` (b,) of latents, and the flow's `probabilities` of them (paper §5.1)."""
        encoder, solver = self.space.encoders["label"], self.space.alignment_solver
        found: dict[str, Array] = encoder.predict(variables, latents, solver)
        return found

    def _noise(self, key: PRNGKeyArray, stream: Stream, index: Array) -> Array:
        return normal_by_index(key, stream, index, (self.config.latent.dim,))

    def _told(self, labels: np.ndarray | Array | None) -> Array | None:
        """What the decoder is told of labels."""
        if self.decoder.told is None or labels is None:
            return None
        return one_hot(labels, self.config.data.num_classes)

    # Tasks.

    def embed(
        self,
        model: Model,
        images: Images,
        stream: Stream = Stream.IMAGE_LATENTS,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """Features of images by name, (n, d) each: the network's, latent, latent with α = 0.

        Representations have the paper's four (D.3). Raises UserError for a run without latents.
        """
        encoder = self.space.encoder("image")
        encode = functools.partial(self._features, model.variables)
        found = self.space.in_batches(encode, images, description="embedding")
        anchors = found[encoder.anchor_feature]
        return found | self.space.latent_features(model.context, anchors, stream, key)

    def sample(
        self,
        model: Model,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Examples:
        """Generated images of classes, None: all in equal shares; where there are none, -1.

        Raises UserError for labels in a space without classes.
        """
        drawn = self.draw(model, count, labels, key)
        return Examples(drawn["images"], drawn["labels"])

    def draw(
        self,
        model: Model,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """`images` 0 to `count` - 1, their `labels`, and `num_evaluations` of the velocity."""
        if not self.has_classes:
            if labels is not None:
                raise UserError("a generation study has no classes: leave labels out")
            return self.draw_any(model, count, key)
        index = np.arange(count)
        if labels is None:
            labels = (index % self.config.data.num_classes).astype(np.int32)
        request = {"labels": labels, "index": index}
        return self._drawn(self._generate, model, request, key, "sampling") | {"labels": labels}

    def draw_any(
        self, model: Model, count: int, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """As `draw`, from the prior: of classes nobody asked for."""
        description = "sampling any class" if self.has_classes else "sampling"
        request = {"index": np.arange(count)}
        return self._drawn(self._generate_any, model, request, key, description)

    def _drawn(
        self, generate: Any, model: Model, request: Any, key: PRNGKeyArray | None, description: str
    ) -> dict[str, np.ndarray]:
        key = key_or_seed(key, self.config.seed)
        generate = functools.partial(generate, model.variables, key)
        drawn: dict[str, np.ndarray] = self.space.in_batches(
            generate, request, description=description
        )
        return drawn

    def classify(self, model: Model, images: Images) -> Predictions:
        """Class and probability of each image, from the middle of its zone.

        Raises UserError for a run without latents.
        """
        if not self.has_latents:
            raise UserError("a run with latent.enabled=False has no latents to classify by")
        anchors = self.space.anchors(model.variables, images)
        return self.classes(model, self.space.latents(model.context, anchors, NOISE_SCALE))

    def classes(self, model: Model, latents: np.ndarray | Array) -> Predictions:
        """Classes of latents."""
        predict = functools.partial(self._predictions, model.variables)
        return Predictions(**self.space.in_batches(predict, latents, description="classifying"))

    def reconstruct(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """`images` to noise and back, and their `errors` (n,), l2 norms in [-1, 1] (C.3, E.3).

        Labels that are not given are those that `classify` finds.
        """
        request = (images, self.condition(model, images, labels, key))
        found: dict[str, np.ndarray] = self.space.in_batches(
            lambda batch: self._reconstruct(model.variables, *batch),
            request,
            description="reconstructing",
        )
        return found

    def interpolate(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> dict[str, np.ndarray]:
        """`images` from the first of two to the second, and `weights` of the second.

        Labels as for `reconstruct`.
        """
        condition = self.condition(model, images, labels, key)
        return self._interpolation(model.variables, images, condition)

    def condition(
        self,
        model: Model,
        images: Images,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Condition:
        """What the decoder is told of images: latents at α = 1, as in training, and classes."""
        if labels is None and self.has_classes:
            labels = self.classify(model, images).classes
        if not self.has_latents:
            return None, self._told(labels)
        anchors = self.space.anchors(model.variables, images)
        return self.space.latents(model.context, anchors, 1.0, key=key), self._told(labels)
