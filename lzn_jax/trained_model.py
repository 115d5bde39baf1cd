"""API of a trained run, as returned by `lzn_jax.load(workdir)`.

Each method performs one task on any number of samples, in batches that are divided over the
devices. Methods call the pure functions of `lzn_jax.inference`. `classify`, `sample` and `generate`
are translations too.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import inference
from lzn_jax.data import Examples
from lzn_jax.data.arrays import Given
from lzn_jax.data.pixels import EncodedImages
from lzn_jax.data_types import Classifier, Condition, Context, DataType, Invertible, Model, Samples
from lzn_jax.errors import UserError
from lzn_jax.latent_space import LatentSpace
from lzn_jax.models import Tree, key_or_seed

NUM_IMAGES = 11


def paths(
    noise: Float[np.ndarray, "2 ..."], condition: Condition
) -> tuple[Float[np.ndarray, " k"], tuple[Array, Condition]]:
    """Weights of the second image, and (noise, condition) along the path between two images.

    Latents, drawn at α = 1, and noise follow a great circle, which keeps Gaussian draws Gaussian.
    Further conditions are interpolated linearly.
    """
    weights, (latents, further) = jnp.linspace(0.0, 1.0, NUM_IMAGES), condition
    path: Condition = (
        None if latents is None else great_circle(jnp.asarray(latents), weights),
        None if further is None else straight_line(jnp.asarray(further), weights),
    )
    return np.asarray(weights), (great_circle(jnp.asarray(noise), weights), path)


@jax.jit
def straight_line(
    ends: Float[Array, "2 ..."], weights: Float[Array, " k"]
) -> Float[Array, "k ..."]:
    """Linear interpolation of two points, given weights in [0, 1] of the second."""
    w = weights.reshape(-1, *[1] * (ends.ndim - 1))
    return (1 - w) * ends[0] + w * ends[1]


@jax.jit
def great_circle(ends: Float[Array, "2 ..."], weights: Float[Array, " k"]) -> Float[Array, "k ..."]:
    """Spherical interpolation (Shoemake, 1985), given weights in [0, 1] of the second point.

    The interpolation is linear if the points lie in the same or opposite directions.
    """
    norms = jnp.linalg.norm(ends.reshape(2, -1), axis=1)
    cosine = jnp.vdot(ends[0], ends[1]) / jnp.maximum(jnp.prod(norms), 1e-12)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    is_line = jnp.sin(angle) < 1e-3
    w = weights.reshape(-1, *[1] * (ends.ndim - 1))
    curve = jnp.sin((1 - w) * angle) * ends[0] + jnp.sin(w * angle) * ends[1]
    sine = jnp.where(is_line, 1.0, jnp.sin(angle))
    return jnp.where(is_line, straight_line(ends, weights), curve / sine)


Images = np.ndarray | Array | EncodedImages
Labels = np.ndarray | Array | Sequence[int]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A latent space with trained weights and context anchors.

    Images are NumPy or JAX arrays (n, h, w, c) uint8 with the size and channels of `config.data`.
    Results are NumPy arrays. With context anchors, the result for a sample does not depend on the
    other samples. Without them (`latent.context_size` 0), the samples of a call cut the zones. All
    random numbers of a call derive from `key` and the row of a sample. By default `key` is the key
    of the config's seed, as on the command line.

    All methods raise UserError for invalid samples and for tasks that the run does not support.

    Attributes:
      space: the latent space.
      model: variables of the networks by name, and context anchors.
      step: number of updates before the checkpoint.
      given: the data of `lzn_jax.fit`, which `lzn_jax.data.load` finds while the model exists.
    """

    space: LatentSpace
    model: Model
    step: int
    given: Given | None = None

    @property
    def config(self) -> ConfigDict:
        """The immutable config of the run."""
        return self.space.config

    @property
    def has_latents(self) -> bool:
        """Whether the run uses encoders, unlike a plain rectified flow."""
        return bool(self.space.encoders)

    @property
    def main_type(self) -> str:
        """The first data type of the config, which is images if the space contains images."""
        return next(iter(self.space.types))

    @property
    def class_type(self) -> str | None:
        """The data type whose samples are classes, or None."""
        return next((n for n, each in self.space.types.items() if each.has_classes), None)

    @property
    def main_feature(self) -> str:
        """Name of the main feature in the results of `embed`."""
        return self._encoder(self.main_type).main_feature

    @property
    def translations(self) -> tuple[tuple[str, str], ...]:
        """Supported translations (source, target), none for a baseline."""
        if self.config.objective != "lzn":
            return ()
        encoders = self.space.encoders
        classifiers = [n for n, e in encoders.items() if isinstance(e, Classifier)]
        targets = [*self.space.decoders, *classifiers]
        return tuple((s, t) for s in encoders for t in targets if s != t)

    def __repr__(self) -> str:
        """One line, without the weights."""
        study = self.config.study or " and ".join(self.config.types)
        return f"TrainedModel({study} on {self.config.data.name}, step {self.step})"

    def read_images(self, path: str | Path) -> UInt8[np.ndarray, "n h w c"]:
        """Images of a file or a folder as the run reads them, like `--input` (docs/own_images.md).

        They are in the order of their names. One log line counts the changes.
        """
        if not self.space.types[self.main_type].is_images:
            raise UserError("the run has no images")
        return np.asarray(self.space.types[self.main_type].named(str(path))[0])

    def anchors(self, samples: Samples, *, source: str | None = None) -> Float[np.ndarray, "n q"]:
        """Anchors of samples of a data type (default: the main type)."""
        source = source or self.main_type
        encoded = self._encoded(samples, source)
        if source not in self.space.plan.encoders:
            raise UserError(f"nothing is aligned with {source}s, so they have no anchors")
        return self.space.anchors(self.model.variables, encoded, source)

    def draw_latents(
        self,
        anchors: Float[np.ndarray | Array, "n q"],
        noise_scale: float,
        key: PRNGKeyArray | None = None,
        *,
        source: str | None = None,
        among: Float[np.ndarray | Array, "c q"] | None = None,
        noise: str | None = None,
        index: Int[np.ndarray, " n"] | None = None,
    ) -> Float[np.ndarray, "n q"]:
        """Latents of a data type's anchors, each computed among context anchors (paper §2.2.1).

        Args:
          anchors: anchors of samples.
          noise_scale: α. 0 gives the centre of each zone.
          key: random key.
          source: data type of the anchors, by default the main type.
          among: context anchors in place of the run's. If empty, only `anchors` cut the zones.
          noise: name of the noise. Sets of samples need different names for independent noise.
          index: index of each row's noise, by default the row.
        """
        source = source or self.main_type
        key, name = key_or_seed(key, self.config.seed), noise or source
        request = {"anchors": anchors, "index": np.arange(len(anchors)) if index is None else index}
        context = self.model.context.get(source) if among is None else Context(jnp.asarray(among))
        if context is None or len(context.anchors) == 0:
            rows = {name: jnp.asarray(each) for name, each in request.items()}
            return np.asarray(
                inference.draw_latents(self.space, None, key, noise_scale, rows, name)
            )
        return self._run(
            inference.draw_latents, request, "zoning", context, key, noise_scale, name=name
        )

    def encode(
        self,
        samples: Samples,
        key: PRNGKeyArray | None = None,
        noise_scale: float | None = None,
        *,
        source: str | None = None,
    ) -> Float[np.ndarray, "n q"]:
        """Latents of samples, each computed among its type's context anchors (paper §2.2.1).

        `noise_scale` is α, by default `config.latent.noise_scale`. 1 draws from the whole zone, and
        0 gives its centre.
        """
        source = source or self.main_type
        scale = self.config.latent.noise_scale if noise_scale is None else noise_scale
        return self._latents_of(self._encoded(samples, source), source, scale, key)

    def translate(
        self,
        samples: Samples,
        source: str,
        target: str,
        *,
        key: PRNGKeyArray | None = None,
        noise_scale: float | None = None,
    ) -> Samples:
        """Translates samples from one data type to another, see `translations` (paper Fig. 1).

        Images are (n, h, w, c) uint8, labels (n,) int, and texts a list of strings. `noise_scale`
        is α of the source's latents, by default `default_scale`.
        """
        self.check_pair(source, target)
        if noise_scale is None:
            noise_scale = self.default_scale(source, target)
        encoded = self._encoded(samples, source)
        return self._samples(target, self._made(encoded, source, target, noise_scale, key))

    def default_scale(self, source: str, target: str) -> float:
        """Default α of a translation, 1 from labels or to images and otherwise 0.

        Unless the decoder is conditioned on the source, α is at most the α of the alignment of both
        types. Latents further from the zone's centre lie in zones of other samples.
        """
        types, space = self.space.types, self.space
        scale = max(types[source].source_scale, types[target].target_scale)
        decoder = space.decoders.get(target)
        if decoder is not None and decoder.condition == source:
            return scale
        pair = {source, target}
        between = [a.draw for a in space.plan.alignings if {a.draw.source, a.target} == pair]
        return min([scale, *(draw.scale for draw in between if draw.scale is not None)])

    def generate(self, target: str, count: int, key: PRNGKeyArray | None = None) -> Samples:
        """Decodes `count` latents from the prior to samples of a data type."""
        self.check_pair(None, target)
        return self._samples(target, self.draw(count, None, key, target=target))

    def embed(
        self, images: Images, key: PRNGKeyArray | None = None, *, noise: str | None = None
    ) -> dict[str, Float[np.ndarray, "n d"]]:
        """Features of samples of the main type by name (see `main_feature`).

        They are the encoder's features, `latent` and `latent_centre` (α = 0). `noise` names the
        noise of `latent` (see `draw_latents`).
        """
        source = self.main_type
        encoder, images = self._encoder(source), self._encoded(images, source)
        variables = self.model.variables
        features = self._run(inference.features, images, "encoding", variables, source=source)
        anchors = features[encoder.anchor_feature]
        return features | self.latent_features(anchors, key, noise=noise)

    def latent_features(
        self, anchors: np.ndarray, key: PRNGKeyArray | None = None, **options: Any
    ) -> dict[str, Float[np.ndarray, "n q"]]:
        """Results of `draw_latents`: `latent` at the config's α and `latent_centre` at α = 0."""
        scales = {"latent": self.config.latent.noise_scale, "latent_centre": 0.0}
        return {n: self.draw_latents(anchors, scale, key, **options) for n, scale in scales.items()}

    def classify(self, samples: Samples, *, source: str | None = None) -> inference.Predictions:
        """Classes of samples and their probabilities, at the centres of the zones (paper §5).

        The result also says which samples are far (see `are_far`).
        """
        source, target = source or self.main_type, self.class_type or "label"
        encoded = self._encoded(samples, source)
        self.check_pair(source, target)
        found = inference.Predictions(**self._made(encoded, source, target, 0.0))
        return found._replace(far=self._are_far(encoded, source))

    def are_far(
        self, samples: Samples, *, source: str | None = None
    ) -> Bool[np.ndarray, " n"] | None:
        """Whether samples are unlike the training data: their classes mean little.

        A sample is far if the decoder, given the centre of the sample's zone, explains it worse
        than 1.4 times the 99 % quantile of the context's samples (see `Measuring`). None without
        such a decoder or without context anchors.
        """
        source = source or self.main_type
        return self._are_far(self._encoded(samples, source), source)

    def _are_far(self, encoded: Samples, source: str) -> Bool[np.ndarray, " n"] | None:
        if source not in self.space.measured:
            return None
        request = {"samples": encoded, "index": np.arange(len(encoded))}
        found = self._run(inference.misfits, request, "measuring", self.model, source=source)
        return ~(found <= np.asarray(self.model.context[source].limit))  # NaN is far

    def classes(self, latents: Float[np.ndarray | Array, "n q"]) -> inference.Predictions:
        """Classes of latents and the probabilities of these classes."""
        return inference.Predictions(**self._by_class(inference.predict, latents))

    def class_probabilities(self, images: Images) -> Float[np.ndarray, "n c"]:
        """Probabilities of all classes at the centre of each image's zone. Rows sum to 1."""
        encoded = self._encoded(images, self.main_type)
        self.check_pair(self.main_type, self.class_type or "label")
        latents = self._latents_of(encoded, self.main_type, 0.0)
        return self._by_class(inference.class_probabilities, latents)

    def _by_class(self, function: Callable[..., Tree], latents: Array | np.ndarray) -> Tree:
        return self._run(function, latents, "classifying", self.model, target=self.class_type)

    def siblings(
        self, images: Images, key: PRNGKeyArray | None = None
    ) -> UInt8[np.ndarray, "n h w c"]:
        """Decodes a random latent of each image's zone as another image (paper §3.1)."""
        images, main = self._encoded(images, self.main_type), self.main_type
        self.check_pair(None, main)
        return self._samples(main, self._made(images, main, main, 1.0, key))

    def sample(
        self, count: int, key: PRNGKeyArray | None = None, labels: Labels | None = None
    ) -> Examples:
        """Generates `count` images of the classes `labels` (paper §3, §5).

        By default all classes get equal shares. Without classes the labels of the result are -1.
        """
        self.check_pair(None, self.main_type)
        classes = self._checked_labels(labels, count)
        if labels is not None and classes is None:
            raise UserError("the run has no classes: leave labels out")
        if classes is None and self.class_type is not None:
            classes = (np.arange(count) % self.config.data.num_classes).astype(np.int32)
        drawn = self.draw(count, classes, key)
        return Examples(self._samples(self.main_type, drawn), drawn["labels"])

    def draw(
        self,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
        *,
        target: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Generates samples 0 to `count` - 1 of classes, or from the prior without labels.

        Returns the result of `inference.decode`, such as `images`, and their `labels`.
        """
        if count < 1:
            raise UserError(f"the number of samples must be at least 1, got {count}")
        source, target = None if labels is None else self.class_type, target or self.main_type
        scale = 1.0 if source is None else self.default_scale(source, target)
        drawn = self._made(labels, source, target, scale, key, count)
        return {"labels": np.full(count, inference.NO_CLASS, np.int32)} | drawn

    def reconstruct(
        self, images: Images, labels: Labels | None = None, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """Reconstructs samples of the main type from their own noise (paper C.3).

        Returns samples as `output` of the type, such as `images`, and their l2 `errors`, for images
        in units of [-1, 1]. If the decoder needs labels, they are by default the result of
        `classify`.
        """
        images = self._encoded(images, self.main_type)
        self._check_inverts()
        request = (images, self._condition(images, labels, key))
        result = self._flow("reconstruct", request)
        output = self.space.types[self.main_type].output
        return result | {output: self._samples(self.main_type, result)}

    def _flow(self, task: str, request: tuple[Samples, Condition]) -> Tree:
        variables, static = self.model.variables, {"target": self.main_type, "task": task}
        return self._run(inference.through_flow, request, task, variables, **static)

    def interpolate(
        self, images: Images, labels: Labels | None = None, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """Interpolates between two samples of the main type in latents and noise.

        Returns samples from the first to the second as `output` of the type, such as `images`, the
        `weights` of the second, and the `latents` of the path if the run has latents. The first and
        last sample are reconstructions. `labels` are as in `reconstruct`.
        """
        images, kind = self._encoded(images, self.main_type), self.space.types[self.main_type]
        self._check_inverts()
        if len(images) != 2:
            raise UserError(f"interpolation is between two {kind.plural}, got {len(images)}")
        condition = self._condition(images, labels, key)
        weights, path = paths(self._flow("invert", (images, condition)), condition)
        rendered = {kind.output: self._flow("render", path)}
        result = {kind.output: self._samples(kind.name, rendered), "weights": weights}
        latents, _ = path[1]
        return result if latents is None else result | {"latents": np.asarray(latents)}

    def context_samples(self, name: str, numbers: Int[np.ndarray, " n"]) -> Samples:
        """Context samples of a type by number, such as known texts."""
        kept = np.asarray(self.model.context[name].samples)[numbers]
        return self.space.types[name].decoded(kept)

    def check_pair(self, source: str | None, target: str) -> None:
        """Raises UserError for an unsupported translation, or generation if the source is None."""
        pairs = self.translations
        targets = {target for _, target in pairs} | set(self.space.decoders)
        if (source, target) not in pairs and not (source is None and target in targets):
            named = ", ".join(" to ".join(pair) for pair in pairs) or "nothing"
            start = "generate" if source is None else f"translate {source} to"
            raise UserError(f"the run does not {start} {target}; it translates {named}")

    def _samples(self, target: str, decoded: Mapping[str, np.ndarray]) -> Samples:
        """Samples of a type in the result of `inference.decode`, in the form for users."""
        data_type = self.space.types[target]
        is_decoded = target in self.space.decoders
        return data_type.decoded(decoded[data_type.output if is_decoded else "classes"])

    def _made(
        self,
        samples: Samples,
        source: str | None,
        target: str,
        noise_scale: float,
        key: PRNGKeyArray | None = None,
        count: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Result of `inference.translate` for encoded samples, or for `count` prior latents."""
        request: dict[str, Samples] = {"index": np.arange(count or len(samples))}
        if source is not None:
            request["samples"] = samples
            if inference.cuts_zones(self.space, self.model, source):
                request["latents"] = self._latents_of(samples, source, noise_scale, key)
        arrays = self.model, key_or_seed(key, self.config.seed), noise_scale
        ends = {"source": source, "target": target}
        description = f"{source or 'prior'} to {target}"
        return self._run(inference.translate, request, description, *arrays, **ends)

    def _latents_of(
        self, samples: Samples, source: str, noise_scale: float, key: PRNGKeyArray | None = None
    ) -> np.ndarray:
        """Latents of encoded samples."""
        self._encoder(source)
        if inference.cuts_zones(self.space, self.model, source):
            anchors = self.space.anchors(self.model.variables, samples, source)
            return self.draw_latents(anchors, noise_scale, key, source=source)
        request = {"samples": samples, "index": np.arange(len(samples))}
        arrays = self.model, key_or_seed(key, self.config.seed), noise_scale
        return self._run(inference.encode, request, "encoding", *arrays, source=source)

    def _condition(self, images: Samples, labels: Samples, key: PRNGKeyArray | None) -> Condition:
        """Latents at α = 1, as in training, and the further condition of the decoder."""
        main, class_type = self.main_type, self.class_type
        decoder, labels = self.space.decoders[main], self._checked_labels(labels, len(images))
        latents = self._latents_of(images, main, 1.0, key) if self.has_latents else None
        own = latents if decoder.sources else None
        if (name := decoder.condition) is None:
            return own, None
        if labels is None and class_type is not None:
            self.check_pair(main, class_type)
            labels = self.classes(self._latents_of(images, main, 0.0)).classes
        known = {} if class_type is None else {class_type: labels}
        request = {"latents": latents, "samples": known}
        further, _ = self._run(inference.condition, request, "finding zones", self.model, name=name)
        return own, further

    def _run(
        self,
        function: Callable[..., Tree],
        examples: Tree,
        description: str,
        *arrays: Tree,
        **static: object,
    ) -> Tree:
        """Result of the jitted `function(space, *arrays, examples, **static)`, in batches."""
        call = functools.partial(self.space.jitted(function, tuple(static)), *arrays, **static)
        return self.space.in_batches(call, examples, description=description)

    def _encoder(self, name: str) -> Any:
        """The encoder of a type. Raises UserError if it is missing."""
        encoders = self.space.encoders
        if name not in encoders:
            listed = ", ".join(encoders) or "none, as latent.enabled=False"
            raise UserError(f"{name!r} has no encoder in this run; types with encoders: {listed}")
        return encoders[name]

    def _encoded(self, samples: Samples, source: str) -> Samples:
        """Checked samples of a data type in the form that its encoder reads."""
        if source not in self.space.types:
            self._encoder(source)
        data_type: DataType = self.space.types[source]
        return data_type.encoded(data_type.checked(samples))

    def _check_inverts(self) -> None:
        self.check_pair(None, self.main_type)
        decoder = self.space.decoders.get(self.main_type)
        if not isinstance(decoder, Invertible):
            raise UserError(f"{type(decoder).__name__} has no invert, render and reconstruct")

    def _checked_labels(self, labels: Samples, count: int) -> np.ndarray | None:
        if labels is None or self.class_type is None:
            return None
        checked: np.ndarray = self.space.types[self.class_type].checked(labels)
        if len(checked) != count:
            raise UserError(
                f"labels must be {count} integers, one per {self.main_type}, got {checked.shape}"
            )
        return checked
