"""The tasks of a trained run, as `lzn_jax.load(workdir)` opens it.

Every method is a task, on any number of samples in batches that are divided over the devices: to
sample is to go from the prior or a label to an image, to classify from an image to a label, to
reconstruct and interpolate from images to images. Underneath are the pure functions of
`lzn_jax.inference`: `latents_in_context` (encode), `predict` (classify), `condition` and `decode`
(sample, translate), `features` (embed), `invert` and `render` (reconstruct, interpolate).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from lzn_jax import inference, interpolation, zoning
from lzn_jax.configuration import UserError
from lzn_jax.data import EncodedImages, Examples
from lzn_jax.data_types import Classifier, Condition, DataType, Invertible
from lzn_jax.latent_space import LatentSpace, Model
from lzn_jax.randomness import key_or_seed

Images = np.ndarray | Array | EncodedImages
Labels = np.ndarray | Array | Sequence[int]


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A latent space with weights and context anchors.

    Images are arrays (n, h, w, c) uint8, of NumPy or JAX, in the size and channels of
    `config.data`; results are NumPy arrays. With context anchors the result for a sample does not
    depend on the others; without any (`latent.context_size` 0) the samples at hand cut the zones. A
    key is that of every random draw of a call, row i drawing by its place i; None is the key of the
    config's seed, with which the modes of the command line draw.

    Every method raises UserError for samples that do not fit and for what the run cannot do.

    Attributes:
      space: its latent space.
      model: variables of the networks by name, and context anchors.
      step: updates that the checkpoint has had.
    """

    space: LatentSpace
    model: Model
    step: int

    @property
    def config(self) -> ConfigDict:
        """The run's config, immutable."""
        return self.space.config

    @property
    def has_latents(self) -> bool:
        """Whether there are encoders; a rectified flow alone has none."""
        return bool(self.space.encoders)

    @property
    def main_type(self) -> str:
        """The first data type of the config: images, in a space that has them."""
        return next(iter(self.space.types))

    @property
    def class_type(self) -> str | None:
        """The data type of classes, with or without zones; None where there is none."""
        return next((n for n, each in self.space.types.items() if each.has_classes), None)

    @property
    def classifies(self) -> bool:
        """Whether classes have zones; a baseline trains none."""
        return self.class_type in self.space.encoders and not self.space.baseline

    @property
    def main_feature(self) -> str:
        """The feature of images that counts, of those that `embed` finds."""
        name: str = self._encoder(self.main_type).main_feature
        return name

    @property
    def translations(self) -> tuple[tuple[str, str], ...]:
        """Pairs of data types that the run can go between; a baseline has no zones to go by."""
        if self.space.baseline:
            return ()
        encoders = self.space.encoders
        targets = [*self.space.decoders]
        targets += [n for n, e in encoders.items() if isinstance(e, Classifier)]
        return tuple((s, t) for s in encoders for t in targets if s != t)

    def __repr__(self) -> str:
        """One line: a notebook would show thousands, of weights."""
        return f"TrainedModel({self._study} on {self.config.data.name}, step {self.step})"

    def anchors(self, samples: Any, *, source: str | None = None) -> Float[np.ndarray, "n q"]:
        """Anchors: the encoder's output for samples of a data type."""
        source = source or self.main_type
        encoded = self._encoded(samples, source)
        if source not in self.space.own_encoders:
            raise UserError(f"nothing is aligned with {source}s: they have no anchors of their own")
        anchors: np.ndarray = self.space.anchors(self.model.variables, encoded, source)
        return anchors

    def latents(
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
        """Latents of anchors of a data type, each among its context anchors (paper §2.2.1).

        `among` are other context anchors; with an empty array the anchors at hand cut the zones.
        Row i has the noise of its `index`, None: i; sets that are compared need another `noise`.
        """
        source = source or self.main_type
        key, name = key_or_seed(key, self.config.seed), noise or source
        index = np.arange(len(anchors)) if index is None else index
        if among is None:
            among = self.model.context.get(self._encoder(source).anchors_key)
        if among is None or len(among) == 0:
            drawn = inference.prior(self.space, key, jnp.asarray(index), name)
            found = zoning.compute_latents(
                jnp.asarray(anchors), noise_scale * drawn, solver=self.space.solver
            )
            return np.asarray(found)
        request = {"anchors": anchors, "index": index}
        arrays = (among, key, noise_scale)
        return self._run(inference.latents_in_context, request, "zoning", *arrays, name=name)

    def encode(
        self,
        samples: Any,
        key: PRNGKeyArray | None = None,
        noise_scale: float | None = None,
        *,
        source: str | None = None,
    ) -> Float[np.ndarray, "n q"]:
        """Latents of samples, each among the context anchors of its type (paper §2.2.1).

        `noise_scale` is α: 1 samples a zone, 0 takes its centre, None is
        `config.latent.noise_scale`.
        """
        source = source or self.main_type
        scale = self.config.latent.noise_scale if noise_scale is None else noise_scale
        latents: np.ndarray = self._latents_of(self._encoded(samples, source), source, scale, key)
        return latents

    def translate(
        self,
        samples: Any,
        source: str,
        target: str,
        *,
        key: PRNGKeyArray | None = None,
        noise_scale: float | None = None,
    ) -> Any:
        """Samples of one data type as samples of another, a pair of `translations` (Fig. 1).

        Images are (n, h, w, c) uint8, labels (n,) int, texts a list of strings. `noise_scale` is α
        of the source's latents: None is 1 for images to be made and for labels, else 0.
        """
        self.check_pair(source, target)
        types = self.space.types
        if noise_scale is None:
            noise_scale = max(types[source].source_scale, types[target].target_scale)
        encoded = self._encoded(samples, source)
        return self._samples(
            target,
            self._decoded(encoded, source, target, noise_scale, key, f"{source} to {target}"),
        )

    def generate(self, target: str, count: int, key: PRNGKeyArray | None = None) -> Any:
        """`count` samples of a data type from latents of the prior."""
        self.check_pair(None, target)
        _check_count(count)
        return self._samples(target, self.draw(count, None, key, target=target))

    def embed(
        self, images: Images, key: PRNGKeyArray | None = None, *, noise: str | None = None
    ) -> dict[str, Float[np.ndarray, "n d"]]:
        """Features of images by name, (n, d) each: the network's, `latent`, `latent_centre` (α 0).

        `main_feature` names the one that counts; representations have the paper's four (D.3).
        """
        source = self.main_type
        encoder, images = self._encoder(source), self._encoded(images, source)
        variables = self.model.variables
        found = self._run(inference.features, images, "encoding", variables, source=source)
        return found | self.latents_by_name(found[encoder.anchor_feature], key, noise=noise)

    def latents_by_name(
        self, anchors: np.ndarray, key: PRNGKeyArray | None = None, **options: Any
    ) -> dict[str, Float[np.ndarray, "n q"]]:
        """`latents` as `latent` at the config's α and as `latent_centre` at α = 0."""
        scales = {"latent": self.config.latent.noise_scale, "latent_centre": 0.0}
        return {n: self.latents(anchors, scale, key, **options) for n, scale in scales.items()}

    def classify(self, samples: Any, *, source: str | None = None) -> inference.Predictions:
        """Class of each sample, from the centre of its zone, and its probability (paper §5)."""
        source = source or self.main_type
        encoded = self._encoded(samples, source)
        self._check_classifies()
        return self.classes(self._latents_of(encoded, source, 0.0))

    def classes(self, latents: Float[np.ndarray | Array, "n q"]) -> inference.Predictions:
        """Classes of latents, and their probabilities."""
        return inference.Predictions(**self._by_class(inference.predict, latents))

    def class_probabilities(self, images: Images) -> Float[np.ndarray, "n c"]:
        """Probabilities of all classes, from the centre of each image's zone; rows sum to 1."""
        encoded = self._encoded(images, self.main_type)
        self._check_classifies()
        latents = self._latents_of(encoded, self.main_type, 0.0)
        found: np.ndarray = self._by_class(inference.class_probabilities, latents)
        return found

    def _by_class(self, function: Any, latents: Any) -> Any:
        return self._run(function, latents, "classifying", self.model, target=self.class_type)

    def siblings(
        self, images: Images, key: PRNGKeyArray | None = None
    ) -> UInt8[np.ndarray, "n h w c"]:
        """For each image another one from its zone, by a random latent (paper §3.1)."""
        images, main = self._encoded(images, self.main_type), self.main_type
        self._check_generates("decode")
        found = self._decoded(images, main, main, 1.0, key, "decoding")
        siblings: np.ndarray = self._samples(main, found)
        return siblings

    def sample(
        self, count: int, key: PRNGKeyArray | None = None, labels: Labels | None = None
    ) -> Examples:
        """`count` new images with their classes `labels` (paper §3, §5).

        None: all classes in equal shares, or, where there are none, -1.
        """
        self._check_generates("generate")
        _check_count(count)
        if labels is not None and self.class_type is None:
            raise UserError("a generation study has no classes: leave labels out")
        asked = self._checked_labels(labels, count)
        if asked is None and self.class_type is not None:
            asked = (np.arange(count) % self.config.data.num_classes).astype(np.int32)
        drawn = self.draw(count, asked, key)
        return Examples(self._samples(self.main_type, drawn), drawn["labels"])

    def draw(
        self,
        count: int,
        labels: np.ndarray | None = None,
        key: PRNGKeyArray | None = None,
        *,
        target: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Samples 0 to `count` - 1 of classes, None: from the prior, with all that `decode` finds.

        Such as `images`, their `labels` and `num_evaluations` of the network.
        """
        source, target = None if labels is None else self.class_type, target or self.main_type
        description = f"{source or 'prior'} to {target}"
        found = self._decoded(labels, source, target, 1.0, key, description, count)
        if "labels" not in found:
            found["labels"] = np.full(count, inference.NO_CLASS, np.int32)
        return found

    def reconstruct(
        self, images: Images, labels: Labels | None = None, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """`images` to noise and back, and each one's l2 `errors` in units of [-1, 1] (paper C.3).

        Labels None are found by `classify`, where the decoder takes them.
        """
        images = self._encoded(images, self.main_type)
        self._check_generates("reconstruct")
        request = (images, self._condition(images, labels, key))
        found: dict[str, np.ndarray] = self._flow(inference.reconstruct, request, "reconstructing")
        return found

    def _flow(self, function: Any, request: Any, description: str) -> Any:
        variables, target = self.model.variables, self.main_type
        return self._run(function, request, description, variables, target=target)

    def interpolate(
        self, images: Images, labels: Labels | None = None, key: PRNGKeyArray | None = None
    ) -> dict[str, np.ndarray]:
        """`images` from the first of two to the second, `latents`, and `weights` of the second.

        Labels as for `reconstruct`. Both ends are the reconstructions of the images.
        """
        images = self._encoded(images, self.main_type)
        self._check_generates("interpolate")
        if len(images) != 2:
            raise UserError(f"interpolation is between two images, got {len(images)}")
        condition = self._condition(images, labels, key)
        noise = self._flow(inference.invert, (images, condition), "inverting")
        weights, path = interpolation.paths(noise, condition)
        drawn = self._flow(inference.render, path, "interpolating")
        found = {"images": drawn, "weights": weights}
        latents, _ = path[1]
        return found if latents is None else found | {"latents": np.asarray(latents)}

    def context_samples(self, name: str, numbers: Int[np.ndarray, " n"]) -> Any:
        """The samples of a type that inference keeps, such as known texts, by number."""
        kept = np.asarray(self.model.context[f"{name}_tokens"])[numbers]
        return self.space.types[name].decoded(kept)

    def check_pair(self, source: str | None, target: str) -> None:
        """Raises UserError, which names the pairs, for one that the run cannot go between."""
        pairs = self.translations
        targets = {target for _, target in pairs} | set(self.space.decoders)
        if (source, target) not in pairs and not (source is None and target in targets):
            named = ", ".join(" to ".join(pair) for pair in pairs) or "nothing"
            start = "generate" if source is None else f"translate {source} to"
            raise UserError(f"the run does not {start} {target}; it translates {named}")

    def _samples(self, target: str, found: Mapping[str, np.ndarray]) -> Any:
        """Samples of a type among what `decode` finds, as users pass them."""
        data_type = self.space.types[target]
        is_decoded = target in self.space.decoders
        return data_type.decoded(found[data_type.output if is_decoded else "classes"])

    def _decoded(
        self,
        samples: Any,
        source: str | None,
        target: str,
        noise_scale: float,
        key: PRNGKeyArray | None,
        description: str,
        count: int | None = None,
    ) -> dict[str, np.ndarray]:
        """What `inference.decode` returns for encoded samples, or `count` latents of the prior."""
        key, count = key_or_seed(key, self.config.seed), count or len(samples)
        index = np.arange(count)
        request: dict[str, Any] = {"index": index, "latents": None}
        if source is None and self.has_latents:
            latents = self._run(inference.prior, index, "drawing latents", key, name="prior")
            request["latents"] = latents
        elif self.has_latents:
            request["latents"] = self._latents_of(samples, source, noise_scale, key)
        decoder = self.space.decoders.get(target)
        if source is not None and decoder and source in (decoder.condition, self.class_type):
            request["samples"] = samples
        ends = {"source": source, "target": target}
        found: dict[str, np.ndarray] = self._run(
            inference.decode, request, description, self.model, key, **ends
        )
        return found

    def _latents_of(
        self, samples: Any, source: str | None, noise_scale: float, key: PRNGKeyArray | None = None
    ) -> np.ndarray:
        """Latents of encoded samples."""
        assert source is not None
        if not hasattr(self._encoder(source), "latents"):
            anchors = self.space.anchors(self.model.variables, samples, source)
            return self.latents(anchors, noise_scale, key, source=source)
        key, index = key_or_seed(key, self.config.seed), np.arange(len(samples))
        request, arrays = {"samples": samples, "index": index}, (self.model, key, noise_scale)
        latents: np.ndarray = self._run(
            inference.latents_of_samples, request, "zoning", *arrays, source=source
        )
        return latents

    def _condition(self, images: Any, labels: Any, key: PRNGKeyArray | None) -> Condition:
        """Latents at α = 1, as in training, and the condition beside them."""
        latents = self._latents_of(images, self.main_type, 1.0, key) if self.has_latents else None
        of = self.space.decoders[self.main_type].condition
        labels, name = self._checked_labels(labels, len(images)), self.class_type
        if of is None:
            return latents, None
        if labels is None and name is not None:
            labels = self.classify(images).classes
        request = {"latents": latents, "samples": {} if name is None else {name: labels}}
        beside, _ = self._run(inference.condition, request, "finding zones", self.model, name=of)
        return latents, beside

    def _run(
        self, function: Any, examples: Any, description: str, *arrays: Any, **static: Any
    ) -> Any:
        """`function(space, *arrays, examples, **static)`, compiled, on batches of the examples."""
        call = functools.partial(self.space.jitted(function, tuple(static)), *arrays, **static)
        return self.space.in_batches(call, examples, description=description)

    def _encoder(self, name: str) -> Any:
        """The encoder of a type; raises UserError where there is none."""
        encoders = self.space.encoders
        if not encoders:
            raise UserError("a run with latent.enabled=False has no encoder, anchors or latents")
        if name not in encoders:
            raise UserError(f"{name!r} is no data type of the run: {', '.join(encoders)}")
        return encoders[name]

    def _encoded(self, samples: Any, source: str) -> Any:
        """Samples of a data type as its encoder takes them."""
        if source not in self.space.types:
            self._encoder(source)
        data_type: DataType = self.space.types[source]
        return data_type.encoded(data_type.checked(samples))

    @property
    def _study(self) -> str:
        return self.config.study or " and ".join(self.config.types)

    def _check_classifies(self) -> None:
        if not self.classifies:
            objective = self.space.baseline
            reason = f"objective={objective!r} trains" if objective else "it has"
            raise UserError(
                f"a {self._study} study does not classify images: {reason} no zones of labels"
            )

    def _check_generates(self, what: str) -> None:
        main = self.space.types[self.main_type]
        asked, what = what, f"{what} {main.output}"
        if main.decoder is None:
            raise UserError(
                f"a {self._study} study does not {what}: generation and joint studies do"
            )
        if main.name not in self.space.decoders:
            raise UserError(f"cannot {what}: training.generation_weight=0 trained no decoder")
        if asked in ("reconstruct", "interpolate") and not isinstance(main.decoder, Invertible):
            name = type(main.decoder).__name__
            raise UserError(f"cannot {what}: {name} has no invert, render and reconstruct")

    def _checked_labels(self, labels: Any, count: int) -> np.ndarray | None:
        if labels is None or self.class_type is None:
            return None
        found: np.ndarray = self.space.types[self.class_type].checked(labels)
        if len(found) != count:
            raise UserError(f"labels must be {count} integers, one an image, got {found.shape}")
        return found


def _check_count(count: int) -> None:
    if count < 1:
        raise UserError(f"the number of samples must be at least 1, got {count}")
